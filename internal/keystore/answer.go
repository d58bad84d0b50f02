package keystore

import (
	"errors"
	"time"
)

// Code is a verdict on a key by itself. The server adds the verdicts that depend
// on what was asked (owner_mismatch, scope_missing, ...).
type Code uint8

const (
	// Unavailable: cannot tell. The zero value, so that a forgotten assignment can
	// never be read as a valid key.
	Unavailable Code = iota
	Active
	UnknownKey
	Revoked
	Expired
	NotYetValid
	OwnerSuspended
)

// String returns the code as the HTTP contract spells it.
func (c Code) String() string {
	switch c {
	case Active:
		return "active"
	case UnknownKey:
		return "unknown_key"
	case Revoked:
		return "revoked"
	case Expired:
		return "expired"
	case NotYetValid:
		return "not_yet_valid"
	case OwnerSuspended:
		return "owner_suspended"
	case Unavailable:
	}
	return "unavailable"
}

// Origin says where an answer came from.
type Origin uint8

const (
	// FromCache: memory, under the lease.
	FromCache Origin = iota
	// FromDatabase: read from the store for this request or one that shared it.
	FromDatabase
	// FromStale: memory after the lease, under on_stale: serve_stale.
	FromStale
)

// String returns the origin as the HTTP contract's "source" spells it.
func (o Origin) String() string {
	switch o {
	case FromDatabase:
		return "database"
	case FromStale:
		return "stale"
	case FromCache:
	}
	return "cache"
}

// AsOf says which state of the log an answer reflects: at least every event up
// to Seq of History.
type AsOf struct {
	// History names the line of events; another name after a rewritten log.
	History string
	// Seq is the cursor: every event up to it has been applied.
	Seq int64
	// Age is the time since the question that proved it was sent.
	Age time.Duration
}

// Answer is what Lookup found. It holds no reference into the cache that later
// changes could reach.
type Answer struct {
	Code   Code
	Origin Origin
	AsOf   AsOf
	// Record is the key itself; IsZero for UnknownKey and Unavailable.
	Record Record
}

// Bounds is what one caller asks beyond the store's own promise. The zero value
// asks for nothing more.
type Bounds struct {
	// NoCache: answer only by a fence or a read begun after this call
	// (Cache-Control: no-cache).
	NoCache bool
	// MaxAge, if HasMaxAge: answer only by a fence or a read begun less than
	// MaxAge ago. It can shorten the lease, never extend it.
	MaxAge    time.Duration
	HasMaxAge bool
	// OnlyIfCached: answer from memory at once or return ErrNotCached.
	OnlyIfCached bool
	// AtOnce: answer from memory at once or return ErrNotAtOnce, having counted nothing:
	// the caller asks again where it may wait.
	AtOnce bool
}

// ErrNotAtOnce: AtOnce was asked and the answer has to be waited for.
var ErrNotAtOnce = errors.New("the answer has to be waited for")

// ErrNotCached: OnlyIfCached was asked and memory has no answer within bounds.
var ErrNotCached = errors.New("no answer in memory within the bounds asked for")

// UnavailableError is why Lookup cannot tell. Reason comes from the closed set
// below, fit for a metric's label; Err, which may be nil, is for the log only.
type UnavailableError struct {
	Reason Reason
	Err    error
}

// Reason is a cause of unavailability.
type Reason string

const (
	// ReasonUnregistered: receipts do not wait for this process yet, so it must not
	// ask.
	ReasonUnregistered Reason = "unregistered"
	// ReasonWarming: the first warm is not done.
	ReasonWarming Reason = "warming"
	// ReasonLeaseOver: no fence has succeeded for max_staleness.
	ReasonLeaseOver Reason = "lease_over"
	// ReasonFillFailed: the store did not answer, or answered too late.
	ReasonFillFailed Reason = "fill_failed"
	// ReasonFillLimit: max_fills reads are under way already.
	ReasonFillLimit Reason = "fill_limit"
	// ReasonMissRate: miss_rate reads have been made this second.
	ReasonMissRate Reason = "miss_rate"
	// ReasonStopping: the daemon is shutting down.
	ReasonStopping Reason = "stopping"
)

func (e *UnavailableError) Error() string {
	if e.Err == nil {
		return "unavailable: " + string(e.Reason)
	}
	return "unavailable: " + string(e.Reason) + ": " + e.Err.Error()
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Status is a store's state at one moment, for status pages and probes.
type Status struct {
	// Warmed: a warm has been adopted since the process started.
	Warmed bool
	// Fresh: the lease runs; answers come from memory.
	Fresh bool
	// ServesStale: policy and state allow stale answers right now.
	ServesStale bool
	// Complete: absence from memory is an answer by itself.
	Complete bool
	// CaptureIntact: the last fence found every capture trigger in place.
	CaptureIntact bool
	AsOf          AsOf
	// LeaseRemaining is never negative.
	LeaseRemaining time.Duration
	MaxStaleness   time.Duration
	// StaleLimit is zero under fail_closed.
	StaleLimit time.Duration
	// Entries counts keys in memory; Marks those among them that say "ask the
	// store"; Negative the remembered unknown keys.
	Entries, Marks, Negative int
	Capacity                 int
	// StoreKind is "postgres" or "file".
	StoreKind string
	// LastFenceError is a category, empty after success.
	LastFenceError string
	// FenceTook is how long the last answer to a fence took; 0 before the first.
	FenceTook time.Duration
	// Announced is the highest number of an event that a message has named since the
	// last complete fence; 0 if none has. It is hearsay.
	Announced int64
	Audit     AuditStatus
}

// MaxPromise returns the longest time for which a revoked key can be accepted
// after its revocation was acknowledged: L of the promise.
func (s *Status) MaxPromise() time.Duration {
	return max(s.MaxStaleness, s.StaleLimit)
}
