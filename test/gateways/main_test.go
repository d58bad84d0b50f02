// Package gateways runs the configurations of docs/integrations.md, as they stand
// there, in real gateways in front of a real sidecar with its Postgres, RabbitMQ and
// relay.
package gateways

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// The sidecar's own questions are rare here, so that what is refused within
// milliseconds was refused because of a message.
const (
	maxStaleness  = 4 * time.Second
	fenceInterval = 2 * time.Second
)

// world is what the tests share. They run one after another.
var world struct {
	*cluster.Cluster
	sidecar  *cluster.Sidecar
	tcp      string // the sidecar's loopback listener
	app      *application
	gateways []*gateway
}

// write is the document that takes what was measured.
var write = flag.String("write", "", "document whose section of gateways is written anew")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(cluster.Main(m, 5*time.Minute, start, func() *cluster.Cluster { return world.Cluster }, noSecretLogged))
}

// noSecretLogged looks for the keys that requests presented in the sidecar's log.
func noSecretLogged() error {
	for _, secret := range issued {
		if strings.Contains(world.sidecar.Log(), secret) {
			return fmt.Errorf("the sidecar's log holds %s", secret)
		}
	}
	return nil
}

func start(ctx context.Context, dir string) error {
	bin, err := cluster.Build(ctx, dir, false)
	if err != nil {
		return err
	}
	if world.Cluster, err = cluster.Start(ctx, bin); err != nil {
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
	world.tcp = tcp
	world.sidecar, err = world.Sidecar("sidecar",
		"KEYSIDECAR_AUTHZ_CREDENTIAL=secret", `KEYSIDECAR_AUTHZ_POLICIES={"refunds":{"scopes":["refund"]}}`, "KEYSIDECAR_LISTEN_TCP_ADDRESS="+tcp,
		"KEYSIDECAR_LOG_LEVEL=debug", fmt.Sprint("KEYSIDECAR_FRESHNESS_MAX_STALENESS=", maxStaleness), fmt.Sprint("KEYSIDECAR_FRESHNESS_FENCE_INTERVAL=", fenceInterval))
	if err != nil {
		return err
	}
	if world.app, err = newApplication(); err != nil {
		return err
	}
	for _, make := range []func(string) (*gateway, error){newNginx, newCaddy, newHAProxy} {
		g, err := make(dir)
		if err != nil {
			return err
		}
		world.gateways = append(world.gateways, g)
	}
	return ready(ctx)
}

// ready waits until the sidecar answers and hears the broker, and the gateways
// answer.
func ready(ctx context.Context) error {
	if err := world.sidecar.Ready(ctx); err != nil {
		return err
	}
	err := until(ctx, "the sidecar hears the broker", func() bool {
		n, err := world.sidecar.Metric(ctx, "keysidecar_subscriber_connected")
		return err == nil && n == 1
	})
	for _, g := range world.gateways {
		if err == nil {
			err = until(ctx, g.name+" answers", func() bool {
				status, err := g.status(ctx, "")
				return err == nil && status == http.StatusUnauthorized
			})
		}
	}
	return err
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

// issued are the secrets that must not be in the sidecar's log.
var issued []string

// issue stores a secret key, as its hash, and waits until the sidecar takes it.
func issue(t *testing.T, secret, owner string, scopes ...string) string {
	t.Helper()
	issued = append(issued, secret)
	id := keystore.HashSecret(nil, []byte(secret))
	if scopes == nil {
		scopes = []string{}
	}
	if _, err := world.Exec(t.Context(), `INSERT INTO keysidecar.owners (owner_id) VALUES ($1) ON CONFLICT DO NOTHING`, owner); err != nil {
		t.Fatal(err)
	}
	if _, err := world.Exec(t.Context(), `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, scopes) VALUES ($1, $2, 'opaque', $3)
		ON CONFLICT (key_id) DO UPDATE SET revoked_at = NULL`, id, owner, scopes); err != nil {
		t.Fatal(err)
	}
	if _, err := world.sidecar.Until(t.Context(), id, cluster.Code("active")); err != nil {
		t.Fatal(err)
	}
	return id
}
