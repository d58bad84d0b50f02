package relay

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// Whatever order results come in: no event is passed by the mark before it is
// done, none is forgotten, and what is ready goes out oldest first.
func TestMarkNeverPassesAnEventThatIsNotDone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWindow(0, 0)
		now := clock.Instant(0)
		finished := map[int64]bool{}
		flying := map[int64]*item{}
		seq := int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				seq += int64(rapid.IntRange(1, 3).Draw(t, "hole"))
				body := []byte("x")
				if rapid.IntRange(0, 9).Draw(t, "unsendable") == 0 {
					body, finished[seq] = nil, true
				}
				w.push(event.Event{Seq: seq, Prev: w.prev}, body)
			case 1:
				if it := w.next(); it != nil {
					for _, other := range w.ready {
						if other.event.Seq < it.event.Seq {
							t.Fatalf("%d goes before %d", it.event.Seq, other.event.Seq)
						}
					}
					w.sending()
					flying[it.event.Seq] = it
				}
			case 2, 3:
				for s, it := range flying {
					delete(flying, s)
					switch rapid.IntRange(0, 3).Draw(t, "result") {
					case 0:
						w.unknown(it)
					case 1:
						it.refusals++
						if !w.refuse(it, it.refusals < 3, now.Add(time.Duration(it.refusals))) {
							finished[s] = true
						}
					default:
						w.confirm(it)
						finished[s] = true
					}
					break
				}
			case 4:
				now++
				w.retry(now)
			case 5:
				was := w.marked
				to := w.markable()
				for _, it := range w.advance(to) {
					if !finished[it.event.Seq] {
						t.Fatalf("the mark passed %d", it.event.Seq)
					}
				}
				if w.marked < was || len(w.open) > 0 && finished[w.open[0].event.Seq] {
					t.Fatalf("the mark went from %d to %d", was, w.marked)
				}
			}
		}
		// With every result good, everything gets done.
		for range 1000 {
			now += 100
			w.retry(now)
			if w.next() != nil {
				flying[w.next().event.Seq] = w.next()
				w.sending()
			}
			for s, it := range flying {
				w.confirm(it)
				delete(flying, s)
			}
		}
		if w.markable() != seq || w.room(0, 10) != 10 {
			t.Fatalf("stuck at %d of %d", w.markable(), seq)
		}
	})
}

func TestRefusedEventsAreNotHeldWithoutBound(t *testing.T) {
	w := newWindow(0, 0)
	for seq := range int64(maxRefused + 5) {
		w.push(event.Event{Seq: seq + 1}, []byte("x"))
		it := w.next()
		w.sending()
		if kept := w.refuse(it, true, 1); kept != (seq < maxRefused) {
			t.Fatalf("event %d: kept %v", seq, kept)
		}
	}
}
