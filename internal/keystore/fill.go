package keystore

import (
	"context"
	"errors"
	"strings"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// flight is one fill under way, shared by all who ask for its key meanwhile.
//
// It inserts what it read only if it is still the flight registered for its key
// when the read is over. An event takes it out of the register (memory.apply),
// and so does a younger fill; both under the shard's lock, under which it also
// inserts. Hence what a fill read before an event was applied never enters
// memory after it (S3).
type flight struct {
	keyID string
	// asked was read before the question was sent. Whoever uses the answer, also
	// one who joined, must do so within L of it: a process stopped in mid-fill
	// must not wake up and use what it read.
	asked clock.Instant
	// cursor is the memory's when the flight was registered. The answer enters
	// memory only if the source still knows it, and knows of nothing later about
	// this key: so an entry is always the key's state at the cursor.
	cursor Cursor
	// by is the membership it is asked under, which must still hold.
	by   Membership
	done chan struct{}

	// Written before done is closed.
	err   error
	rec   Record // zero: the source does not have the key
	owner ownerState
	clean bool
	// history is what the answer belongs to, and seq what it is known to hold: the
	// memory's own, or, if the source does not know the memory's cursor, those of the
	// history that follows.
	history string
	seq     int64
	now     dbClock
}

// maxLingering is how many landed flights are kept at a time, the newest: enough
// for every key that is asked for again and again.
const maxLingering = 1024

// tooMany tells a caller that a cap was met, and which.
func tooMany(r Reason) error { return &UnavailableError{Reason: r} }

// join returns the flight for keyID: the one under way or lingering, unless it
// began before notBefore or is about to be swept, or a new one. marked says that memory held a mark for the key: a
// key that exists, or did until a moment ago, which has a budget of its own
// beside the one for keys nobody has heard of.
func (s *Store) join(m *memory, keyID string, marked bool, notBefore clock.Instant) (*flight, error) {
	sh := m.shard(keyID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s.life.Err() != nil { // before joining: who has signed off answers nobody
		return nil, tooMany(ReasonStopping)
	}
	if f := sh.flights[keyID]; f != nil && !f.asked.Before(notBefore) && s.clock.Now().Sub(f.asked) < s.opts.FenceInterval+s.opts.FillTimeout {
		return f, nil
	}
	by, ok := s.membership()
	if !ok {
		return nil, tooMany(ReasonUnregistered)
	}
	select {
	case s.fillSlots <- struct{}{}:
	default:
		return nil, tooMany(ReasonFillLimit)
	}
	budget := s.missBudget
	if marked {
		budget = s.markBudget
	}
	if !budget.Allow() {
		<-s.fillSlots
		if *m.cursor.Load() == noCursor {
			return nil, tooMany(ReasonWarming)
		}
		return nil, tooMany(ReasonMissRate)
	}
	f := &flight{keyID: strings.Clone(keyID), asked: s.clock.Now(), cursor: *m.cursor.Load(), by: by, done: make(chan struct{})}
	sh.flights[f.keyID] = f
	s.fills.Add(1)
	go s.fly(m, sh, f)
	return f, nil
}

// fly reads the key, inserts what it may, and hands the answer to all who wait.
// Its context is the store's own: a caller who gives up must not fail the others.
func (s *Store) fly(m *memory, sh *shard, f *flight) {
	defer s.fills.Done()
	ctx, cancel := context.WithTimeout(s.life, s.opts.FillTimeout)
	defer cancel()
	s.hooks.beforeFill(f.keyID)
	member := true
	f.err = s.source.Fill(ctx, f.keyID, f.cursor, f.by, func(got Filled) {
		member = got.Member
		f.now = newDBClock(got.Time, f.asked, s.clock.Now())
		f.clean = got.Clean && got.Timeline == m.timeline
		f.history, f.seq = m.history, max(f.cursor.Seq, 0)
		if f.cursor != noCursor && (!got.Known || got.Timeline != m.timeline) {
			f.history, f.seq = historyName(got.Timeline, m.endings+1), 0
		}
		if got.Row != nil {
			f.rec = Record{packed: string(got.Row.pack(nil, f.asked))}
			f.owner = stateOf(got.Row.OwnerSuspended)
		}
	})
	if f.err == nil && !member {
		f.err = errNotMember
		s.RequestFence(FenceForGap)
	}
	s.hooks.afterFill(f.keyID)
	outcome := s.land(m, sh, f)
	<-s.fillSlots
	s.metrics.fill(outcome, s.clock.Now().Sub(f.asked))
	close(f.done)
	switch outcome {
	case fillUnclean:
		s.sweep(maxLingering) // a round may be long: it may warm
		if !m.ended.Load() {
			// Either the log has moved on, or it no longer holds our cursor.
			s.RequestFence(FenceForGap)
		}
	case fillFailed:
		s.logFillFailure(f)
	case fillInserted, fillOvertaken, fillAbsent:
	}
}

// land is the one place where a key enters memory after the warm: check,
// insertion and deregistration in one critical section.
func (s *Store) land(m *memory, sh *shard, f *flight) fillOutcome {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	registered := sh.flights[f.keyID] == f
	// Nothing is answered from an ended memory, so nothing need be put there; and a
	// key that is not there is read, and not waited for.
	if registered && f.err == nil && (!f.clean || m.ended.Load()) {
		s.linger(sh, f)
		return fillUnclean
	}
	if registered {
		delete(sh.flights, f.keyID)
	}
	switch {
	case f.err != nil:
		return fillFailed
	case !registered:
		return fillOvertaken
	case f.rec.IsZero():
		sh.remove(m, f.keyID)
		if !m.complete.Load() && s.opts.NegativeTTL > 0 {
			sh.absent.Add(f.keyID, f.asked.Add(s.opts.NegativeTTL))
		}
		return fillAbsent
	}
	owner := m.owners.acquire(f.rec.OwnerID(), f.owner)
	sh.put(m, f.keyID, entry{rec: f.rec, owner: owner})
	return fillInserted
}

// linger leaves a landed flight in the register, for others to join, until the
// next round of fences is over. What it read may not enter memory, because the
// log holds something later than the cursor; it may still be answered within L,
// like any fill that takes its time, and an event on its key ends it like any
// other flight. Without it a key in demand would be read for each request until
// the fence has caught up. The caller holds sh.mu.
func (s *Store) linger(sh *shard, f *flight) {
	s.lingerMu.Lock()
	defer s.lingerMu.Unlock()
	s.lingering = append(s.lingering, lingerer{sh, f})
}

type lingerer struct {
	shard  *shard
	flight *flight
}

// sweep ends the flights that linger, but for the newest keep. After each round
// of fences it keeps none.
func (s *Store) sweep(keep int) {
	s.lingerMu.Lock()
	cut := max(0, len(s.lingering)-keep)
	list := s.lingering[:cut]
	s.lingering = s.lingering[cut:]
	s.lingerMu.Unlock()
	for _, l := range list {
		l.shard.mu.Lock()
		if l.shard.flights[l.flight.keyID] == l.flight {
			delete(l.shard.flights, l.flight.keyID)
		}
		l.shard.mu.Unlock()
	}
}

// await waits for f and turns what it read into an answer, if it may still be
// used at this moment and within the caller's bounds.
func (s *Store) await(ctx context.Context, f *flight, b Bounds) (Answer, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return Answer{}, &UnavailableError{Reason: ReasonFillFailed, Err: ctx.Err()}
	}
	if f.err != nil {
		return Answer{}, &UnavailableError{Reason: ReasonFillFailed, Err: f.err}
	}
	now := s.clock.Now()
	age := now.Sub(f.asked)
	if age >= s.term || (b.HasMaxAge && !b.NoCache && age >= b.MaxAge) {
		return Answer{}, &UnavailableError{Reason: ReasonFillFailed, Err: errTooOld}
	}
	a := Answer{
		Code:   UnknownKey,
		Origin: FromDatabase,
		AsOf:   AsOf{History: f.history, Seq: f.seq, Age: age},
	}
	if !f.rec.IsZero() {
		a.Record = f.rec
		a.Code = f.now.judge(f.rec, f.owner, now)
	}
	return a, nil
}

var errTooOld = errors.New("what was read is older than may be answered")

// logFillFailure is for someone who looks at one key's trouble; metrics count.
func (s *Store) logFillFailure(f *flight) {
	s.log.Debug("fill failed", zap.String("key_id", f.keyID), zap.String("category", Categorize(f.err)), zap.Error(f.err))
}
