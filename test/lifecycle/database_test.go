package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

const rewritten = "keysidecar_log_rewritten_total"

// A failover that loses nothing must neither bring a revoked key back nor ring the
// alarm for lost commits.
func TestAFailoverLosesARevocationOrLooksLikeALoss(t *testing.T) {
	ctx := begin(t)
	for _, id := range []string{"k_failover", "k_failover_1", "k_failover_2"} {
		issue(t, ctx, owner, id, world.sidecars...)
	}
	old := world.primary
	standby, err := old.NewStandby()
	must(t, err)
	change(t, ctx, `ALTER SYSTEM SET synchronous_standby_names = '*'`)
	change(t, ctx, `SELECT pg_reload_conf()`)
	must(t, wait(ctx, "the standby to be synchronous", func() (bool, error) {
		return number(t, ctx, `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`) == 1, nil
	}))
	change(t, ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'k_failover_1'`)
	before := make(map[string]float64)
	for _, s := range world.sidecars {
		_, err := s.Until(ctx, "k_failover_1", cluster.Code("revoked"))
		must(t, err)
		before[s.Name] = metric(t, ctx, s, rewritten)
	}
	never := ask(ctx, "k_failover_1", func(v cluster.Verdict) bool { return !v.Valid }, world.sidecars...)

	must(t, old.Kill())
	must(t, standby.Promote())
	world.primary = standby
	lead(standby)
	for _, s := range world.sidecars {
		_, err := s.Until(ctx, "k_failover", valid)
		must(t, err)
	}
	must(t, atWork(ctx, world.sidecars...))
	never.end(t, "during the failover")
	revoke(t, ctx, "k_failover_2", world.sidecars...)
	for _, s := range world.sidecars {
		// A message and a read of the key can have told of the revocation before the next fence.
		must(t, wait(ctx, s.Name+" to notice the failover", func() (bool, error) {
			return metric(t, ctx, s, "keysidecar_histories_ended_total") > 0, nil
		}))
		if n := metric(t, ctx, s, rewritten); n != before[s.Name] {
			t.Errorf("%s takes a clean failover for lost commits", s.Name)
		}
	}
}

// An older database brings revoked keys back to life, unless somebody does what the
// runbook says; then nobody may accept one for a moment.
func TestARestoredBackupBringsRevokedKeysBack(t *testing.T) {
	ctx := begin(t)
	for _, id := range []string{"k_backup", "k_revoked", "k_deleted", "k_changed"} {
		issue(t, ctx, owner, id, world.sidecars...)
	}
	issue(t, ctx, "m_2", "k_suspended", world.sidecars...)
	dump, err := world.primary.Dump(cluster.Database)
	must(t, err)
	change(t, ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'k_revoked'`)
	change(t, ctx, `DELETE FROM keysidecar.public_keys WHERE key_id = 'k_deleted'`)
	change(t, ctx, `UPDATE keysidecar.public_keys SET expires_at = now() - interval '1 hour' WHERE key_id = 'k_changed'`)
	change(t, ctx, `UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = 'm_2'`)
	issue(t, ctx, owner, "k_later", world.sidecars...)
	lost := []string{"k_revoked", "k_deleted", "k_changed", "k_suspended"}
	before := make(map[string]float64)
	for _, s := range world.sidecars {
		before[s.Name] = metric(t, ctx, s, rewritten)
		for _, id := range lost {
			_, err := s.Until(ctx, id, func(v cluster.Verdict) bool { return !v.Valid })
			must(t, err)
		}
	}
	var never []*asking
	for _, id := range lost {
		never = append(never, ask(ctx, id, func(v cluster.Verdict) bool { return !v.Valid }, world.sidecars...))
	}

	// Step 1: nobody gets there, and all of them notice.
	world.way.Retarget("127.0.0.1:1")
	world.way.Cut()
	for _, s := range world.sidecars {
		_, err := s.Until(ctx, "k_backup", cluster.Code("unavailable"))
		must(t, err)
	}
	// Steps 2 to 4, in the words of the document.
	restored := restore(t, dump)
	takeBackTrust(t, ctx, restored, lost)
	// Step 6.
	swap(t, restored)
	for _, s := range world.sidecars {
		_, err := s.Until(ctx, "k_backup", valid)
		must(t, err)
		for id, code := range map[string]string{"k_revoked": "revoked", "k_deleted": "revoked", "k_changed": "revoked", "k_suspended": "owner_suspended", "k_later": "unknown_key"} {
			// It may still be finding its way into the new registry, and then cannot tell.
			v, err := s.Until(ctx, id, func(v cluster.Verdict) bool { return v.Code != "unavailable" })
			if err != nil || v.Code != code {
				t.Errorf("%s: %s: %+v, %v", s.Name, id, v, err)
			}
		}
	}
	must(t, atWork(ctx, world.sidecars...))
	for _, a := range never {
		a.end(t, "while the backup was restored")
	}
	noticed(t, ctx, before)
	a, _, err := world.sidecars[0].Receipt(ctx, "k_revoked", 15e9)
	if err != nil || !a.Complete {
		t.Errorf("receipt after the restore: %+v, %v", a, err)
	}
	change(t, ctx, `UPDATE keysidecar.owners SET suspended_at = NULL WHERE owner_id = 'm_2'`)
}

// Whoever restores without reading anything gets what the backup says; that must be
// told, also by a log that has grown past what the sidecars knew.
func TestARestoredBackupGoesUnnoticed(t *testing.T) {
	ctx := begin(t)
	issue(t, ctx, owner, "k_unnoticed", world.sidecars...)
	dump, err := world.primary.Dump(cluster.Database)
	must(t, err)
	revoke(t, ctx, "k_unnoticed", world.sidecars...)
	head := number(t, ctx, `SELECT max(seq) FROM keysidecar.events`)
	before := make(map[string]float64)
	for _, s := range world.sidecars {
		before[s.Name] = metric(t, ctx, s, rewritten)
	}
	world.way.Retarget("127.0.0.1:1")
	restored := restore(t, dump)
	out, err := world.primary.Psql(restored, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..20 LOOP
		INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('k_grown_' || i, '%s', 'opaque'); END LOOP; END $$`, owner))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	swap(t, restored)
	if n := number(t, ctx, `SELECT max(seq) FROM keysidecar.events`); n <= head {
		t.Fatalf("the log has not grown past %d: %d", head, n)
	}
	noticed(t, ctx, before)
	must(t, atWork(ctx, world.sidecars...))
	revoke(t, ctx, "k_unnoticed", world.sidecars...)
}

// restore brings a dump back under another name.
func restore(t *testing.T, dump string) (database string) {
	t.Helper()
	const name = cluster.Database + "_restored"
	must(t, world.primary.CreateDatabase(name, ""))
	if out, err := world.primary.Psql(name, dump); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return name
}

// takeBackTrust does steps 2 to 4 of the runbook, and shows that they are needed.
func takeBackTrust(t *testing.T, ctx context.Context, restored string, lost []string) {
	t.Helper()
	const heading = "Restore a backup"
	at := func(database string, do func(*pgx.Conn) error) {
		t.Helper()
		conn, err := pgx.Connect(ctx, world.primary.DSN(database))
		must(t, err)
		must(t, errors.Join(do(conn), conn.Close(ctx)))
	}
	alive := func() (n int) {
		at(restored, func(c *pgx.Conn) error {
			return c.QueryRow(ctx, `SELECT count(*) FROM keysidecar.public_keys k JOIN keysidecar.owners o USING (owner_id)
				WHERE key_id = ANY ($1) AND revoked_at IS NULL AND suspended_at IS NULL AND coalesce(expires_at > now(), true)`, lost).Scan(&n)
		})
		return n
	}
	if n := alive(); n != len(lost) {
		t.Errorf("%d of %d keys are alive in the backup; what is shown here?", n, len(lost))
	}
	var backupHead int64
	at(restored, func(c *pgx.Conn) error { return c.QueryRow(ctx, runbook(t, heading, "backup_head")).Scan(&backupHead) })
	var since strings.Builder
	at(cluster.Database, func(c *pgx.Conn) error {
		sql := strings.ReplaceAll(runbook(t, heading, "COPY (SELECT"), "BACKUP_HEAD", fmt.Sprint(backupHead))
		_, err := c.PgConn().CopyTo(ctx, &since, sql)
		return err
	})
	// psql runs as the server's user, who must be able to read it.
	dir, err := os.MkdirTemp("", "kssince")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "since.csv")
	must(t, errors.Join(os.WriteFile(file, []byte(since.String()), 0o600), os.Chmod(file, 0o644), os.Chmod(dir, 0o755)))
	script := strings.ReplaceAll(runbook(t, heading, "CREATE TEMP TABLE since"), "since.csv", file)
	if out, err := world.primary.Psql(restored, script); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := alive(); n != 0 {
		t.Errorf("%d keys are still alive after the runbook; since.csv:\n%s", n, since.String())
	}
}

// swap puts the restored database in the place of the lost one, and leads there.
func swap(t *testing.T, restored string) {
	t.Helper()
	world.way.Cut()
	must(t, world.primary.DropDatabase(cluster.Database))
	if out, err := world.primary.Psql("postgres", "ALTER DATABASE "+restored+" RENAME TO "+cluster.Database); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lead(world.primary)
}

// lead makes every way lead to a server.
func lead(to *testenv.Postgres) {
	world.way.Retarget(to.Addr())
	world.sql.Reset()
}

// noticed waits until each sidecar counts one more rewritten log, and has said so.
func noticed(t *testing.T, ctx context.Context, before map[string]float64) {
	t.Helper()
	for _, s := range world.sidecars {
		must(t, wait(ctx, s.Name+" to notice that the log lacks what it had read", func() (bool, error) {
			n, err := s.Metric(ctx, rewritten)
			return n == before[s.Name]+1, err
		}))
		says(t, ctx, s.Process, "", "the log lacks an event that was read from it")
	}
}
