package scale

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/load"
)

// Rollout is what restarting every sidecar took.
type Rollout struct {
	Sidecars, AtOnce int
	Took             time.Duration
	// Unserved is, for each sidecar, the longest time between two answers that a client
	// got who asked it all the while, and Away from the moment it was told to stop until
	// its successor was ready.
	Unserved, Away []time.Duration
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
			unserved, away, err := restart(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			r.Unserved, r.Away = append(r.Unserved, unserved), append(r.Away, away)
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

func restart(ctx context.Context, s *cluster.Sidecar) (unserved, away time.Duration, err error) {
	asking, stop := context.WithCancel(ctx)
	longest := make(chan time.Duration, 1)
	first := make(chan struct{})
	go func() { longest <- longestGap(asking, s.Socket, first) }()
	<-first
	begun := time.Now()
	_, err = s.Stop()
	if err == nil {
		err = s.Start()
	}
	if err == nil {
		err = s.Ready(ctx)
	}
	away = time.Since(begun)
	stop()
	return <-longest, away, err
}

// askEvery is how often longestGap asks.
const askEvery = 2 * time.Millisecond

// longestGap asks for a key until ctx ends, and returns the longest time between two
// answers, a refusal of the key being one. It connects again when it must, as a client
// would. first is closed after the first answer, or when ctx ends before.
func longestGap(ctx context.Context, socket string, first chan<- struct{}) (longest time.Duration) {
	last, c := time.Now(), (*load.Conn)(nil)
	for n := 0; ; {
		if answers(ctx, &c, socket) {
			if n++; n == 1 {
				close(first)
			} else {
				longest = max(longest, time.Since(last))
			}
			last = time.Now()
		}
		if cluster.Sleep(ctx, askEvery) != nil {
			if n == 0 {
				close(first)
			}
			if c != nil {
				_ = c.Close()
			}
			return max(longest, time.Since(last))
		}
	}
}

// answers asks once, over *c, which it makes if it is nil, and makes nil if it is of no
// more use.
func answers(ctx context.Context, c **load.Conn, socket string) bool {
	if *c == nil {
		made, err := load.Dial(ctx, socket)
		if err != nil {
			return false
		}
		*c = made
	}
	status, _, err := (*c).Get("/v1/keys/", "scale_1", "", 2*time.Second)
	if err != nil || (*c).Last() {
		_ = (*c).Close()
		*c = nil
	}
	return err == nil && (status == http.StatusOK || status == http.StatusGone)
}

// connectionsEvery is how often connections are counted. Each of them is there for longer.
const connectionsEvery = 100 * time.Millisecond

func (f *Fleet) peakConnections(ctx context.Context) (peak int, err error) {
	for {
		n, err := f.connections(context.WithoutCancel(ctx))
		if err != nil {
			return peak, err
		}
		peak = max(peak, n)
		if cluster.Sleep(ctx, connectionsEvery) != nil {
			return peak, nil //nolint:nilerr // told to stop
		}
	}
}
