package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

func processKinds() []Kind {
	return []Kind{
		{"sidecar stands still for less than its lease", OfProcess, stopped, time.Millisecond, 2500 * time.Millisecond},
		{"sidecar stands still for longer than its lease", OfProcess, stopped, 3 * time.Second, 30 * time.Second},
		{"sidecars stutter", OfProcess, stutter, 2 * time.Second, 12 * time.Second},
		{"sidecar killed in a loop", OfProcess, killLoop, time.Second, 10 * time.Second},
		{"sidecar started with everything down", OfProcess, startedAlone, time.Second, 10 * time.Second},
		{"sidecar pruned from the registry while it stands still", OfProcess, pruned, time.Second, 8 * time.Second},
		{"one of two sidecars of the same name killed", OfProcess, twinKilled, time.Second, 8 * time.Second},
	}
}

func stopped(_ context.Context, w *World, r *rand.Rand) (Fault, error) {
	part := []*Sidecar{w.one(r)}
	if r.IntN(4) == 0 {
		part = nil
	}
	return Fault{Affected: part, Mend: func(context.Context) error {
		var err error
		for _, s := range w.of(part) {
			err = errors.Join(err, s.Resume())
		}
		return err
	}}, pauseAll(w.of(part))
}

func pauseAll(part []*Sidecar) error {
	var err error
	for _, s := range part {
		err = errors.Join(err, s.Pause())
	}
	return err
}

// stutter stops sidecars again and again, for anything from a millisecond to
// longer than a lease, and lets them run for a moment in between.
func stutter(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	part := w.some(r)
	longest := []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond, 4 * time.Second}[r.IntN(4)]
	var stops []func() error
	for _, s := range w.of(part) {
		own := rand.New(rand.NewPCG(r.Uint64(), 4))
		paused := false
		stops = append(stops, repeatedly(ctx, func(context.Context) (time.Duration, error) {
			if paused = !paused; paused {
				return between(own, time.Millisecond, longest), s.Pause()
			}
			return between(own, 0, 20*time.Millisecond), s.Resume()
		}))
	}
	return Fault{Affected: part, Detail: "up to " + longest.String(), Mend: func(context.Context) error {
		var ends sync.WaitGroup
		errs := make([]error, len(stops))
		for i, s := range w.of(part) {
			ends.Go(func() { errs[i] = errors.Join(stops[i](), s.Resume()) })
		}
		ends.Wait()
		return errors.Join(errs...)
	}}, nil
}

func killLoop(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	s := w.one(r)
	own := rand.New(rand.NewPCG(r.Uint64(), 5))
	if err := s.Kill(); err != nil {
		return Fault{}, err
	}
	stop := repeatedly(ctx, func(context.Context) (time.Duration, error) {
		if s.Running() {
			if err := s.Kill(); err != nil {
				return 0, err
			}
		}
		if err := s.Restart(); err != nil {
			return 0, err
		}
		return between(own, 10*time.Millisecond, 1500*time.Millisecond), nil
	})
	return Fault{Affected: []*Sidecar{s}, Mend: func(context.Context) error {
		err := stop()
		if !s.Running() {
			err = errors.Join(err, s.Restart())
		}
		return err
	}}, nil
}

// startedAlone starts a sidecar that reaches neither Postgres nor RabbitMQ.
func startedAlone(_ context.Context, w *World, r *rand.Rand) (Fault, error) {
	s := w.one(r)
	if err := s.Kill(); err != nil {
		return Fault{}, err
	}
	hidden := r.IntN(2) == 0 // nobody answers, or nobody is there
	var err error
	if hidden {
		s.PG.Freeze()
		s.MQ.Freeze()
	} else {
		err = errors.Join(s.PG.Refuse(true), s.MQ.Refuse(true))
	}
	return Fault{Affected: []*Sidecar{s}, Mend: func(context.Context) error {
		if hidden {
			s.PG.Thaw()
			s.MQ.Thaw()
			return nil
		}
		return errors.Join(s.PG.Refuse(false), s.MQ.Refuse(false))
	}}, errors.Join(err, s.Restart())
}

// pruned takes a sidecar that stands still out of the registry as the relay does:
// marked, and deleted its bound later if it is still marked. (The relay itself waits
// for minutes before it marks.) Nobody waits for it any more when it goes on.
func pruned(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	s := w.one(r)
	if s.Spec.Instance != "" { // the row of the other process of that name must stay
		s = w.Sidecars[0]
	}
	if err := s.Pause(); err != nil {
		return Fault{}, err
	}
	// Postgres may be away, which is another fault's business: then it is not pruned.
	rows := ` WHERE instance = '` + s.Name + `'`
	_ = w.Exec(ctx, `UPDATE keysidecar.instances SET marked_at = clock_timestamp()`+rows)
	marked := time.Now()
	return Fault{Affected: []*Sidecar{s}, Mend: func(ctx context.Context) error {
		err := cluster.Sleep(ctx, time.Until(marked.Add(s.Bound()+50*time.Millisecond)))
		_ = w.Exec(ctx, `DELETE FROM keysidecar.instances`+rows+` AND marked_at IS NOT NULL`)
		return errors.Join(err, s.Resume())
	}}, nil
}

// twinKilled kills one of two processes that have the same name in the fleet and
// share, or quarrel about, a queue.
func twinKilled(_ context.Context, w *World, r *rand.Rand) (Fault, error) {
	twins := w.having(func(s Spec) bool { return s.Instance != "" })
	if len(twins) == 0 {
		return Fault{}, errors.New("no two sidecars have the same name")
	}
	s := twins[r.IntN(len(twins))]
	return Fault{Affected: twins, Mend: func(context.Context) error { return s.Restart() }}, s.Kill()
}

// The clock of a running process is stepped by signals; see internal/clock.
func clockKinds() []Kind {
	step := func(name string, sig syscall.Signal) Kind {
		return Kind{name, OfProcess, func(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
			part := w.having(func(s Spec) bool { return s.Clock })
			pause := between(r, 100*time.Millisecond, 2*time.Second)
			stop := repeatedly(ctx, func(context.Context) (time.Duration, error) {
				var err error
				for _, s := range part {
					err = errors.Join(err, s.Signal(sig))
				}
				return pause, err
			})
			return Fault{Affected: part, Detail: "every " + pause.String(), Mend: func(context.Context) error { return stop() }}, nil
		}, time.Second, 8 * time.Second}
	}
	return []Kind{
		step("machine sleeps for 10 s", syscall.Signal(40)),
		step("wall clock stepped by 10 s, forward and back", syscall.Signal(41)),
	}
}
