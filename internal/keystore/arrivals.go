package keystore

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/event"
)

const (
	// arrivalsKept bounds what is remembered of messages and of fenced events.
	arrivalsKept = 4096
	// arrivalGrace is how long after a fence brought an event its message may
	// still come before the queue is called behind.
	arrivalGrace = 100 * time.Millisecond
)

// arrivals compares what the queue delivered with what fences brought. A binding
// that was removed gives no signal of its own: events that only fences bring are
// how it shows. It is a matter of speed, never of truth.
type arrivals struct {
	// behind is called after the grace period with the number of events that came
	// by a fence alone.
	behind func(missing int)

	mu      sync.Mutex
	seen    map[uuid.UUID]struct{}
	order   [arrivalsKept]uuid.UUID // ring of what is in seen
	at      int
	waiting []uuid.UUID
	timer   *time.Timer
	stopped bool
}

func newArrivals(behind func(int)) *arrivals {
	return &arrivals{behind: behind, seen: make(map[uuid.UUID]struct{})}
}

// delivered notes a message.
func (a *arrivals) delivered(id uuid.UUID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, again := a.seen[id]; again {
		return
	}
	delete(a.seen, a.order[a.at])
	a.order[a.at] = id
	a.at = (a.at + 1) % arrivalsKept
	a.seen[id] = struct{}{}
}

// fenced notes events that a fence brought, and checks on them a little later.
// Of a very long page the tail is enough.
func (a *arrivals) fenced(events []event.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	room := arrivalsKept/2 - len(a.waiting)
	for _, e := range events[max(0, len(events)-room):] {
		a.waiting = append(a.waiting, e.ID)
	}
	if a.timer == nil && len(a.waiting) > 0 && !a.stopped {
		a.timer = time.AfterFunc(arrivalGrace, a.check)
	}
}

func (a *arrivals) check() {
	a.mu.Lock()
	missing := 0
	for _, id := range a.waiting {
		if _, ok := a.seen[id]; !ok {
			missing++
		}
	}
	a.waiting, a.timer = a.waiting[:0], nil
	stopped := a.stopped
	a.mu.Unlock()
	if missing > 0 && !stopped {
		a.behind(missing)
	}
}

func (a *arrivals) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	if a.timer != nil {
		a.timer.Stop()
	}
}
