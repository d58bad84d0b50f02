package keystore

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/event"
)

// activityKept is how many events a status page can show.
const activityKept = 64

// Applied is one event as this process first heard of it, for status pages.
type Applied struct {
	Seq  int64
	Kind event.Kind
	// KeyID or OwnerID is what it was about; the other is empty. (A key's event names
	// its owner, too, in the log; here that is left out.)
	KeyID, OwnerID string
	// ByQueue: a message brought it; otherwise a fence did.
	ByQueue bool
	// OccurredAt is the database's wall clock, AppliedAt this machine's, when memory
	// had been changed.
	OccurredAt, AppliedAt time.Time
}

// activity remembers the events applied last, each once.
type activity struct {
	mu     sync.Mutex
	ids    [activityKept]uuid.UUID
	events [activityKept]Applied
	next   int
}

// note remembers an event unless it is remembered already.
func (a *activity) note(e *event.Event, byQueue bool) {
	now := time.Now() //nolint:forbidigo // shown to people; decides nothing
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.ids {
		if a.ids[i] == e.ID {
			return
		}
	}
	applied := Applied{Seq: e.Seq, Kind: e.Kind, KeyID: e.KeyID, ByQueue: byQueue, OccurredAt: e.OccurredAt, AppliedAt: now}
	if e.KeyID == "" {
		applied.OwnerID = e.OwnerID
	}
	a.ids[a.next], a.events[a.next] = e.ID, applied
	a.next = (a.next + 1) % activityKept
}

// Activity returns the events applied last, newest first. It is what this process
// heard, not the log: a forged message is in it, too.
func (s *Store) Activity() []Applied {
	a := &s.activity
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]Applied, 0, activityKept)
	for i := range activityKept {
		e := a.events[(a.next+activityKept-1-i)%activityKept]
		if e.Kind != "" {
			list = append(list, e)
		}
	}
	return list
}
