package history

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the nanoseconds of CLOCK_BOOTTIME.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("history: the kernel has no CLOCK_BOOTTIME: " + err.Error())
	}
	return ts.Nano()
}

// Record is one of *Meta, *Incarnation, *Request, *Issue, *Revocation, *Restore,
// *Receipt and *Fault.
type Record interface{ kind() kind }

// Meta says what was run. It is the first record.
type Meta struct {
	Seed uint64
	// MaxStaleness is L, the bound that revocations are held to.
	MaxStaleness time.Duration
	// FenceInterval is how often sidecars ask Postgres by themselves.
	FenceInterval time.Duration
	// Version is the program's, Command how the run was started.
	Version, Command string
	// Started is the wall-clock time, Began the time on the run's own clock.
	Started time.Time
	Began   int64
}

// Incarnation is one start of a sidecar. It is written when the process is
// started, with Ended 0, and again when it has ended.
type Incarnation struct {
	Name string
	// Process numbers the start; no two starts of a run have the same.
	Process      int
	Began, Ended int64
	// Bound is this process's own L if it is not the run's: another
	// max_staleness, or a stale_limit. 0: Meta.MaxStaleness.
	Bound time.Duration
}

// Request is a question for one key and its answer.
type Request struct {
	// Process is the incarnation that was asked.
	Process int
	KeyID   string
	// SentAt was read before the request's first byte was written, DoneAt after the
	// answer's last was read.
	SentAt, DoneAt int64
	// Status, Valid and Code are the answer's. Without an answer Code says why.
	Status int
	Code   string
	Valid  bool
	// History, Seq and AgeMS are the answer's as_of; empty and 0 if it has none.
	History string
	Seq     int64
	AgeMS   int64
	// Source is "cache", "database", "stale" or empty.
	Source string
	// Failed: there was no answer (refused, cut, timed out, unreadable).
	Failed bool
}

// Issue is a key's acknowledged creation.
type Issue struct {
	KeyID   string
	AckedAt int64
}

// Revocation is a change after which the key must not be accepted, in whatever
// way it was made.
type Revocation struct {
	KeyID string
	// Way says how: update, function, delete, suspend, rename.
	Way string `json:",omitempty"`
	// SentAt was read before the change was sent, AckedAt after its commit was
	// acknowledged. AckedAt 0: whether it was committed is not known; no claim.
	SentAt, AckedAt int64
	// Seq is the event's number, 0 if it is not known.
	Seq int64
}

// Restore ends the claims about a key: from SentAt on it may be valid again.
type Restore struct {
	KeyID  string
	SentAt int64
	// AckedAt is when the change was acknowledged, 0 if that is not known.
	AckedAt int64 `json:",omitempty"`
}

// Receipt is the answer to the question whether a revocation is over.
type Receipt struct {
	KeyID string
	Seq   int64
	// AskedAt was read before the question was first sent, CompleteAt after a
	// complete receipt was read: 0 if none came.
	AskedAt, CompleteAt int64
	// Acknowledged and Expired count the incarnations that said so and those whose
	// bound had passed.
	Acknowledged, Expired int
}

// Fault is something that was broken on purpose. It is written when it is over,
// or with EndedAt 0 if it never was. A second one with the same Kind and BeganAt
// replaces the first.
type Fault struct {
	Kind string
	// Process are the incarnations that it can touch; empty means all.
	Process          []int
	BeganAt, EndedAt int64
	Parameters       string `json:",omitempty"` // for people
}

type kind byte

const (
	kindRequest kind = 1 + iota
	kindMeta
	kindIncarnation
	kindIssue
	kindRevocation
	kindRestore
	kindReceipt
	kindFault
	kindEnd
)

// end is the last record: how many there are before it.
type end struct{ Records int64 }

func (*Request) kind() kind     { return kindRequest }
func (*Meta) kind() kind        { return kindMeta }
func (*Incarnation) kind() kind { return kindIncarnation }
func (*Issue) kind() kind       { return kindIssue }
func (*Revocation) kind() kind  { return kindRevocation }
func (*Restore) kind() kind     { return kindRestore }
func (*Receipt) kind() kind     { return kindReceipt }
func (*Fault) kind() kind       { return kindFault }
func (*end) kind() kind         { return kindEnd }
