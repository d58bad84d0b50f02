package usage

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	// batchKeys are written at a time.
	batchKeys = 1000
	// roundTimeout bounds a round.
	roundTimeout = 10 * time.Second
	// lastTimeout bounds the round at the end: the process has two seconds in all.
	lastTimeout = 500 * time.Millisecond
)

// Run writes what was noted every interval, and once more when ctx ends. It then
// returns nil, whatever became of that.
func (r *Recorder) Run(ctx context.Context) error {
	ticked := make(chan struct{})
	go func() {
		defer close(ticked)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				r.tick()
			}
		}
	}()
	r.rounds(ctx)
	<-ticked
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTimeout)
	defer cancel()
	r.round(last, false)
	if n := len(r.pending); n > 0 {
		r.metrics.dropped[droppedStopped].Add(float64(n))
		r.opts.Logger.Warn("the last uses of some keys are lost", zap.Int("keys", n))
	}
	return nil
}

// rounds writes until ctx ends.
func (r *Recorder) rounds(ctx context.Context) {
	timer := time.NewTimer(r.pause())
	defer timer.Stop()
	for {
		half := r.half
		if r.failing {
			half = nil // sooner would be no better
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-half:
		}
		bounded, cancel := context.WithTimeout(ctx, roundTimeout)
		r.round(bounded, true)
		cancel()
		timer.Reset(r.pause())
	}
}

// pause is the interval, give or take a quarter, so that a fleet does not write all
// at once.
func (r *Recorder) pause() time.Duration {
	return r.opts.Interval*3/4 + rand.N(r.opts.Interval/2+1) //nolint:gosec // spreads load
}

// round writes all that waits, and prunes a little. What cannot be written waits
// for the next round.
func (r *Recorder) round(ctx context.Context, prune bool) {
	r.take()
	if len(r.pending) == 0 {
		return
	}
	begun := r.opts.Clock.Now()
	err := r.write(ctx, prune)
	if ctx.Err() != nil && context.Cause(ctx) == context.Canceled { //nolint:errorlint // the very error
		return // told to stop: the last round comes next, and says what is left
	}
	r.metrics.round(err, r.opts.Clock.Now().Sub(begun))
	if err == nil {
		now := time.Now() //nolint:forbidigo // shown to people
		r.written.Store(&now)
	}
	switch {
	case err != nil && !r.failing:
		r.opts.Logger.Warn("cannot write the last uses of keys, will go on trying", zap.Error(err), zap.Int("waiting", len(r.pending)))
	case err == nil && r.failing:
		r.opts.Logger.Info("the last uses of keys are written again")
	}
	r.failing = err != nil
	r.away.Store(r.failing)
}

func (r *Recorder) write(ctx context.Context, prune bool) error {
	s, err := r.opts.Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	// One order for everybody: writers of the same keys wait for each other, and
	// never in a circle.
	keys := slices.Sorted(maps.Keys(r.pending))
	for batch := range slices.Chunk(keys, batchKeys) {
		if err := r.writeBatch(ctx, s, batch); err != nil {
			return fmt.Errorf("write last uses: %w", err)
		}
	}
	if !prune {
		return nil
	}
	if !r.pruning {
		r.pruneFrom, r.pruning = keys[rand.N(len(keys))], true //nolint:gosec // any of them will do
	}
	next, gone, err := s.Prune(ctx, r.pruneFrom)
	if err != nil {
		return fmt.Errorf("delete last uses of keys that are gone: %w", err)
	}
	r.pruneFrom = next
	r.metrics.pruned.Add(float64(gone))
	return nil
}

func (r *Recorder) writeBatch(ctx context.Context, s Session, keys []string) error {
	now := r.now()
	ages := make([]float64, len(keys))
	for i, id := range keys {
		ages[i] = float64(max(0, int64(now)-int64(r.pending[id])))
	}
	if err := s.Write(ctx, keys, ages, r.opts.Resolution); err != nil {
		return err
	}
	for _, id := range keys {
		delete(r.pending, id)
	}
	r.waiting.Store(int64(len(r.pending)))
	r.metrics.written.Add(float64(len(keys)))
	return nil
}
