package keystore

import "github.com/keysidecar/keysidecar/internal/clock"

// Reading answers many look-ups of one request from memory: the clock is read and
// the lease checked once, before the first entry is read, which is the order that the
// promise needs for each of them. The zero Reading knows nothing.
type Reading struct {
	store *Store
	m     *memory // nil: no lease covers the request
	l     *lease
	now   clock.Instant
	given [OwnerSuspended + 1]int
}

// Read begins a Reading for a request that has arrived, within the bounds of all its
// look-ups. End must be called after the last of them.
func (s *Store) Read(b Bounds) Reading {
	now := s.clock.Now()
	m := s.mem.Load()
	l := m.lease.Load()
	if !l.covers(now, notBefore(now, b)) {
		return Reading{}
	}
	return Reading{store: s, m: m, l: l, now: now}
}

// Recall is Lookup, if memory has the answer; ok is false if it has not, and Lookup
// must be asked. keyID is not kept.
func (r *Reading) Recall(keyID string) (a Answer, ok bool) {
	if r.m == nil {
		return Answer{}, false
	}
	a, f := r.store.recall(r.m, r.l, keyID, r.now)
	if f != foundEntry && f != foundAbsent {
		return Answer{}, false
	}
	r.given[a.Code]++
	return a, true
}

// End counts what was answered.
func (r *Reading) End() {
	for code, n := range r.given {
		if n > 0 {
			r.store.metrics.answers[code][FromCache].Add(float64(n))
		}
	}
}
