package load

import (
	"container/heap"
	"hash/fnv"
	"time"
)

const (
	// slowly is how often a key is asked for that was refused, or whose turn has not
	// come.
	slowly = int64(250 * time.Millisecond)
	// armed is how often before the revocation.
	armed = int64(100 * time.Millisecond)
	// after is for how long a key is asked for when its bound is over.
	after = int64(time.Second)
	// lingers is for how long if nothing was answered since.
	lingers = int64(time.Minute)
)

// item is a watched key as one worker sees it.
type item struct {
	*Watched
	due int64
	at  int // in the heap
	// denied: the last answer was a refusal to a request sent after the change;
	// past: an answer came to a request sent after the bound.
	denied, past bool
}

// schedule is which watched key a worker asks for next.
type schedule struct {
	watch         *Watch
	seen          int
	mine, workers uint32
	// every and atMost are how often a revoked key is asked for until it is refused.
	every, atMost, bound int64

	items map[*Watched]*item
	queue queue
}

// take notes what has changed in the watch.
func (s *schedule) take(now int64) {
	changes := s.watch.since(s.seen)
	s.seen += len(changes)
	for _, k := range changes {
		h := fnv.New32a()
		_, _ = h.Write([]byte(k.keyID))
		if h.Sum32()%s.workers != s.mine {
			continue
		}
		it := s.items[k]
		if it == nil {
			it = &item{Watched: k, due: now}
			s.items[k] = it
			heap.Push(&s.queue, it)
			continue
		}
		it.due = now
		heap.Fix(&s.queue, it.at)
	}
}

// first returns the key that is due first, nil if there is none.
func (s *schedule) first() *item {
	if len(s.queue) == 0 {
		return nil
	}
	return s.queue[0]
}

// asked notes an answer (or a failure) for it, and when to ask again, if ever.
func (s *schedule) asked(it *item, sentAt, now int64, answered, valid bool) {
	sent, acked := it.sent.Load(), it.acked.Load()
	switch {
	case !answered || sent == 0 || sentAt < sent:
	case valid:
		it.denied = false
	default:
		it.denied = true
	}
	it.past = it.past || answered && acked > 0 && sentAt > acked+s.bound
	if s.over(it, sent, acked, now) {
		heap.Remove(&s.queue, it.at)
		delete(s.items, it.Watched)
		return
	}
	switch {
	case sent == 0:
		it.due = now + armed
	case it.denied:
		it.due = now + slowly
	default:
		it.due = now + min(max(s.every, (now-sent)/8), s.atMost)
	}
	heap.Fix(&s.queue, it.at)
}

func (s *schedule) over(it *item, sent, acked, now int64) bool {
	if acked == 0 {
		return it.over.Load() && now > sent+s.bound+after
	}
	return now > acked+s.bound+after && (it.past || now > acked+s.bound+lingers)
}

// queue is a heap.Interface, the key that is due first on top.
type queue []*item

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push is for package heap.
func (q *queue) Push(x any) {
	it := x.(*item)
	it.at = len(*q)
	*q = append(*q, it)
}

// Pop is for package heap.
func (q *queue) Pop() any {
	old := *q
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return it
}
