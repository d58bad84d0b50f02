package receipt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

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
	// ReadTimeout bounds one read.
	ReadTimeout time.Duration
	// Reads, if not nil, limits how many reads a second all who wait make together.
	Reads *rate.Limiter
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
		case err == nil && fixed && s.Registry != first.Registry:
			// A promotion may have lost changes that came after the event and that sidecars
			// have read: what they hold is older than the event again, and begins only now
			// to be over.
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
			if next, ok := s.next(elapsed); ok {
				left = min(left, max(next, time.Millisecond))
			}
		}
		if r.Complete || now.Sub(begun) >= atMost {
			return r, err
		}
		wait := min(left, max(pauseAfter(now.Sub(begun)), readShare*now.Sub(asked)))
		timer := time.NewTimer(wait)
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
	if w.Known != nil {
		if at, ok := w.Known(s.timeline(), s.Seq, s.EventID); ok && at.Before(now) {
			return at
		}
	}
	return now
}

func (w *Waiter) read(ctx context.Context, t Target) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, w.ReadTimeout)
	defer cancel()
	if w.Reads != nil {
		if err := w.Reads.Wait(ctx); err != nil {
			return State{}, fmt.Errorf("wait for a turn to read: %w", err)
		}
	}
	return w.Reader.Receipt(ctx, t)
}
