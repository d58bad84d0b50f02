package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

const (
	maxStaleness = 3 * time.Second
	// owner has all keys but those whose owner is suspended.
	owner = "m_1"
	// password is that of every user of the broker.
	password = "hunter2"
	// gorace takes away the second for which a program built with the race detector
	// sleeps at its end.
	gorace = "GORACE=atexit_sleep_ms=0"
)

// world is what the tests share. They run one after another, for each changes
// something; each leaves two sidecars and a relay of the old version at work.
var world struct {
	*cluster.Cluster
	dir            string
	oldBin, newBin string
	// primary is the server that way leads to; sql goes that way, too.
	primary *testenv.Postgres
	way     *testenv.Proxy
	sql     *pgxpool.Pool
	// user is who everybody is at the broker.
	user string

	sidecars []*cluster.Sidecar
	relay    *cluster.Relay
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) (code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "kslife")
	if err == nil {
		world.dir = dir
		err = start(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start:", err)
		code = 1
	} else {
		code = m.Run()
	}
	if world.Cluster != nil {
		if code == 0 && strings.Contains(world.Logs(), "DATA RACE") {
			code = 1
		}
		if code != 0 {
			fmt.Fprintln(os.Stderr, world.Logs())
		}
	}
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "end:", err)
		code = 1
	}
	return code
}

func start(ctx context.Context) (err error) {
	if world.oldBin, err = buildOld(ctx, world.dir); err != nil {
		return err
	}
	var newErr error
	var building sync.WaitGroup
	building.Go(func() { world.newBin, newErr = buildNew(ctx, world.dir) })
	world.Cluster, err = cluster.Start(ctx, world.oldBin)
	building.Wait()
	if err := errors.Join(err, newErr); err != nil {
		return err
	}
	world.primary = world.PG
	if world.way, err = testenv.StartProxy(world.PG.Addr()); err != nil {
		return err
	}
	if world.sql, err = pgxpool.New(ctx, dsn("postgres")); err != nil {
		return err
	}
	for _, sql := range []string{
		`CREATE ROLE sidecar_a LOGIN IN ROLE keysidecar_sidecar`,
		`CREATE ROLE relay_a LOGIN IN ROLE keysidecar_relay`,
		`INSERT INTO keysidecar.owners (owner_id) VALUES ('` + owner + `'), ('m_2')`,
	} {
		if _, err := world.sql.Exec(ctx, sql); err != nil {
			return err
		}
	}
	err = errors.Join(write("sidecar.dsn", dsn("sidecar_a")), write("relay.dsn", dsn("relay_a")), addUser("a"))
	if err != nil {
		return err
	}
	if world.relay, err = world.RelayOf(world.oldBin, "relay", files("relay.dsn")...); err != nil {
		return err
	}
	for _, name := range []string{"sidecar-0", "sidecar-1"} {
		s, err := world.SidecarOf(world.oldBin, name, files("sidecar.dsn")...)
		if err != nil {
			return err
		}
		world.sidecars = append(world.sidecars, s)
	}
	return atWork(ctx, world.sidecars...)
}

func stop() error {
	var errs []error
	if world.sql != nil {
		world.sql.Close()
	}
	if world.way != nil {
		errs = append(errs, world.way.Close())
	}
	if world.Cluster != nil {
		if world.primary != world.PG {
			errs = append(errs, world.primary.Close())
		}
		errs = append(errs, world.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(world.dir))...)
}

// dsn leads user to the primary, whichever server that is.
func dsn(user string) string { return world.PG.DSNVia(world.way.Addr(), cluster.Database, user) }

// files makes a process read its connection strings from files.
func files(dsn string) []string {
	return []string{
		gorace,
		"KEYSIDECAR_STORE_POSTGRES_DSN=", "KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + filepath.Join(world.dir, dsn),
		"KEYSIDECAR_AMQP_URL=", "KEYSIDECAR_AMQP_URL_FILE=" + filepath.Join(world.dir, "amqp.url"),
	}
}

// addUser makes a user at the broker who may do everything, and everybody use it.
func addUser(name string) error {
	for _, args := range [][]string{{"add_user", name, password}, {"set_permissions", name, ".*", ".*", ".*"}} {
		if _, err := world.MQ.Ctl(args...); err != nil {
			return err
		}
	}
	world.user = name
	return write("amqp.url", strings.Replace(world.MQ.URL(), "guest:guest@", name+":"+password+"@", 1))
}

// write replaces a file whole, as Kubernetes replaces a secret's.
func write(name, content string) error {
	path := filepath.Join(world.dir, name)
	if err := os.WriteFile(path+".new", []byte(content+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// atWork waits until the sidecars answer and hear the broker, and the relay leads
// with a broker.
func atWork(ctx context.Context, sidecars ...*cluster.Sidecar) error {
	for _, s := range sidecars {
		if err := s.Ready(ctx); err != nil {
			return err
		}
		err := wait(ctx, s.Name+" to hear the broker", func() (bool, error) {
			n, err := s.Metric(ctx, "keysidecar_subscriber_connected")
			return n == 1, err
		})
		if err != nil {
			return err
		}
	}
	return wait(ctx, "a relay to lead", func() (bool, error) {
		n, err := world.relay.Metric(ctx, "keysidecar_relay_connected")
		return n == 1, err
	})
}

// wait polls until met, or the end of ctx.
func wait(ctx context.Context, what string, met func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := met()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for %s: %w", what, ctx.Err()), err)
		case <-tick.C:
		}
	}
}
