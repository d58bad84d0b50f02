package receipt

import (
	"slices"
	"sync"
	"time"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// endedKept is how many waits that are over a status page can show.
const endedKept = 8

// Progress is one wait for a receipt, for status pages.
type Progress struct {
	Target Target
	// Kind is the event's, empty until the primary has been read.
	Kind string
	// Acknowledged, Expired and Awaited count the sidecars, as of the last read.
	Acknowledged, Expired, Awaited int
	// Done: the wait is over. Complete: so is the revocation.
	Done, Complete bool
	// Waited is how long it has taken, Left how much longer at most, as of the last
	// read.
	Waited, Left time.Duration
}

// desk remembers the waits under way, and the last ones that are over. Its zero value
// is ready.
type desk struct {
	mu    sync.Mutex
	waits []*wait // under way, oldest first
	ended [endedKept]*wait
	next  int
}

// wait is one call of Waiter.Wait; the desk's lock guards it.
type wait struct {
	progress Progress
	begun    clock.Instant
}

func (d *desk) open(t Target, now clock.Instant) *wait {
	w := &wait{progress: Progress{Target: t}, begun: now}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waits = append(d.waits, w)
	return w
}

func (d *desk) see(w *wait, r *Receipt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &w.progress
	p.Kind, p.Complete, p.Left = r.Kind, r.Complete, r.Left
	p.Acknowledged, p.Expired, p.Awaited = len(r.Acknowledged), len(r.Expired), len(r.Missing)
}

func (d *desk) close(w *wait, now clock.Instant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.progress.Done, w.progress.Waited = true, now.Sub(w.begun)
	d.waits = slices.DeleteFunc(d.waits, func(o *wait) bool { return o == w })
	d.ended[d.next] = w
	d.next = (d.next + 1) % endedKept
}

// Progress returns the waits under way, oldest first, and then the last ones that are
// over, newest first.
func (w *Waiter) Progress() []Progress {
	now := w.Clock.Now()
	d := &w.desk
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Progress, 0, len(d.waits)+endedKept)
	for _, o := range d.waits {
		p := o.progress
		p.Waited = now.Sub(o.begun)
		list = append(list, p)
	}
	for i := range endedKept {
		if e := d.ended[(d.next+endedKept-1-i)%endedKept]; e != nil {
			list = append(list, e.progress)
		}
	}
	return list
}
