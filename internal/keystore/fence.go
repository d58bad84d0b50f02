package keystore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// Why a fence is asked for outside its interval. A closed set, for the metric.
const (
	FenceForMessage    = "message"
	FenceForGap        = "gap"
	FenceForUnreadable = "unreadable"
	FenceForReconnect  = "reconnect"
	FenceForRequest    = "request"
	FenceForSource     = "source"
	FenceForReport     = "report"
)

// pageRows is how many events a fence reads at a time. A page costs the database
// about half a microsecond a row.
const pageRows = 2_000

// minPageRows is what a page shrinks to when it cannot be read in time.
const minPageRows = 64

// Why a round of fences brought no lease.
var (
	errHistoryOver = errors.New("the log no longer holds this sidecar's cursor")
	// errRewritten is the way for a history to be over that a clean failover is not.
	errRewritten   = fmt.Errorf("%w, which was read from it", errHistoryOver)
	errReset       = errors.New("the log says that everything was reset")
	errCaptureLost = errors.New("capture is not in place: changes would not reach the log; see keysidecar.watched")
)

// fenceBurst is how many rounds may begin at once after a pause; on the average
// they stay min_fence_gap apart. With one, a message that arrives just after a
// regular fence would always wait for the whole gap.
const fenceBurst = 2

// RequestFence asks for a fence begun after this call. Requests are coalesced,
// and spaced out (fenceBurst). why is one of the FenceFor constants.
//
// All but FenceForRequest, behind which somebody waits, may be put off a little
// at random: a message reaches every sidecar of a fleet in the same millisecond,
// and their fences need not reach Postgres so.
func (s *Store) RequestFence(why string) {
	s.metrics.fenceRequested(why)
	wake := s.nudged
	if why == FenceForRequest {
		wake = s.asked
	}
	select {
	case wake <- struct{}{}:
	default: // one is waiting already, and will begin after now
	}
}

// putOff waits for a random part of the fleet's spread, or until somebody waits
// for the fence. A quarter of it passes in any case: the message is still on its way
// to others, who have to refuse the key before anybody asks Postgres about it.
func (s *Store) putOff(ctx context.Context) {
	timer := time.NewTimer(s.spread()/4 + jitter(s.spread()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.asked:
	case <-timer.C:
	}
}

// fences is the one goroutine that moves cursors, grants leases and warms.
func (s *Store) fences(ctx context.Context) error {
	if err := sleep(ctx, s.begin(ctx)); err != nil {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.asked:
		case <-s.nudged:
			s.putOff(ctx)
		case <-timer.C:
		}
		if s.spacing.Wait(ctx) != nil {
			return nil
		}
		begun := time.Now() //nolint:forbidigo // spaces questions out; decides nothing
		err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.note(err)
		pause := s.opts.FenceInterval - time.Since(begun) //nolint:forbidigo // as above
		early := pause / 16                               // what keeps a fleet from falling into step costs it a question now and then
		if err != nil {
			pause = min(pause, s.opts.FenceInterval/4)
			early = pause / 8
		}
		timer.Reset(pause - jitter(early))
	}
}

// begin enters the process in the registry, and returns how long to put the first
// warm off. From here on look-ups are read one by one, so that nobody waits for the
// warm to begin or to end.
func (s *Store) begin(ctx context.Context) time.Duration {
	err := s.enrol(ctx)
	close(s.begun)
	if err != nil && ctx.Err() == nil {
		s.note(err) // the first round tries again
	}
	if err != nil || !s.opts.Report { // and so it is not known how many there are
		return jitter(s.opts.WarmJitter)
	}
	return jitter(min(s.opts.WarmJitter, s.spread()))
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d) //nolint:gosec // spreads load, guards nothing
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// note publishes how a round ended: to those who wait, to the log when it
// changed, and to Status.
func (s *Store) note(err error) {
	category := Categorize(err)
	was := *s.fenceError.Swap(&fenceResult{category, err})
	s.sweep(0)
	s.pulse.end(err == nil)
	if was.category == category {
		return
	}
	if err != nil {
		s.log.Warn("fence failed; answers from memory end with the lease", zap.String("category", category), zap.Error(err))
		return
	}
	s.log.Info("fence succeeded", zap.Int64("seq", s.mem.Load().cursor.Load().Seq))
}

// fenceResult is how the last round ended.
type fenceResult struct {
	category string
	err      error
}

func (s *Store) lastFenceError() error { return s.fenceError.Load().err }

// round registers and warms where that is missing, and then fences until a page is
// not full and what was reached is reported. It returns nil once the lease is
// renewed. A registration or a memory that turns out to be over is replaced in the
// same round, so that those who wait are served.
func (s *Store) round(ctx context.Context) error {
	err := s.catchUp(ctx)
	if errors.Is(err, errNotMember) || err != nil && s.mem.Load().ended.Load() {
		return s.catchUp(ctx)
	}
	return err
}

func (s *Store) catchUp(ctx context.Context) error {
	if err := s.enrol(ctx); err != nil {
		return err
	}
	m := s.mem.Load()
	if m.ended.Load() || *m.cursor.Load() == noCursor {
		warmed, err := s.warm(ctx)
		if err != nil {
			return fmt.Errorf("warm: %w", err)
		}
		s.adopt(warmed)
		m = warmed
	}
	for reporting := false; ; {
		full, err := s.fence(ctx, m)
		switch {
		case errors.Is(err, errHistoryOver), errors.Is(err, errReset), errors.Is(err, errCaptureLost):
			s.end(m, err)
			return err
		case err != nil:
			return err
		case full:
		case !s.owesReport(*m.cursor.Load()):
			return nil
		case reporting: // the log goes on and on
			s.RequestFence(FenceForReport)
			return nil
		default:
			// A fence reports what was held when it was asked, and not what it brings: one
			// that moved the cursor is followed at once by another.
			reporting = true
		}
	}
}

// fence asks once and applies the answer: events first, then the cursor, then
// the lease, and that only if nothing more may follow.
func (s *Store) fence(ctx context.Context, m *memory) (full bool, err error) {
	// t0 is read before the question is sent; the lease counts from here.
	asked := s.clock.Sync()
	at := *m.cursor.Load()
	q, err := s.question(m, at, asked)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.fenceTimeout)
	defer cancel()
	page, err := s.source.Fence(ctx, q)
	answered := s.clock.Sync()
	s.sizePage(err)
	if err == nil {
		s.fenceTook.Store(int64(answered.Sub(asked)))
	}
	s.metrics.fenceDuration.Observe(answered.Sub(asked).Seconds())
	switch {
	case err != nil:
		if q.Report && ctx.Err() != nil { // perhaps it waited for somebody's lock
			s.enrolment.refused, s.enrolment.reportedAt = q.At, asked
		}
		s.metrics.fence(fenceFailed)
		return false, err
	case !page.Known:
		s.metrics.fence(fenceHistoryOver)
		return false, errRewritten
	case page.Timeline != m.timeline:
		s.metrics.fence(fenceHistoryOver)
		return false, errHistoryOver
	case !page.Member:
		s.metrics.fence(fenceVoid)
		return false, s.void()
	}
	s.noteReport(&page, &q, asked)
	s.recent.add(page.Timeline, page.Events, answered)
	s.metrics.captureIntact(page.CaptureIntact)
	if err := s.applyPage(m, page.Events); err != nil {
		s.metrics.fence(fenceReset)
		return false, err
	}
	switch {
	case !page.CaptureIntact:
		s.metrics.fence(fenceCaptureLost)
		return false, errCaptureLost
	case page.Full:
		s.metrics.fence(fencePage)
		return true, nil
	}
	if l := m.lease.Load(); l != nil {
		s.oldest.note(answered.Sub(l.asked))
	}
	s.announced.Store(0) // what is genuine and newer asks for the next fence
	until := asked.Add(s.term)
	m.lease.Store(&lease{
		asked: asked, until: until, staleUntil: asked.Add(max(s.term, s.opts.StaleLimit-clock.Uncertainty)),
		seq: m.cursor.Load().Seq, now: newDBClock(page.Time, asked, answered),
	})
	s.metrics.fence(fenceFresh)
	s.once.Do(func() { close(s.warmed) })
	s.refill(m)
	return false, nil
}

// sizePage halves the page after a time-out and lets it grow again after success:
// a sidecar far behind on a slow line must get somewhere.
func (s *Store) sizePage(err error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.pageRows = max(minPageRows, s.pageRows/2)
	case err == nil:
		s.pageRows = min(pageRows, s.pageRows*2)
	}
}

// applyPage applies events in order and then moves the cursor past them. A
// cursor is never ahead of what has been applied.
func (s *Store) applyPage(m *memory, events []event.Event) error {
	if len(events) == 0 {
		return nil
	}
	for i := range events {
		if events[i].Kind == event.Reset {
			return errReset
		}
		m.apply(events[i], true)
	}
	last := events[len(events)-1]
	m.cursor.Store(&Cursor{Seq: last.Seq, ID: last.ID})
	for i := max(0, len(events)-activityKept); i < len(events); i++ {
		s.activity.note(&events[i], false)
	}
	s.metrics.applied(pathFence, len(events))
	s.arrivals.fenced(events)
	s.collect(m, events)
	return nil
}

// end forbids every further answer from m, stale ones too. Lost capture ends it
// as well: what changed meanwhile no event will ever tell, even when the triggers
// are back.
func (s *Store) end(m *memory, why error) {
	s.refills = nil
	m.ended.Store(true)
	m.lease.Store(nil)
	if errors.Is(why, errRewritten) {
		s.metrics.rewritten.Inc()
		s.log.Error("the log lacks an event that was read from it: a failover lost commits, a backup was restored, or the log was pruned; revocations may be lost",
			zap.Int64("seq", m.cursor.Load().Seq), zap.Stringer("event_id", m.cursor.Load().ID))
	}
	if errors.Is(why, errHistoryOver) {
		s.histories++
		s.metrics.historyEnded.Inc()
		s.log.Warn("history over; dropping everything and warming again",
			zap.Int64("seq", m.cursor.Load().Seq), zap.String("timeline", m.timeline))
		return
	}
	s.log.Warn("dropping everything and warming again", zap.Error(why))
}

// Categorize names an error of a round or a fill for metrics and status pages,
// from a closed set; "" for nil.
func Categorize(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errCaptureLost):
		return "capture_lost"
	case errors.Is(err, errHistoryOver):
		return "history_over"
	case errors.Is(err, errReset):
		return "reset"
	case errors.Is(err, ErrStandby):
		return "standby"
	case errors.Is(err, errNotMember), errors.Is(err, errNotAllowed):
		return "unregistered"
	case errors.Is(err, ErrSchema):
		return "schema"
	case errors.Is(err, ErrAmbiguous), errors.Is(err, ErrBadRow):
		return "bad_row"
	case errors.Is(err, ErrFile):
		return "file"
	case refusedLogin(err):
		return "auth"
	case refusedTLS(err):
		return "tls"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "unreachable"
}
