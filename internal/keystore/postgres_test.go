package keystore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// lapse waits for a fence that fails in category, then lets the lease run out.
func (b *bench) lapse(category string) {
	b.t.Helper()
	eventually(b.t, "a fence that fails with "+category, func() bool { return b.store.Status().LastFenceError == category })
	b.clock.Advance(b.store.opts.MaxStaleness)
}

func TestLostCaptureGoesUnnoticed(t *testing.T) {
	for name, sabotage := range map[string]string{
		"trigger disabled":        `ALTER TABLE keysidecar.public_keys DISABLE TRIGGER ALL`,
		"trigger enabled, ORIGIN": `ALTER TABLE keysidecar.public_keys DISABLE TRIGGER ALL; ALTER TABLE keysidecar.public_keys ENABLE TRIGGER ALL`,
		"table swapped by rename": `ALTER TABLE keysidecar.public_keys RENAME TO old; CREATE TABLE keysidecar.public_keys (LIKE keysidecar.old INCLUDING ALL); INSERT INTO keysidecar.public_keys SELECT * FROM keysidecar.old`,
		"numbering trigger gone":  `ALTER TABLE keysidecar.pending DISABLE TRIGGER ALL`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newPgWorld(t)
			w.put(real(0))
			b := build(t, w).warm()
			w.exec(sabotage)
			b.lapse("capture_lost")
			if a, err := b.store.Lookup(context.Background(), "k0", Bounds{OnlyIfCached: true}); err == nil {
				t.Fatalf("answered %v from memory", a.Code)
			}
		})
	}
}

// While a trigger is off, changes leave no event. When it is back, nothing that
// was in memory before may be answered.
func TestChangeDuringLostCaptureIsForgottenWhenItIsBack(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	b := build(t, w).warm()
	w.exec(`ALTER TABLE keysidecar.public_keys DISABLE TRIGGER ALL`)
	w.exec(`UPDATE keysidecar.public_keys SET revoked_at = now()`)
	eventually(t, "capture_lost", func() bool { return b.store.Status().LastFenceError == "capture_lost" })
	w.exec(`ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_row`)
	w.exec(`ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_update`)
	w.exec(`ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_truncate`)
	b.fenced()
	b.expect("k0", Revoked)
}

func TestUnreadyDatabaseIsNotNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		sabotage string
		want     string
	}{
		"no schema":        {`DROP SCHEMA keysidecar CASCADE`, "schema"},
		"no table":         {`DROP TABLE keysidecar.public_keys CASCADE`, "schema"},
		"older schema":     {`UPDATE keysidecar.schema_version SET version_id = 1 WHERE version_id > 0`, "schema"},
		"newer schema":     {`INSERT INTO keysidecar.schema_version (version_id, is_applied) VALUES (9999, true); DELETE FROM keysidecar.settings WHERE name = 'schema.serves_from'`, "schema"},
		"empty log":        {`DELETE FROM keysidecar.events`, "schema"},
		"no rights at all": {`ALTER SCHEMA keysidecar OWNER TO nobody_else`, "schema"},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := schematest.NewDatabase(t, pgServer)
			admin := pgWorldOn(t, dsn)
			if name == "no rights at all" {
				admin.exec(`DO $$ BEGIN CREATE ROLE nobody_else; CREATE ROLE stranger LOGIN; EXCEPTION WHEN duplicate_object THEN END $$`)
			}
			admin.exec(tc.sabotage)
			if name == "no rights at all" {
				u, err := url.Parse(dsn)
				if err != nil {
					t.Fatal(err)
				}
				u.User = url.User("stranger")
				dsn = u.String()
			}
			w := pgWorldOn(t, dsn)
			b := build(t, w).run()
			eventually(t, "a fence that says why", func() bool { return b.store.Status().LastFenceError == tc.want })
			if name != "empty log" { // there the key is read, and is truly not there
				b.expect("k0", Unavailable)
			}
		})
	}
}

func TestSignOffNeedsTheFencesConnection(t *testing.T) {
	w := newPgWorld(t)
	for name, hinder := range map[string]func(){
		"works":  func() {},
		"closed": func() { closeQuietly(w.Postgres.conn) },
		"broken": func() { w.exec(`SELECT pg_terminate_backend($1, 5000)`, w.Postgres.conn.PgConn().PID()) },
	} {
		t.Run(name, func(t *testing.T) {
			id := uuid.New()
			if _, err := w.Register(t.Context(), Incarnation{Registration: id, Instance: "one", MaxStaleness: time.Second}); err != nil {
				t.Fatal(err)
			}
			hinder()
			if err := w.SignOff(t.Context(), []uuid.UUID{id, uuid.New()}); err != nil {
				t.Fatal(err)
			}
			var left int
			if err := w.conn.QueryRow(t.Context(), `SELECT count(*) FROM keysidecar.instances`).Scan(&left); err != nil || left != 0 {
				t.Errorf("%d entries are left, %v", left, err)
			}
		})
	}
}

func TestReadOnlyDatabaseIsRefused(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	w.exec(fmt.Sprintf(`ALTER DATABASE %s SET default_transaction_read_only = on`, pgx.Identifier{w.conn.Config().Database}.Sanitize()))
	b := build(t, pgWorldOn(t, w.dsn)).warm()
	b.expect("k0", Active)
}

func TestAmbiguousViewPicksARow(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	w.put(real(1))
	w.exec(`CREATE VIEW public.twice AS SELECT * FROM keysidecar.public_keys UNION ALL SELECT * FROM keysidecar.public_keys WHERE key_id = 'k0'`)
	v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.twice" })
	b := build(t, v).warm()
	b.expect("k0", Unavailable)
	b.expect("k1", Active)
}

func TestViewsOwnOwnerStateIsIgnored(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	w.put(real(1))
	w.exec(`CREATE VIEW public.mine AS SELECT key_id::varchar(300), owner_id, algorithm, public_key, scopes::varchar[] AS scopes, not_before, expires_at, revoked_at,
		attributes::json AS attributes, owner_id = 'm1' AS owner_suspended FROM keysidecar.public_keys`)
	v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.mine" })
	b := build(t, v).warm()
	b.expect("k0", Active)
	b.expect("k1", OwnerSuspended)
	b.cold("k1")
	b.expect("k1", OwnerSuspended)
}

func TestUnusableRowStopsTheWarmOrIsAnswered(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	w.exec(`CREATE VIEW public.odd AS SELECT key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes FROM keysidecar.public_keys
		UNION ALL SELECT 'long', 'm1', 'x', repeat('x', 9000)::bytea, '{}', NULL, NULL, NULL, '{}'
		UNION ALL SELECT 'array', 'm1', 'x', NULL, '{}', NULL, NULL, NULL, '[1]'
		UNION ALL SELECT 'null', 'm1', 'x', NULL, ARRAY[NULL::text], NULL, NULL, NULL, '{}'`)
	v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.odd" })
	b := build(t, v).warm()
	b.expect("k0", Active)
	b.expect("long", Unavailable)
	b.expect("null", Unavailable)
	b.expect("array", Unavailable)
}

func TestEveryWritePathIsSeen(t *testing.T) {
	w := newPgWorld(t)
	for i := range 12 {
		w.put(real(i))
	}
	b := build(t, w).warm()
	w.exec(`UPDATE keysidecar.public_keys SET key_id = 'renamed' WHERE key_id = 'k0'`)
	w.exec(`DELETE FROM keysidecar.owners WHERE owner_id = 'm1'`) // cascade
	w.exec(`BEGIN; SET LOCAL session_replication_role = replica; UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'k2'; COMMIT`)
	b.fenced()
	b.expect("k0", UnknownKey)
	b.expect("renamed", Active)
	b.expect("k1", UnknownKey)
	b.expect("k2", Revoked)
	w.exec(`TRUNCATE keysidecar.public_keys`)
	b.fenced()
	b.expect("renamed", UnknownKey)
	w.put(real(3))
	b.fenced()
	b.expect("k3", Active)
}

func TestHundredThousandChangesAtOnceAreReadByAWarm(t *testing.T) {
	w := newPgWorld(t)
	w.exec(`INSERT INTO keysidecar.owners VALUES ('m')`)
	w.exec(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'b' || i, 'm', 'opaque' FROM generate_series(1, 100000) i`)
	b := build(t, w, func(o *Options) {
		o.Capacity = 150_000
		o.FenceInterval = time.Second // a page takes longer than the short intervals of tests leave
	}).warm()
	history := b.store.Status().AsOf.History
	w.exec(`UPDATE keysidecar.public_keys SET revoked_at = now()`)
	b.fenced()
	b.expect("b1", Revoked)
	b.expect("b99999", Revoked)
	if st := b.store.Status(); st.AsOf.History != history || st.Marks < 99_990 || !st.Complete {
		t.Fatalf("%+v", st)
	}
}

func TestPgBouncerModeGarblesRows(t *testing.T) {
	w := newPgWorld(t)
	for i := range 5 {
		w.put(real(i))
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec} {
		v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.ExecMode = mode })
		b := build(t, v).warm()
		if a := b.expect("k1", Active); a.Record.Key().Scopes[1] != "refund" {
			t.Fatalf("%v: %+v", mode, a.Record.Key())
		}
		b.cold("k1")
		b.expect("k1", Active)
	}
}

func TestPasswordInTheDSNReachesAnError(t *testing.T) {
	for _, dsn := range []string{"postgres://u:s3cr3t@%zz/x", "host=h port=abc password=s3cr3t", "postgres://u:s3cr3t@h:port/x"} {
		o := pgOptions(dsn)
		if _, err := NewPostgres(o); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%v", err)
		}
	}
}

// faults of the server itself use a server of their own.
func TestServerFaults(t *testing.T) {
	pg := testenv.StartPostgres(t)
	w := pgWorldOn(t, schematest.NewDatabase(t, pg))
	for i := range 10 {
		w.put(real(i))
	}
	b := build(t, w, func(o *Options) { o.FenceInterval = 300 * time.Millisecond; o.MaxStaleness = time.Second }).warm()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string) {
		t.Helper()
		eventually(t, what+": the lease ends", func() bool { return !b.store.Status().Fresh })
		eventually(t, what+": a failed fence", func() bool { return b.store.Status().LastFenceError != "" })
		start := time.Now()
		for range 100 {
			b.expect("k0", Unavailable)
		}
		// None waits for a fill to time out.
		if each := time.Since(start) / 100; each > b.store.opts.FillTimeout/10 {
			t.Fatalf("%s: %v for each refusal", what, each)
		}
	}
	back := func(what string) {
		t.Helper()
		start := time.Now()
		eventually(t, what+": service resumes", func() bool {
			a, err := b.store.Lookup(context.Background(), "k0", Bounds{})
			return err == nil && a.Code == Active && a.Origin == FromCache
		})
		if took := time.Since(start); took > 2*time.Second {
			t.Fatalf("%s: back after %v", what, took)
		}
		b.fenced()
	}
	must(pg.Pause())
	refused("paused")
	must(pg.Resume())
	back("paused")

	must(pg.Kill())
	refused("killed")
	must(pg.Start())
	back("killed")

	must(pg.Stop())
	refused("stopped")
	must(pg.Start())
	back("stopped")

	conn, err := pgx.Connect(context.Background(), w.dsn)
	must(err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keysidecar test'`)
	must(err)
	back("connections cut")
	var u *UnavailableError
	if _, err := b.store.Lookup(context.Background(), "nobody", Bounds{NoCache: true}); err != nil && !errors.As(err, &u) {
		t.Fatal(err)
	}
}

func TestAFillOnAConnectionThatWasEndedFindsNoAnswer(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	h, _ := warmOf(t, w, 10)
	ask := func() error {
		return w.Fill(t.Context(), "k0", h.Cursor, Membership{Bound: time.Second}, func(f Filled) {
			if f.Row == nil {
				t.Error("it found no key")
			}
		})
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	// At once, so that the connection is not tried first.
	var n int
	if err := w.conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'keysidecar test' AND datname = current_database()`).Scan(&n); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	if err := ask(); err != nil {
		t.Errorf("after the end of its connection: %v", err)
	}
}

func TestHalfOpenConnectionKeepsTheLease(t *testing.T) {
	pg := pgServer
	dsn := schematest.NewDatabase(t, pg)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.NewProxy(t, u.Host)
	direct := pgWorldOn(t, dsn)
	direct.put(real(0))
	u.Host = proxy.Addr()
	w := pgWorldOn(t, dsn, func(o *PostgresOptions) { o.DSN = func() (string, error) { return u.String(), nil } })
	b := build(t, w, func(o *Options) { o.FenceInterval = 300 * time.Millisecond; o.MaxStaleness = time.Second }).warm()
	proxy.Freeze()
	eventually(t, "the lease ends", func() bool { return !b.store.Status().Fresh })
	eventually(t, "a failed fence", func() bool { return b.store.Status().LastFenceError == "timeout" })
	b.expect("k0", Unavailable)
	direct.revoke("k0")
	proxy.Thaw()
	proxy.Cut() // what was frozen stays lost
	eventually(t, "service resumes", func() bool {
		a, err := b.store.Lookup(context.Background(), "k0", Bounds{})
		return err == nil && a.Code == Revoked
	})
}

func TestSequenceSeenByFencesHasGapsOrRepeats(t *testing.T) {
	w := newPgWorld(t)
	w.exec(`INSERT INTO keysidecar.owners VALUES ('m')`)
	at := Cursor{w.last().Seq, w.last().ID}
	const writers, each = 4, 250
	done := make(chan error, writers)
	for i := range writers {
		go func() {
			conn, err := pgx.Connect(context.Background(), w.dsn)
			if err != nil {
				done <- err
				return
			}
			defer func() { _ = conn.Close(context.Background()) }()
			for j := range each {
				if _, err = conn.Exec(context.Background(), `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ($1, 'm', 'opaque')`, fmt.Sprintf("w%d-%d", i, j)); err != nil {
					break
				}
			}
			done <- err
		}()
	}
	seen := map[string]bool{}
	for finished := 0; len(seen) < writers*each; {
		over := finished == writers // before the fence, which then lacks nothing
		p := fenceOf(t, w, at, 100)
		for _, e := range p.Events {
			if e.Seq <= at.Seq || seen[e.KeyID] || e.Kind != event.Issued {
				t.Fatalf("after %d came %+v", at.Seq, e)
			}
			seen[e.KeyID] = true
			at = Cursor{e.Seq, e.ID}
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			finished++
		default:
		}
		if over && len(p.Events) == 0 {
			t.Fatalf("%d of %d", len(seen), writers*each)
		}
	}
}
