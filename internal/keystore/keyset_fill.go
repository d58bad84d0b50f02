package keystore

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// setFlight is one read of an owner's keys, shared by all who ask meanwhile. It is to
// sets what flight is to single keys, and keeps the same rules.
type setFlight struct {
	ownerID string
	// asked was read before the question was sent.
	asked  clock.Instant
	cursor Cursor
	by     Membership
	done   chan struct{}
	// touched are the keys of events applied since it was registered that named
	// another owner; guarded by keySets.mu.
	touched []string

	// Written before done is closed.
	err     error
	keys    ownerKeys
	clean   bool
	history string
	seq     int64
	now     dbClock
}

// joinSet returns the read under way for the owner, or a new one if it began before
// notBefore, or before an event that may concern it: whether one does that names
// another owner is known only when the keys are.
func (s *Store) joinSet(m *memory, ownerID string, notBefore clock.Instant) (*setFlight, error) {
	m.sets.mu.Lock()
	defer m.sets.mu.Unlock()
	if f := m.sets.flights[ownerID]; f != nil && len(f.touched) == 0 && !f.asked.Before(notBefore) && s.life.Err() == nil {
		return f, nil
	}
	by, ok := s.membership()
	if !ok {
		return nil, tooMany(ReasonUnregistered)
	}
	select {
	case s.setSlots <- struct{}{}:
	default:
		return nil, tooMany(ReasonFillLimit)
	}
	if !s.setBudget.Allow() {
		<-s.setSlots
		return nil, tooMany(ReasonMissRate)
	}
	if s.life.Err() != nil { // with a slot: Run waits for all of them after it ended life
		<-s.setSlots
		return nil, tooMany(ReasonStopping)
	}
	ownerID = strings.Clone(ownerID)
	f := &setFlight{ownerID: ownerID, asked: s.clock.Now(), cursor: *m.cursor.Load(), by: by, done: make(chan struct{})}
	m.sets.flights[ownerID] = f
	s.fills.Add(1)
	go s.flySet(m, f)
	return f, nil
}

// flySet waits for its turn, reads the owner's keys, keeps what it may, and hands the
// answer to all who wait.
func (s *Store) flySet(m *memory, f *setFlight) {
	defer s.fills.Done()
	ctx, cancel := context.WithTimeout(s.life, s.opts.FillTimeout)
	defer cancel()
	s.hooks.beforeFill(f.ownerID)
	f.err = s.readSet(ctx, m, f)
	s.hooks.afterFill(f.ownerID)
	outcome := s.landSet(m, f)
	<-s.setSlots
	s.metrics.setReads[outcome].Inc()
	close(f.done)
	switch outcome {
	case fillUnclean:
		if !m.ended.Load() {
			// Either the log has moved on, or it no longer holds our cursor.
			s.RequestFence(FenceForGap)
		}
	case fillFailed:
		s.log.Debug("reading an owner's keys failed", zap.String("category", Categorize(f.err)), zap.Error(f.err))
	case fillInserted, fillOvertaken, fillAbsent:
	}
}

func (s *Store) readSet(ctx context.Context, m *memory, f *setFlight) error {
	select {
	case s.setTurn <- struct{}{}:
		defer s.passTurn(s.clock.Now())
	case <-ctx.Done():
		return ctx.Err()
	}
	f.keys = ownerKeys{ownerID: f.ownerID, asked: f.asked}
	got, err := s.source.FillOwner(ctx, f.ownerID, MaxSetKeys+1, f.cursor, f.by, func(row *Row) bool { return f.keys.add(row) })
	if err != nil {
		return err
	}
	if !got.Member {
		s.RequestFence(FenceForGap)
		return errNotMember
	}
	f.keys.finish()
	f.now = newDBClock(got.Time, f.asked, s.clock.Now())
	f.clean = got.Clean && got.Timeline == m.timeline
	f.history, f.seq = m.history, max(f.cursor.Seq, 0)
	if f.cursor != noCursor && (!got.Known || got.Timeline != m.timeline) {
		f.history, f.seq = historyName(got.Timeline, m.endings+1), 0
	}
	return nil
}

// passTurn lets the next read begin after as much time as this one took, so that fills
// find a connection for half of the time at least, however long sets take to read.
func (s *Store) passTurn(begun clock.Instant) {
	took := min(s.clock.Now().Sub(begun), s.opts.FillTimeout)
	time.AfterFunc(took, func() { <-s.setTurn })
}

// landSet is the one place where a set enters memory: check, insertion and
// deregistration in one critical section.
func (s *Store) landSet(m *memory, f *setFlight) fillOutcome {
	m.sets.mu.Lock()
	defer m.sets.mu.Unlock()
	registered := m.sets.flights[f.ownerID] == f
	if registered {
		delete(m.sets.flights, f.ownerID)
	}
	switch {
	case f.err != nil:
		return fillFailed
	case !registered:
		return fillOvertaken
	case !f.clean || m.ended.Load():
		return fillUnclean
	}
	for _, keyID := range f.touched {
		if f.keys.holds(keyID) {
			return fillOvertaken
		}
	}
	m.sets.put(&f.keys)
	if len(f.keys.keys) == 0 && !f.keys.tooLarge {
		return fillAbsent
	}
	return fillInserted
}

// awaitSet waits for f and turns what it read into an answer, if it may still be used
// at this moment and within the caller's bounds.
func (s *Store) awaitSet(ctx context.Context, f *setFlight, b Bounds) (KeySet, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return KeySet{}, &UnavailableError{Reason: ReasonFillFailed, Err: ctx.Err()}
	}
	if f.err != nil {
		return KeySet{}, &UnavailableError{Reason: ReasonFillFailed, Err: f.err}
	}
	now := s.clock.Now()
	age := now.Sub(f.asked)
	if age >= s.term || (b.HasMaxAge && !b.NoCache && age >= b.MaxAge) {
		return KeySet{}, &UnavailableError{Reason: ReasonFillFailed, Err: errTooOld}
	}
	return f.keys.answer(f.now, now, FromDatabase, AsOf{f.history, f.seq, age})
}
