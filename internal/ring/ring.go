// Package ring holds the last few of many things.
package ring

import "sync"

// Ring remembers the last things that were added, in a fixed amount of memory. It may
// be used by several at once.
type Ring[T any] struct {
	mu    sync.Mutex
	items []T
	next  int
	full  bool
}

// New returns a ring of n, which must be positive.
func New[T any](n int) *Ring[T] { return &Ring[T]{items: make([]T, n)} }

// Add remembers item, and forgets the oldest if there is no room.
func (r *Ring[T]) Add(item T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items[r.next] = item
	if r.next++; r.next == len(r.items) {
		r.next, r.full = 0, true
	}
}

// Items returns a copy of what is remembered, oldest first.
func (r *Ring[T]) Items() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.full {
		return append([]T(nil), r.items[:r.next]...)
	}
	return append(append(make([]T, 0, len(r.items)), r.items[r.next:]...), r.items[:r.next]...)
}
