package recipes

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// The sidecar's own questions are rare here, so that what is refused within
// milliseconds was refused because of a message.
const (
	maxStaleness  = 4 * time.Second
	fenceInterval = 2 * time.Second
)

// write is the document that takes what was measured.
var write = flag.String("write", "", "document whose section of programs is written anew")

// world is what the tests share. They run one after another.
var world struct {
	*cluster.Cluster
	sidecar *cluster.Sidecar
	at      place
	// fake answers nonsense.
	fake     place
	programs []program
	// subscriber is examples/events, compiled.
	subscriber string
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(cluster.Main(m, 5*time.Minute, start, func() *cluster.Cluster { return world.Cluster }, nil))
}

func start(ctx context.Context, dir string) error {
	made := make(chan error, 1)
	go func() {
		var err error
		world.programs, err = programs(ctx, dir)
		world.subscriber = filepath.Join(dir, "subscriber")
		made <- errors.Join(err, run(ctx, "", "go", "build", "-o", world.subscriber, examples+"/events"))
	}()
	bin, err := cluster.Build(ctx, dir, false)
	if err == nil {
		world.Cluster, err = cluster.Start(ctx, bin)
	}
	if err = errors.Join(err, <-made); err != nil {
		return err
	}
	if world.fake, err = startFake(dir); err != nil {
		return err
	}
	if _, err := world.Relay("relay"); err != nil {
		return err
	}
	tcp, release, err := testenv.ReserveAddress()
	if err != nil {
		return err
	}
	defer func() { _ = release() }()
	world.sidecar, err = world.Sidecar("sidecar", "KEYSIDECAR_LISTEN_TCP_ADDRESS="+tcp,
		fmt.Sprint("KEYSIDECAR_FRESHNESS_MAX_STALENESS=", maxStaleness), fmt.Sprint("KEYSIDECAR_FRESHNESS_FENCE_INTERVAL=", fenceInterval))
	if err != nil {
		return err
	}
	world.at = place{world.sidecar.Socket, tcp}
	return ready(ctx)
}

// ready waits until the sidecar answers and hears the broker.
func ready(ctx context.Context) error {
	if err := world.sidecar.Ready(ctx); err != nil {
		return err
	}
	return until(ctx, "the sidecar hears the broker", func() bool {
		n, err := world.sidecar.Metric(ctx, "keysidecar_subscriber_connected")
		return err == nil && n == 1
	})
}

// until polls: what is waited for is usually milliseconds away.
func until(ctx context.Context, what string, met func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// The owner's name and the attributes look like members of a verdict.
const (
	owner      = `m","valid":false,"key_id":"x`
	attributes = `{"key_id":"x","valid":"false","code":"revoked"}`
)

// issue stores a key and waits until the sidecar takes it.
func issue(t *testing.T, keyID string) {
	t.Helper()
	execute(t, `INSERT INTO keysidecar.owners (owner_id) VALUES ($1) ON CONFLICT DO NOTHING`, owner)
	execute(t, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, attributes) VALUES ($1, $2, 'opaque', $3)
		ON CONFLICT (key_id) DO UPDATE SET revoked_at = NULL`, keyID, owner, attributes)
	if _, err := world.sidecar.Until(t.Context(), keyID, cluster.Code("active")); err != nil {
		t.Fatal(err)
	}
}

// revoke revokes a key as an application would, and returns when the commit was
// acknowledged.
func revoke(t *testing.T, keyID string) time.Time {
	t.Helper()
	return execute(t, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, keyID)
}

func execute(t *testing.T, sql string, args ...any) time.Time {
	t.Helper()
	at, err := world.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
