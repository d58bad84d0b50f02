package keystore

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/event"
)

// Cursor is a place in one history: the row (seq, event_id) up to which every
// event has been applied.
type Cursor struct {
	Seq int64
	ID  uuid.UUID
}

// noCursor is the cursor of a generation that was never warmed. No log knows it,
// so that nothing read under it can be kept.
var noCursor = Cursor{Seq: -1}

// Source is where the truth about keys lives: Postgres, or a key file.
//
// Every call is answered from the place that acknowledges revocations (for
// Postgres: the primary) and fails with ErrStandby elsewhere. A Source is safe
// for one Fence or Warm at a time beside any number of Fills, and a Fence must
// never have to wait for a Fill.
type Source interface {
	// Kind is "postgres" or "file".
	Kind() string

	// Register enters this process in the list of those that a receipt waits for,
	// and returns how many there are. When it returns nil the entry is durable.
	Register(ctx context.Context, i Incarnation) (fleet int, err error)

	// SignOff takes entries back.
	SignOff(ctx context.Context, registrations []uuid.UUID) error

	// Fence asks, in one snapshot taken after the call began, whether the log
	// still holds the cursor, and for events after it, in order.
	Fence(ctx context.Context, q FenceQuestion) (Page, error)

	// Fill reads one key in one snapshot taken after the call began, together
	// with whether the log holds at and has nothing on that key, its owner, or
	// everything after it (Filled.Clean). use is called once, before Fill returns
	// nil, with bytes that are valid only during that call.
	Fill(ctx context.Context, keyID string, at Cursor, by Membership, use func(Filled)) error

	// FillOwner reads the keys of one owner that have a public key and are neither
	// revoked nor expired, in any order and at most limit of them, in one snapshot
	// taken after the call began. Filled says what it says of one key; its Row is nil,
	// and Clean means that the log has nothing later of the owner, of a key among those
	// read, nor of everything. row is called before FillOwner returns, with bytes that
	// are valid only during that call, until it returns false. What it was called with
	// counts only if the error is nil.
	FillOwner(ctx context.Context, ownerID string, limit int, at Cursor, by Membership, row func(*Row) bool) (Filled, error)

	// Warm reads, in one snapshot taken after the call began, first the head of
	// the log and then up to limit keys. It stops at the first error a callback
	// returns, and returns that. The Row is valid only during the call.
	Warm(ctx context.Context, limit int, head func(Head) error, row func(*Row) error) error

	// Watch blocks until ctx ends and calls changed whenever a fence is likely to
	// find something new. A source that cannot know never calls it.
	Watch(ctx context.Context, changed func()) error

	// Close frees what the source holds. No call may be under way.
	Close()
}

// Incarnation is one start of one process, as it registers.
type Incarnation struct {
	Registration uuid.UUID
	// Failed are registrations of this process whose outcome it never learned.
	Failed []uuid.UUID
	// Starting: this process was never registered. An entry of the same name is then
	// taken for one of its own before it was killed, and marked.
	Starting bool
	Instance string
	Version  string
	// MaxStaleness is L. StaleLimit is 0 under fail_closed.
	MaxStaleness, StaleLimit time.Duration
}

// Membership is by what right a process asks. A question asked without it must not
// be used: nobody would wait for the answer to be over.
type Membership struct {
	// Registration is the process's entry, which must be there and unmarked; or
	// uuid.Nil, and Bound must be allowed to processes that do not register.
	Registration uuid.UUID
	Bound        time.Duration
}

// FenceQuestion is what a fence asks.
type FenceQuestion struct {
	At Cursor
	// Limit is how many events may come back.
	Limit int
	// By: see Membership.
	By Membership
	// Report: put At down as this process's cursor, if it is known and the timeline is
	// still Timeline.
	Report   bool
	Timeline string
}

// Page is a fence's answer.
type Page struct {
	// Member: the membership held in this snapshot. If not, only Known says
	// anything.
	Member bool
	// Reported: the cursor asked from was put down, if the question wanted that and
	// the log knows it.
	Reported bool
	// Fleet is how many processes are registered; 0 if the source did not say.
	Fleet int
	// Known: the log holds the cursor that was asked from. If not, the other
	// fields say nothing.
	Known bool
	// Timeline changes when the log may have been cut short and grown anew
	// (Postgres: promotion of a standby).
	Timeline string
	// Time is the source's wall clock when it took the snapshot.
	Time time.Time
	// CaptureIntact: nothing that should write to the log has been switched off.
	CaptureIntact bool
	// Events after the cursor, in order, without holes other than those the
	// numbering has. Full says there may be more.
	Events []event.Event
	Full   bool
}

// Head is the end of the log as a warm's snapshot shows it.
type Head struct {
	Cursor   Cursor
	Timeline string
	// CaptureIntact: see Page.
	CaptureIntact bool
	// Keys estimates how many rows follow, for progress reports; 0 if unknown.
	Keys int64
}

// Filled is a fill's answer.
type Filled struct {
	// Row is nil for a key the source does not have.
	Row *Row
	// Known: the log holds the cursor that was asked with. Clean: it does, and has
	// nothing later about this key.
	Known, Clean bool
	// Member: see Page.
	Member   bool
	Timeline string
	Time     time.Time
}

// Errors a Source reports by name; anything else is "the source did not answer".
var (
	// ErrStandby: a server in recovery answered. Its state may be old.
	ErrStandby = errors.New("the server is a standby, or read from one")
	// ErrAmbiguous: the relation has several rows for one key_id.
	ErrAmbiguous = errors.New("the relation has more than one row for this key_id")
	// ErrBadRow: a row breaks the rules that Key.Check states.
	ErrBadRow = errors.New("the relation has a row that cannot be used")
	// ErrSchema: tables, columns or rights are missing, or of another version.
	ErrSchema = errors.New("the database is not ready for keysidecar")
)
