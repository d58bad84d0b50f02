package keystore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
)

// usageBench is a database with some keys, and a source on it.
type usageBench struct {
	t      *testing.T
	conn   *pgx.Conn
	source *Postgres
}

func newUsageBench(t *testing.T, change ...func(*PostgresOptions)) *usageBench {
	t.Helper()
	dsn := schematest.NewDatabase(t, pgServer)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	o := pgOptions(dsn)
	for _, c := range change {
		c(&o)
	}
	source, err := NewPostgres(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		source.Close()
		_ = conn.Close(context.Background())
	})
	b := &usageBench{t, conn, source}
	b.do(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	b.do(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'pk_' || lpad(i::text, 4, '0'), 'm_1', 'opaque' FROM generate_series(1, 1200) i`)
	return b
}

func (b *usageBench) do(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.conn.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

func ask[T any](b *usageBench, sql string, args ...any) (v T) {
	b.t.Helper()
	if err := b.conn.QueryRow(b.t.Context(), sql, args...).Scan(&v); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (b *usageBench) open() *UsageSession {
	b.t.Helper()
	s, err := b.source.OpenUsage(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(s.Close)
	return s
}

// age is how long ago, in seconds, a key was used last, as the table has it.
func (b *usageBench) age(keyID string) float64 {
	b.t.Helper()
	return ask[float64](b, `SELECT extract(epoch FROM now() - last_used_at)::float8 FROM keysidecar.key_usage WHERE key_id = $1`, keyID)
}

func TestAnOlderUseNeverMovesALaterOneBack(t *testing.T) {
	t.Parallel()
	b := newUsageBench(t)
	s := b.open()
	for _, age := range []float64{500, 100, 300} {
		if err := s.Write(t.Context(), []string{"pk_0001", "pk_0002"}, []float64{age, 600 - age}, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if a := b.age("pk_0001"); a < 99 || a > 130 {
		t.Errorf("pk_0001 was used %v s ago, want 100", a)
	}
	if a := b.age("pk_0002"); a < 99 || a > 130 {
		t.Errorf("pk_0002 was used %v s ago, want 100", a)
	}
}

// A fleet that uses one key all the time must not make one write a sidecar of it.
func TestARowIsNotTouchedUntilALaterMomentIsToBeWritten(t *testing.T) {
	t.Parallel()
	b := newUsageBench(t)
	s := b.open()
	const place = `SELECT concat(ctid, ' ', xmin, ' ', xmax) FROM keysidecar.key_usage WHERE key_id = 'pk_0001'`
	write := func(age float64, resolution time.Duration) string {
		t.Helper()
		if err := s.Write(t.Context(), []string{"pk_0001"}, []float64{age}, resolution); err != nil {
			t.Fatal(err)
		}
		return ask[string](b, place)
	}
	before := write(100, time.Hour)
	if at := ask[int](b, `SELECT (extract(epoch FROM last_used_at)::bigint % 3600)::int FROM keysidecar.key_usage`); at != 0 {
		t.Errorf("not rounded down to an hour: %d s after it", at)
	}
	if after := write(100, 24*time.Hour); after != before {
		t.Errorf("the row was written for an earlier moment: %s, %s", before, after)
	}
	if after := write(0, time.Second); after == before {
		t.Error("the row was not written for a later moment")
	}
}

func TestWritingUsesMakesNoEventAndTouchesNoKey(t *testing.T) {
	t.Parallel()
	b := newUsageBench(t)
	const state = `SELECT concat((SELECT max(seq) FROM keysidecar.events), ' ', (SELECT count(*) FROM keysidecar.staging), ' ',
		(SELECT last_value FROM keysidecar.seq), ' ', (SELECT max(xmin::text::bigint) || '/' || max(xmax::text::bigint) FROM keysidecar.public_keys))`
	before := ask[string](b, state)
	s := b.open()
	if err := s.Write(t.Context(), []string{"pk_0001", "pk_0002", "pk_gone"}, []float64{1, 2, 3}, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, gone, err := s.Prune(t.Context(), ""); err != nil || gone != 1 {
		t.Fatal(gone, err)
	}
	if after := ask[string](b, state); after != before {
		t.Errorf("the log or the keys changed: %s, %s", before, after)
	}
	if n := ask[int](b, `SELECT count(*) FROM pg_trigger WHERE tgrelid = 'keysidecar.key_usage'::regclass`); n != 0 {
		t.Errorf("%d triggers on the table of uses", n)
	}
}

func TestUsesOfKeysThatAreGoneAreDeletedPageByPage(t *testing.T) {
	t.Parallel()
	b := newUsageBench(t)
	s := b.open()
	b.do(`INSERT INTO keysidecar.key_usage (key_id, last_used_at) SELECT key_id, now() FROM keysidecar.public_keys`)
	b.do(`INSERT INTO keysidecar.key_usage (relation, key_id, last_used_at) VALUES ('app.api_keys', 'pk_of_others', now())`)
	b.do(`DELETE FROM keysidecar.public_keys WHERE key_id IN ('pk_0003', 'pk_0700', 'pk_1200')`)
	b.do(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'pk_0004'`) // still there
	from, all := "", int64(0)
	for page := 1; ; page++ {
		next, gone, err := s.Prune(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		all += gone
		if from = next; next == "" {
			if page != 3 {
				t.Errorf("%d pages of %d for 1200 rows", page, pruneRows)
			}
			break
		}
	}
	if left := ask[int](b, `SELECT count(*) FROM keysidecar.key_usage`); all != 3 || left != 1198 {
		t.Errorf("%d deleted, %d left", all, left)
	}
}

// Two sidecars write the same keys, and a third deletes some: all in one order.
func TestWritersOfTheSameKeysDoNotDeadlock(t *testing.T) {
	t.Parallel()
	b := newUsageBench(t)
	keys := make([]string, 400)
	for i := range keys {
		keys[i] = fmt.Sprintf("pk_%04d", i+1)
	}
	var all sync.WaitGroup
	for w := range 3 {
		s := b.open()
		all.Go(func() {
			for round := range 15 {
				ages := make([]float64, len(keys))
				for i := range ages {
					ages[i] = float64(200 - 10*round + w)
				}
				if err := s.Write(context.Background(), keys, ages, time.Second); err != nil {
					t.Error(err)
				}
				if _, _, err := s.Prune(context.Background(), ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := ask[int](b, `SELECT count(*) FROM keysidecar.key_usage`); n != len(keys) {
		t.Errorf("%d rows", n)
	}
}

// Somebody who locks the table of uses delays writes of uses, and nothing else.
func TestALockedTableOfUsesDelaysNoFenceAndNoFill(t *testing.T) {
	t.Parallel()
	b := newUsageBench(t)
	s := b.open()
	tx, err := b.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `LOCK TABLE keysidecar.key_usage IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- s.Write(context.Background(), []string{"pk_0001"}, []float64{1}, time.Second) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	fills := 0
	for waiting := true; waiting; {
		// Connections for fills are MaxConns - 1, so one write in their pool would show.
		err := b.source.Fill(ctx, "pk_0001", noCursor, Membership{Bound: time.Second}, func(Filled) { fills++ })
		if err != nil {
			t.Fatalf("a fill: %v", err)
		}
		if _, err := b.source.Fence(ctx, FenceQuestion{At: noCursor, Limit: 1, By: Membership{Bound: time.Second}}); err != nil {
			t.Fatalf("a fence: %v", err)
		}
		select {
		case err := <-wrote:
			if err == nil {
				t.Error("the write did not meet the lock")
			}
			waiting = false
		default:
		}
	}
	if fills == 0 {
		t.Error("no fill was tried")
	}
}

func TestUsesAreWrittenWithTheRightsOfASidecarAlone(t *testing.T) {
	t.Parallel()
	b := newUsageBench(t)
	b.do(`DO $$ BEGIN CREATE ROLE usage_sidecar LOGIN IN ROLE keysidecar_sidecar; EXCEPTION WHEN duplicate_object THEN NULL; END $$`)
	dsn := pgServer.DSN(b.conn.Config().Database, "usage_sidecar")
	b.source.opts.DSN = func() (string, error) { return dsn, nil }
	s := b.open()
	if err := s.Write(t.Context(), []string{"pk_0001", "pk_gone"}, []float64{9, 9}, time.Second); err != nil {
		t.Error(err)
	}
	if err := s.Write(t.Context(), []string{"pk_0001"}, []float64{1}, time.Second); err != nil {
		t.Error(err)
	}
	if _, gone, err := s.Prune(t.Context(), ""); err != nil || gone != 1 {
		t.Error(gone, err)
	}
	b.do(`REVOKE ALL ON keysidecar.key_usage FROM keysidecar_sidecar; REVOKE UPDATE (last_used_at) ON keysidecar.key_usage FROM keysidecar_sidecar`)
	if err := s.Write(t.Context(), []string{"pk_0001"}, []float64{1}, time.Second); !errors.Is(err, ErrSchema) {
		t.Errorf("without the right: %v", err)
	}
}
