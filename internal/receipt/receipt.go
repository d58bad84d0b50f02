package receipt

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Target says which event a receipt is for: the newest that ended a key or changed
// an owner, or one by its number. One of the three is set.
type Target struct {
	KeyID   string
	OwnerID string
	// Seq, if HasSeq, is the event's number.
	Seq    int64
	HasSeq bool
}

// State is what one snapshot of the primary shows of an event and the registry.
type State struct {
	Seq     int64
	EventID uuid.UUID
	// Kind is one of event.Kinds.
	Kind           string
	KeyID, OwnerID string
	Actor          string
	// OccurredAt is the database's time when the row was changed. CommittedAt is the
	// time of the commit, and zero unless the server keeps it (track_commit_timestamp).
	OccurredAt, CommittedAt time.Time
	// Superseded: the key was issued again, or its revocation undone, since.
	Superseded bool
	// Acknowledged names the incarnations that have reported the event.
	Acknowledged []string
	// Awaited are those that have not.
	Awaited []Awaited
	// Registry identifies the registry that was read; it begins with the server's
	// timeline and a slash.
	Registry string
	// Trusted is the registry that is known to be complete; while it is another one,
	// Wait holds the longest bound.
	Trusted string
	// Wait must pass in any case: for sidecars that do not register, or for a
	// registry that may have lost some.
	Wait time.Duration
}

// Awaited is a registered sidecar that has not reported an event.
type Awaited struct {
	Instance string
	// Bound is how long after a question it may still answer by what it was told.
	Bound time.Duration
}

// Receipt is the answer to a revocation.
type Receipt struct {
	State
	// Complete: no sidecar accepts by the state before the event any more.
	Complete bool
	// Elapsed is the time since the waiter first knew the event committed.
	Elapsed time.Duration
	// Expired names the awaited incarnations whose bound has passed; Missing those
	// whose bound has not.
	Expired, Missing []string
	// Left is after how much more time the receipt is complete even if nobody
	// reports.
	Left time.Duration
}

// lost: registrations may be missing, and whatever was seen before may be undone.
func (s *State) lost() bool { return s.Registry != s.Trusted }

// overtakes reports whether what was waited for at the time of was does not count any
// more: a promotion or a restore may have lost changes that came after the event and
// that sidecars have read. What they hold is then older than the event again, and
// begins only now to be over.
func (s *State) overtakes(was *State) bool {
	return s.Registry != was.Registry || s.lost() && s.Trusted != was.Trusted
}

// timeline is the server's, of the snapshot.
func (s *State) timeline() string {
	timeline, _, _ := strings.Cut(s.Registry, "/")
	return timeline
}

// judge says what s means to a waiter who has known the event for elapsed.
func (s *State) judge(elapsed time.Duration) Receipt {
	r := Receipt{State: *s, Elapsed: elapsed, Left: max(0, s.Wait-elapsed)}
	for _, a := range s.Awaited {
		if elapsed >= a.Bound {
			r.Expired = append(r.Expired, a.Instance)
			continue
		}
		r.Missing = append(r.Missing, a.Instance)
		r.Left = max(r.Left, a.Bound-elapsed)
	}
	r.Complete = r.Left == 0
	return r
}

// next is when something may change even if nobody reports.
func (s *State) next(elapsed time.Duration) (time.Duration, bool) {
	var ends []time.Duration
	if s.Wait > elapsed {
		ends = append(ends, s.Wait-elapsed)
	}
	for _, a := range s.Awaited {
		if a.Bound > elapsed {
			ends = append(ends, a.Bound-elapsed)
		}
	}
	if len(ends) == 0 {
		return 0, false
	}
	return slices.MinFunc(ends, cmp.Compare), true
}

// Errors of a Reader and a Waiter; anything else is "the primary did not answer".
var (
	// ErrNoEvent: the log has no such event, or of a key nothing but its issue. Events
	// past relay.retention are deleted.
	ErrNoEvent = errors.New("the log has no change of this")
	// ErrLost: the event that the waiter saw is not in the log any more.
	ErrLost = errors.New("the event is gone from the log: the database was rewound, and the change with it (or it was past relay.retention); look at the key, and change it again if need be")
	// ErrNoRegistry: the store is not a database, so there is no fleet to ask.
	ErrNoRegistry = errors.New("the store has no registry of sidecars")
)
