package scale

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// Rollout is what restarting every sidecar took.
type Rollout struct {
	Sidecars, AtOnce int
	Took             time.Duration
	// Away is, for each sidecar, from the moment it was told to stop until its
	// successor was ready.
	Away []time.Duration
	// Warm is how long each one's warm took, as it tells.
	Warm []float64
	// Connections is the most that sidecars had at any time, and Stated the most
	// that their configuration allows.
	Connections, Stated int
	// Statements a second of the whole fleet over the whole rollout.
	Statements float64
}

// Rollout restarts every sidecar, atOnce of them together, as a Deployment does.
func (f *Fleet) Rollout(ctx context.Context, atOnce int) (r Rollout, err error) {
	r.Sidecars, r.AtOnce, r.Stated = len(f.Sidecars), atOnce, 2*len(f.Sidecars)
	watch, stop := context.WithCancel(ctx)
	peaks := make(chan int, 1)
	watched := make(chan error, 1)
	go func() {
		peak, err := f.peakConnections(watch)
		peaks <- peak
		watched <- err
	}()
	before, err := f.statements(ctx)
	if err != nil {
		stop()
		return r, errors.Join(err, <-watched)
	}
	begun := time.Now()
	var mu sync.Mutex
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	var errs []error
	for _, s := range f.Sidecars {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			away, err := restart(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			r.Away = append(r.Away, away)
			errs = append(errs, err)
		})
	}
	all.Wait()
	r.Took = time.Since(begun)
	stop()
	r.Connections = <-peaks
	if err := errors.Join(append(errs, <-watched)...); err != nil {
		return r, err
	}
	for _, s := range f.Sidecars {
		warm, err := s.Metric(ctx, "keysidecar_warm_duration_seconds_sum")
		if err != nil {
			return r, err
		}
		r.Warm = append(r.Warm, warm)
	}
	if err := f.ready(ctx); err != nil {
		return r, err
	}
	after, err := f.statements(ctx)
	r.Statements = (after - before) / time.Since(begun).Seconds()
	return r, err
}

func restart(ctx context.Context, s *cluster.Sidecar) (time.Duration, error) {
	begun := time.Now()
	if _, err := s.Stop(); err != nil {
		return 0, err
	}
	if err := s.Start(); err != nil {
		return 0, err
	}
	err := s.Ready(ctx)
	return time.Since(begun), err
}

func (f *Fleet) peakConnections(ctx context.Context) (peak int, err error) {
	for {
		n, err := f.connections(context.WithoutCancel(ctx))
		if err != nil {
			return peak, err
		}
		peak = max(peak, n)
		if cluster.Sleep(ctx, 20*time.Millisecond) != nil {
			return peak, nil //nolint:nilerr // told to stop
		}
	}
}
