package receipt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// Reader reads the state of a target from the primary, in one snapshot taken after
// the call began.
type Reader interface {
	Receipt(ctx context.Context, t Target) (State, error)
}

// Waiter waits for receipts to complete. It may be used by several at once.
type Waiter struct {
	Reader Reader
	Clock  *clock.Clock
	// Known, if not nil, returns a moment at which this process already knew that
	// the log of this timeline holds the event. A process that follows the log need not
	// wait for what passed before somebody asked.
	Known func(timeline string, seq int64, id uuid.UUID) (clock.Instant, bool)
	// Learned, if Known is not nil, remembers such a moment: somebody who asks again
	// and again must not begin anew each time.
	Learned func(timeline string, seq int64, id uuid.UUID, at clock.Instant)
	// ReadTimeout bounds one read.
	ReadTimeout time.Duration
	// Turn, if not nil, is held by whoever reads, and then for as long again: others
	// need the connection, too.
	Turn *semaphore.Weighted

	desk desk
}

// Pauses between reads: short while a healthy fleet needs them, which is some tens of
// milliseconds; later the bound is what is waited for. A read of a large registry
// costs time, and may take half of it.
const (
	shortPause   = 3 * time.Millisecond
	longestPause = 100 * time.Millisecond
	readShare    = 1
)

// pauseAfter is how long to wait for the next read after waited.
func pauseAfter(waited time.Duration) time.Duration {
	return min(max(shortPause, waited/20), longestPause)
}

// Wait reads the state of t until the receipt is complete or atMost has passed,
// and returns the last state either way. The event is fixed by the first read: what
// happens to the key later does not move it, and what has passed before a promotion
// counts no more. Reads that fail are repeated within
// atMost; an error means that the last one failed, except for ErrNoEvent and
// ErrLost, which are final.
func (w *Waiter) Wait(ctx context.Context, t Target, atMost time.Duration) (Receipt, error) {
	begun := w.Clock.Sync()
	wait := w.desk.open(t, begun)
	defer func() { w.desk.close(wait, w.Clock.Now()) }()
	var (
		saw   clock.Instant
		first State
		fixed bool
	)
	for {
		asked := w.Clock.Sync()
		s, err := w.read(ctx, t)
		now := w.Clock.Sync()
		switch {
		case errors.Is(err, ErrNoEvent) && fixed:
			return Receipt{}, ErrLost
		case errors.Is(err, ErrNoEvent), errors.Is(err, ErrNoRegistry):
			return Receipt{}, err
		case err == nil && fixed && s.EventID != first.EventID:
			return Receipt{}, ErrLost
		case err == nil && fixed && s.overtakes(&first):
			first, saw = s, now
		case err == nil && !fixed:
			t, first, fixed = Target{Seq: s.Seq, HasSeq: true}, s, true
			saw = w.firstSaw(&s, now)
		}
		left := atMost - now.Sub(begun)
		var r Receipt
		if err == nil {
			elapsed := now.Sub(saw)
			r = s.judge(elapsed)
			w.desk.see(wait, &r)
			if next, ok := s.next(elapsed); ok {
				left = min(left, max(next, time.Millisecond))
			}
		}
		if r.Complete || now.Sub(begun) >= atMost {
			return r, err
		}
		rest := min(left, max(pauseAfter(now.Sub(begun)), readShare*now.Sub(asked)))
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return r, errors.Join(err, ctx.Err())
		}
	}
}

// firstSaw is the earliest moment at which this process is known to have known of
// the event, which a read has just shown.
func (w *Waiter) firstSaw(s *State, now clock.Instant) clock.Instant {
	if w.Known != nil && !s.lost() {
		if at, ok := w.Known(s.timeline(), s.Seq, s.EventID); ok && at.Before(now) {
			return at
		}
		if w.Learned != nil {
			w.Learned(s.timeline(), s.Seq, s.EventID, now)
		}
	}
	return now
}

func (w *Waiter) read(ctx context.Context, t Target) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, w.ReadTimeout)
	defer cancel()
	if w.Turn != nil {
		if err := w.Turn.Acquire(ctx, 1); err != nil {
			return State{}, fmt.Errorf("wait for a turn to read: %w", err)
		}
		asked := w.Clock.Now()
		defer func() {
			time.AfterFunc(w.Clock.Now().Sub(asked), func() { w.Turn.Release(1) })
		}()
	}
	return w.Reader.Receipt(ctx, t)
}
