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

// Recalled is a key, and what memory says of it.
type Recalled struct {
	// KeyID is what to look for. It is not kept.
	KeyID string
	// OK: memory has the answer, and this is it. If not, Lookup must be asked.
	OK     bool
	Answer Answer
}

// Recall is Lookup for those of the keys that memory has the answer for. It is quicker
// for MaxTogether keys than for each by itself.
func (r *Reading) Recall(keys []Recalled) {
	for ; len(keys) > MaxTogether; keys = keys[MaxTogether:] {
		r.recall(keys[:MaxTogether])
	}
	r.recall(keys)
}

func (r *Reading) recall(keys []Recalled) {
	if r.m == nil {
		for i := range keys {
			keys[i].OK = false
		}
		return
	}
	var room [MaxTogether]gotten
	all := room[:len(keys)]
	for i := range keys {
		all[i].keyID = keys[i].KeyID
	}
	r.m.getAll(all, r.now, int64(r.store.opts.MaxTTL))
	for i := range keys {
		k := &keys[i]
		f := k.Answer.from(r.m, r.l, all[i].entry, all[i].found, r.now)
		if k.OK = f == foundEntry || f == foundAbsent; k.OK {
			r.given[k.Answer.Code]++
		}
	}
}

// End counts what was answered.
func (r *Reading) End() {
	for code, n := range r.given {
		if n > 0 {
			r.store.metrics.answers[code][FromCache].Add(float64(n))
		}
	}
}
