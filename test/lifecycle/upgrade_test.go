package lifecycle

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/schema"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// command runs a program of one of the two versions once.
func command(t *testing.T, ctx context.Context, bin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), gorace, "KEYSIDECAR_STORE_POSTGRES_DSN="+dsn("postgres"), "KEYSIDECAR_AMQP_URL="+world.MQ.URL())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func migrate(t *testing.T, ctx context.Context, args ...string) {
	t.Helper()
	if out, err := command(t, ctx, world.newBin, append([]string{"migrate"}, args...)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// started starts a sidecar, which ends with the test.
func started(t *testing.T, bin, name string) *cluster.Sidecar {
	t.Helper()
	s, err := world.SidecarOf(bin, name, files("sidecar.dsn")...)
	must(t, err)
	t.Cleanup(func() {
		if s.Running() {
			if _, err := s.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// An update of schema and programs, step by step as the runbook has it, and back.
func TestAnUpdateOrTheWayBackInterruptsOrHidesARevocation(t *testing.T) {
	ctx := begin(t)
	old := world.sidecars
	issue(t, ctx, owner, "k_steady", old...)
	for i := range 6 {
		issue(t, ctx, owner, fmt.Sprint("k_update_", i), old...)
	}
	all := ask(ctx, "k_steady", valid, old...)

	// A program that is too new for the schema waits and says why; it comes to life by
	// itself once somebody has migrated.
	first := started(t, world.newBin, "new-0")
	says(t, ctx, first.Process, "", fmt.Sprintf("it has version %d, this program needs %d: run keysidecar migrate", schema.Latest, next))
	migrateUnderLoad(t, ctx)
	must(t, atWork(ctx, append(old, first)...))
	revoke(t, ctx, "k_update_0", append(old, first)...)

	// Relays: the new one stands by, and leads when the old one is stopped.
	newRelay, err := world.RelayOf(world.newBin, "relay-new", files("relay.dsn")...)
	must(t, err)
	oldRelay := world.relay
	_, err = oldRelay.Stop()
	must(t, err)
	world.relay = newRelay
	must(t, atWork(ctx, append(old, first)...))
	revoke(t, ctx, "k_update_1", append(old, first)...)
	receiptOf(t, ctx, "k_update_1", 3, old[0], first)

	// Sidecars follow one by one; here the second of the new ones, and an old one goes.
	second := started(t, world.newBin, "new-1")
	must(t, atWork(ctx, second))
	all.end(t, "during the update")
	_, err = old[1].Stop()
	must(t, err)
	fleet := []*cluster.Sidecar{old[0], first, second}
	all = ask(ctx, "k_steady", valid, fleet...)
	revoke(t, ctx, "k_update_2", fleet...)
	receiptOf(t, ctx, "k_update_2", 3, fleet...)

	// The way back: programs first, on the newer schema.
	must(t, old[1].Start())
	must(t, oldRelay.Start())
	_, err = newRelay.Stop()
	must(t, err)
	world.relay = oldRelay
	must(t, atWork(ctx, append(fleet, old[1])...))
	revoke(t, ctx, "k_update_3", append(fleet, old[1])...)
	all.end(t, "on the way back")

	// A migration that older programs cannot live with says so, and they are refused
	// by name when they connect.
	change(t, ctx, `UPDATE keysidecar.settings SET value = $1 WHERE name = 'schema.serves_from'`, fmt.Sprint(next))
	before := old[0].Log()
	change(t, ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keysidecar sidecar-0'`)
	says(t, ctx, old[0].Process, before, fmt.Sprintf("it has version %d and serves programs built for %d and later", next, next))
	_, err = old[0].Until(ctx, "k_steady", cluster.Code("unavailable"))
	must(t, err)
	revoke(t, ctx, "k_update_4", first, second)
	change(t, ctx, `UPDATE keysidecar.settings SET value = $1 WHERE name = 'schema.serves_from'`, fmt.Sprint(schema.Latest))
	must(t, atWork(ctx, old...))

	// The schema back, too: when no program needs the newer one any more.
	for _, s := range []*cluster.Sidecar{first, second} {
		_, err := s.Stop()
		must(t, err)
	}
	all = ask(ctx, "k_steady", valid, old...)
	migrate(t, ctx, "--down-to", fmt.Sprint(schema.Latest))
	revoke(t, ctx, "k_update_5", old...)
	all.end(t, "while the schema went back")
	if v := number(t, ctx, `SELECT max(version_id) FROM keysidecar.schema_version`); v != schema.Latest {
		t.Errorf("the schema has version %d", v)
	}
	if out, err := command(t, ctx, world.newBin, "migrate", "--down-to", "0"); err == nil || !strings.Contains(out, "must be between") {
		t.Errorf("the schema was taken away: %v\n%s", err, out)
	}
}

// migrateUnderLoad migrates while a dump, say, reads the tables: the migration must
// not stand in the way of everybody else's reads.
func migrateUnderLoad(t *testing.T, ctx context.Context) {
	t.Helper()
	tx, err := world.sql.Begin(ctx)
	must(t, err)
	_, err = tx.Exec(ctx, `SELECT count(*) FROM keysidecar.public_keys, keysidecar.events`)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, err := command(t, ctx, world.newBin, "migrate")
		if err != nil || !strings.Contains(out, "waiting for process") || !strings.Contains(out, fmt.Sprintf("from version %d to %d", schema.Latest, next)) {
			t.Errorf("migrate: %v\n%s", err, out)
		}
	}()
	// For longer than the bound; reads would be at an end if they waited behind it.
	select {
	case <-done:
		t.Error("the migration did not wait for the table")
	case <-time.After(maxStaleness + 500*time.Millisecond):
	}
	must(t, tx.Rollback(ctx))
	<-done
}

// receiptOf waits for a receipt of each sidecar's and checks that so many have
// reported.
func receiptOf(t *testing.T, ctx context.Context, id string, n int, sidecars ...*cluster.Sidecar) {
	t.Helper()
	for _, s := range sidecars {
		a, _, err := s.Receipt(ctx, id, 10*time.Second)
		must(t, err)
		if !a.Complete || a.Acknowledged.Count != n {
			t.Errorf("%s: receipt for %s: %+v", s.Name, id, a)
		}
	}
}
