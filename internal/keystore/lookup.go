package keystore

import (
	"context"
	"time"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// Lookup says whether the key may be used. The error is nil, or ErrNotCached, or
// ErrNotAtOnce, or an *UnavailableError; in the last case the Answer has the code Unavailable.
//
// keyID is not kept, so it may share memory with a request's buffer. A cached
// answer allocates nothing.
//
// The order inside is the promise (S1, S4): the clock is read after the request
// arrived, then the lease is checked, and only then the entry is read, all in
// one memory.
func (s *Store) Lookup(ctx context.Context, keyID string, b Bounds) (Answer, error) {
	now := s.clock.Now()
	m := s.mem.Load()
	l := m.lease.Load()
	if l.covers(now, notBefore(now, b)) {
		if a, f := s.recall(m, l, keyID, now); f == foundEntry || f == foundAbsent {
			s.metrics.lookup(a)
			return a, nil
		}
	}
	if b.AtOnce {
		return Answer{}, ErrNotAtOnce
	}
	a, err := s.lookupSlow(ctx, keyID, b, now)
	if err != nil {
		a = Answer{AsOf: a.AsOf}
		s.metrics.unavailable(err)
		return a, err
	}
	s.metrics.lookup(a)
	return a, nil
}

// notBefore is the earliest moment at which the question behind an answer may
// have been asked, by the caller's own bounds. A max-age of zero can only be met
// by a question asked from now on; see lookupSlow.
func notBefore(now clock.Instant, b Bounds) clock.Instant {
	switch {
	case b.NoCache || (b.HasMaxAge && b.MaxAge <= 0):
		return now
	case b.HasMaxAge:
		// A longer life than the machine's uptime is no bound at all.
		return max(0, now.Add(-b.MaxAge)+1)
	}
	return 0
}

// recall answers from m, whose lease l the caller has found to cover now.
func (s *Store) recall(m *memory, l *lease, keyID string, now clock.Instant) (a Answer, f found) {
	e, f := m.get(keyID, now, int64(s.opts.MaxTTL))
	f = a.from(m, l, e, f, now)
	return a, f
}

// from makes a the answer to what was found in m, if that is one. It returns f, or
// what has become of it.
func (a *Answer) from(m *memory, l *lease, e entry, f found, now clock.Instant) found {
	if f == foundNothing || f == foundMark {
		return f
	}
	code := UnknownKey
	if f == foundEntry {
		owner := e.owner.get()
		if owner == ownerAsk { // marked since
			return foundMark
		}
		code = l.now.judge(e.rec, owner, now)
	}
	*a = Answer{Code: code, Record: e.rec, AsOf: AsOf{History: m.history, Seq: l.seq, Age: now.Sub(l.asked)}}
	return f
}

// lookupSlow is Lookup when memory had no answer at once: it waits for a fence
// where memory would have one then, and reads the key where not.
func (s *Store) lookupSlow(ctx context.Context, keyID string, b Bounds, arrived clock.Instant) (Answer, error) {
	deadline := arrived.Add(s.opts.FillTimeout)
	// Every answer has some age, so that max-age=0 taken at its word would never be
	// met. Those who send it mean no-cache (RFC 9111, 5.2.1.1).
	b.NoCache = b.NoCache || b.HasMaxAge && b.MaxAge <= 0
	for {
		m := s.mem.Load()
		now := s.clock.Now()
		since := arrived
		if !b.NoCache {
			since = notBefore(now, b)
		}
		l := m.lease.Load()
		var f found
		if l.covers(now, since) {
			var a Answer
			if a, f = s.recall(m, l, keyID, now); f == foundEntry || f == foundAbsent {
				return a, nil
			}
		} else if _, f = m.get(keyID, now, int64(s.opts.MaxTTL)); f == foundEntry || f == foundAbsent {
			if b.OnlyIfCached {
				return Answer{}, ErrNotCached
			}
			beat := s.pulse.next()
			if m.lease.Load().covers(s.clock.Now(), since) || s.mem.Load() != m {
				continue // it ended between the two looks
			}
			if s.awaitFence(ctx, beat, deadline) {
				continue
			}
			if a, ok := s.recallStale(m, keyID, b); ok {
				return a, nil
			}
			return Answer{}, &UnavailableError{Reason: ReasonLeaseOver, Err: s.lastFenceError()}
		}
		if b.OnlyIfCached {
			return Answer{}, ErrNotCached
		}
		s.awaitBegin(ctx, deadline)
		reading, err := s.join(m, keyID, f == foundMark, since)
		if err != nil {
			return Answer{}, err
		}
		a, err := s.await(ctx, reading, b)
		if s.mem.Load() != m && s.clock.Now().Before(deadline) {
			continue // the memory it was asked under is gone: begin again in the new one
		}
		return a, err
	}
}

// awaitFence waits for the round of fences that beat announces, and reports
// whether it is worth looking again. While rounds fail nobody waits.
func (s *Store) awaitFence(ctx context.Context, beat <-chan struct{}, deadline clock.Instant) bool {
	if s.pulse.failing.Load() {
		return false
	}
	s.RequestFence(FenceForRequest)
	left := deadline.Sub(s.clock.Now())
	if left <= 0 {
		return false
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-beat:
		return true
	case <-timer.C:
	case <-ctx.Done():
	case <-s.life.Done():
	}
	return false
}

// awaitBegin waits for the end of the first attempt to register, which takes a
// starting process a few milliseconds. Whoever asks meanwhile would be told to ask again,
// and be answered no sooner.
func (s *Store) awaitBegin(ctx context.Context, deadline clock.Instant) {
	if _, ok := s.membership(); ok {
		return
	}
	left := deadline.Sub(s.clock.Now())
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-s.begun:
	case <-timer.C:
	case <-ctx.Done():
	case <-s.life.Done():
	}
}

// recallStale answers from a memory whose lease is over, where the policy allows
// it and the caller set no bound of its own. Absence is no answer then: the key
// may have been issued since.
func (s *Store) recallStale(m *memory, keyID string, b Bounds) (Answer, bool) {
	if s.opts.StaleLimit == 0 || b.NoCache || b.HasMaxAge || m.ended.Load() {
		return Answer{}, false
	}
	now := s.clock.Now()
	l := m.lease.Load()
	if !l.coversStale(now) {
		return Answer{}, false
	}
	a, f := s.recall(m, l, keyID, now)
	a.Origin = FromStale
	return a, f == foundEntry
}
