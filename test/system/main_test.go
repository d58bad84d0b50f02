// Package system tests the whole of keysidecar as it runs in production: real
// processes of the real program, built with the race detector, on a real Postgres
// and a real RabbitMQ, asked over their Unix sockets.
//
// The tests share one cluster and run one after another, because each breaks
// something; each leaves everything running and healthy.
package system

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

const (
	maxStaleness  = 3 * time.Second
	fenceInterval = time.Second
	// slack is what a loaded machine may add to a bound that is about processes
	// being scheduled, not about the promise.
	slack = 2 * time.Second
)

// world is the cluster that the tests share.
var world struct {
	*cluster.Cluster
	relays   []*cluster.Relay
	sidecars []*cluster.Sidecar
}

func TestMain(m *testing.M) {
	os.Exit(cluster.Main(m, 10*time.Minute, start, func() *cluster.Cluster { return world.Cluster }, nil))
}

func start(ctx context.Context, dir string) error {
	bin, err := cluster.Build(ctx, dir, true)
	if err != nil {
		return err
	}
	if world.Cluster, err = cluster.Start(ctx, bin); err != nil {
		return err
	}
	for i := range 2 {
		r, err := world.Relay(fmt.Sprintf("relay-%d", i))
		if err != nil {
			return err
		}
		world.relays = append(world.relays, r)
	}
	for i := range 5 {
		s, err := world.Sidecar(fmt.Sprintf("sidecar-%d", i))
		if err != nil {
			return err
		}
		world.sidecars = append(world.sidecars, s)
	}
	return ready(ctx)
}

// ready waits until every sidecar answers and hears the broker, and a relay leads
// with a broker.
func ready(ctx context.Context) error {
	for _, s := range world.sidecars {
		if err := s.Ready(ctx); err != nil {
			return err
		}
		if err := atLeast(ctx, 1, func() (float64, error) { return s.Metric(ctx, "keysidecar_subscriber_connected") }); err != nil {
			return fmt.Errorf("%s does not find the broker: %w", s.Name, err)
		}
	}
	err := atLeast(ctx, 1, func() (float64, error) {
		sum := 0.0
		for _, r := range world.relays {
			n, err := r.Metric(ctx, "keysidecar_relay_connected")
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	})
	if err != nil {
		return fmt.Errorf("no relay leads: %w", err)
	}
	return nil
}

// atLeast polls value until it reaches n.
func atLeast(ctx context.Context, n float64, value func() (float64, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := value()
		if err == nil && got >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last value %v, error %v", ctx.Err(), got, err)
		case <-tick.C:
		}
	}
}

// healthy gives the test its context, and checks before and after it that the
// cluster is whole.
func healthy(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if err := ready(ctx); err != nil {
			t.Errorf("the test left the cluster broken: %v", err)
		}
	})
	if err := ready(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

func exec(t *testing.T, ctx context.Context, sql string, args ...any) time.Time {
	t.Helper()
	at, err := world.Exec(ctx, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return at
}

// issue makes active keys of one owner, by SQL, and waits until every sidecar
// has them in memory.
func issue(t *testing.T, ctx context.Context, owner string, ids ...string) {
	t.Helper()
	exec(t, ctx, `INSERT INTO keysidecar.owners (owner_id) VALUES ($1) ON CONFLICT DO NOTHING`, owner)
	exec(t, ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT unnest($2::text[]), $1, 'opaque'`, owner, ids)
	for _, s := range world.sidecars {
		for _, id := range ids {
			if _, err := s.Until(ctx, id, func(v cluster.Verdict) bool { return v.Valid && v.Source == "cache" }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// refusedBy runs change and returns the longest time, over all sidecars, from
// its acknowledgement to the first answer with one of the codes. An answer
// "valid" to a request sent later than limit after that fails the test.
func refusedBy(t *testing.T, ctx context.Context, limit time.Duration, keyID string, codes []string, change func() time.Time) time.Duration {
	t.Helper()
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		verdicts = make([]cluster.Verdict, len(world.sidecars))
		lastYes  time.Time
	)
	for i, s := range world.sidecars {
		wg.Go(func() {
			v, err := s.Until(ctx, keyID, func(v cluster.Verdict) bool {
				if v.Valid {
					mu.Lock()
					if v.SentAt.After(lastYes) {
						lastYes = v.SentAt
					}
					mu.Unlock()
				}
				return cluster.Code(codes...)(v)
			})
			if err != nil {
				t.Error(err)
			}
			verdicts[i] = v
		})
	}
	committed := change()
	wg.Wait()
	if late := lastYes.Sub(committed); late > limit {
		t.Errorf("%s was still valid for a request sent %v after the commit; the bound is %v", keyID, late, limit)
	}
	var slowest time.Duration
	for _, v := range verdicts {
		slowest = max(slowest, v.SentAt.Add(v.Took).Sub(committed))
	}
	return slowest
}
