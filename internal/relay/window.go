package relay

import (
	"container/heap"
	"time"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// Bounds of what a leader keeps in mind besides the events in flight.
const (
	maxRefused = 10000  // refused events that wait for another attempt
	maxOpen    = 100000 // events past the mark, most of them done
)

// item is an event on its way.
type item struct {
	event    event.Event
	body     []byte // nil once done
	window   *window
	refusals int
	due      clock.Instant // of the next attempt, while it waits for one
	sent     clock.Instant
	state    state
}

type state uint8

const (
	ready    state = iota // to be published
	inFlight              // published, not yet confirmed
	waiting               // refused, to be published later
	confirmed
	givenUp
)

// window is what a leader has read and not yet marked. It is plain data, used by
// one goroutine.
type window struct {
	open    []*item // oldest first
	done    int     // how many at the front of open are done
	ready   bySeq
	refused byDue
	marked  int64 // the mark in the database
	read    int64 // the newest event read; what comes after it is read next
	prev    int64 // the event before the next one to be read, -1 if none
}

func newWindow(marked, prev int64) *window {
	return &window{marked: marked, read: marked, prev: prev}
}

// room is how many more events may be read.
func (w *window) room(unconfirmed, batch int) int {
	return max(0, min(batch-unconfirmed-len(w.ready), maxOpen-len(w.open)))
}

// push adds an event that was read. A nil body means that it cannot be sent.
func (w *window) push(e event.Event, body []byte) {
	it := &item{event: e, body: body, window: w}
	w.open = append(w.open, it)
	w.read, w.prev = e.Seq, e.Seq
	if body == nil {
		it.state = givenUp
		return
	}
	heap.Push(&w.ready, it)
}

// next returns the event to be published next; nil if there is none.
func (w *window) next() *item {
	if len(w.ready) == 0 {
		return nil
	}
	return w.ready[0]
}

// sending notes that next's event was handed to the publisher.
func (w *window) sending() {
	heap.Pop(&w.ready).(*item).state = inFlight
}

// confirm notes that the broker has the event.
func (w *window) confirm(it *item) { it.state, it.body = confirmed, nil }

// unknown notes that nobody can say whether the broker has the event.
func (w *window) unknown(it *item) {
	it.state = ready
	heap.Push(&w.ready, it)
}

// refuse notes that the broker would not take the event for all queues; it is
// tried again at due, or given up (false) if not again.
func (w *window) refuse(it *item, again bool, due clock.Instant) bool {
	if !again || len(w.refused) >= maxRefused {
		it.state, it.body = givenUp, nil
		return false
	}
	it.state, it.due = waiting, due
	heap.Push(&w.refused, it)
	return true
}

// retry makes refused events ready whose time has come, and returns how long it
// is until the next one's; ok is false if none waits.
func (w *window) retry(now clock.Instant) (next time.Duration, ok bool) {
	for len(w.refused) > 0 && !now.Before(w.refused[0].due) {
		w.unknown(heap.Pop(&w.refused).(*item))
	}
	if len(w.refused) == 0 {
		return 0, false
	}
	return w.refused[0].due.Sub(now), true
}

// markable returns the seq that the mark can move to: the newest event such that
// it and all before it are done. It is the mark itself if it cannot move.
func (w *window) markable() int64 {
	for w.done < len(w.open) && w.open[w.done].state >= confirmed {
		w.done++
	}
	if w.done == 0 {
		return w.marked
	}
	return w.open[w.done-1].event.Seq
}

// advance moves the mark to seq and returns the events it passed.
func (w *window) advance(seq int64) (passed []*item) {
	n := 0
	for n < len(w.open) && w.open[n].event.Seq <= seq {
		n++
	}
	passed, w.open = w.open[:n:n], w.open[n:]
	w.done = max(0, w.done-n)
	w.marked = seq
	return passed
}

type bySeq []*item

func (h bySeq) Len() int           { return len(h) }
func (h bySeq) Less(i, j int) bool { return h[i].event.Seq < h[j].event.Seq }
func (h bySeq) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *bySeq) Push(x any)        { *h = append(*h, x.(*item)) }
func (h *bySeq) Pop() any          { return popLast((*[]*item)(h)) }

type byDue []*item

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due < h[j].due }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byDue) Push(x any)        { *h = append(*h, x.(*item)) }
func (h *byDue) Pop() any          { return popLast((*[]*item)(h)) }

func popLast(s *[]*item) *item {
	last := (*s)[len(*s)-1]
	(*s)[len(*s)-1] = nil
	*s = (*s)[:len(*s)-1]
	return last
}
