package load

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/history"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func value[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// quick makes a revoker work through many keys in little time.
func quick(o RevokerOptions) RevokerOptions {
	o.Rate, o.Settle, o.Lead, o.RestoreAfter, o.Seed = 300, 20*time.Millisecond, 10*time.Millisecond, 30*time.Millisecond, 1
	return o
}

func newRevoker(t *testing.T, o RevokerOptions) *Revoker {
	t.Helper()
	r, err := NewRevoker(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// valid is what a sidecar would say of a key.
const valid = `SELECT EXISTS (SELECT 1 FROM keysidecar.public_keys k JOIN keysidecar.owners o USING (owner_id)
	WHERE key_id = $1 AND revoked_at IS NULL AND suspended_at IS NULL)`

// What the revoker claims is so in the database: keys that it says it revoked are
// refused unless it restored them, in the ways it says, under the numbers it says.
func TestRevokerClaimsWhatIsNotSo(t *testing.T) {
	t.Parallel()
	dsn := schematest.NewDatabase(t, pg)
	conn := connect(t, dsn)
	h := newTape(t)
	watch := new(Watch)
	var mu sync.Mutex
	told := make(map[history.Revocation]bool)
	r := newRevoker(t, quick(RevokerOptions{
		DSN: dsn, History: h.Writer, Watch: watch, Restore: 0.5,
		OnRevoked: func(rev history.Revocation) {
			mu.Lock()
			defer mu.Unlock()
			told[rev] = true
		},
	}))
	stop := drive(t, r.Run)
	eventually(t, "five hundred revocations", func() bool { n, _ := r.Counts(); return n >= 500 })
	r.Pause() // nothing is cut off by the end
	stop()

	records := everything(t, h)
	type life struct {
		issued, revoked, restored int64
		seq                       int64
	}
	keys := make(map[string]*life)
	waysSeen := make(map[string]int)
	restored := 0
	for _, rec := range records {
		switch rec := rec.(type) {
		case *history.Issue:
			keys[rec.KeyID] = &life{issued: rec.AckedAt}
		case *history.Revocation:
			k := keys[rec.KeyID]
			if k == nil || rec.AckedAt == 0 || rec.AckedAt <= rec.SentAt || rec.SentAt < k.issued+int64(20*time.Millisecond) || rec.SentAt < k.restored || rec.Seq <= k.seq {
				t.Fatalf("%+v after %+v", rec, k)
			}
			if !told[*rec] {
				t.Fatalf("%+v was not told", rec)
			}
			k.revoked, k.seq = rec.AckedAt, rec.Seq
			waysSeen[rec.Way]++
			kind := value[string](t, conn, `SELECT kind FROM keysidecar.events WHERE seq = $1`, rec.Seq)
			want := map[string]string{"update": "revoked", "function": "revoked", "delete": "deleted", "suspend": "owner_changed", "rename": "deleted"}[rec.Way]
			if kind != want {
				t.Fatalf("%+v: the event is %s", rec, kind)
			}
		case *history.Restore:
			k := keys[rec.KeyID]
			if k == nil || rec.SentAt < k.revoked || rec.AckedAt <= rec.SentAt {
				t.Fatalf("%+v after %+v", rec, k)
			}
			k.restored = rec.AckedAt
			restored++
		}
	}
	if len(waysSeen) != 5 || restored == 0 {
		t.Errorf("ways %v, %d restored", waysSeen, restored)
	}
	for id, k := range keys {
		if got, want := value[bool](t, conn, valid, id), k.revoked == 0 || k.restored > k.revoked; got != want {
			t.Errorf("%s: valid %v, the history says %v", id, got, want)
		}
	}
	if len(watch.changes) < 1000 {
		t.Errorf("%d changes of the watch", len(watch.changes))
	}
}

// everything returns all records but requests.
func everything(t *testing.T, h *tape) []history.Record {
	t.Helper()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := history.Open(h.path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []history.Record
	for rec, err := range r.Records() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rec)
	}
	return got
}

// While it is paused nothing is committed.
func TestPausedRevokerRevokes(t *testing.T) {
	t.Parallel()
	dsn := schematest.NewDatabase(t, pg)
	conn := connect(t, dsn)
	h := newTape(t)
	r := newRevoker(t, quick(RevokerOptions{DSN: dsn, History: h.Writer, Restore: 0.3}))
	stop := drive(t, r.Run)
	defer stop()
	for range 5 {
		n, _ := r.Counts()
		eventually(t, "revocations", func() bool { m, _ := r.Counts(); return m > n+20 })
		r.Pause()
		head := value[int64](t, conn, `SELECT max(seq) FROM keysidecar.events`)
		from := history.Now()
		eventually(t, "a while", func() bool { return history.Now() > from+int64(100*time.Millisecond) })
		if now := value[int64](t, conn, `SELECT max(seq) FROM keysidecar.events`); now != head {
			t.Fatalf("the head went from %d to %d", head, now)
		}
		r.Resume()
	}
	r.Pause()
	stop() // paused, too, it ends
	_ = h.Close()
}

// Through a crash, a pause, a read-only server and a promoted standby it goes on,
// and claims nothing that it has no acknowledgement for.
func TestRevokerGivesUpOrClaimsWhatFailed(t *testing.T) {
	t.Parallel()
	own := testenv.StartPostgres(t)
	dsn := schematest.NewDatabase(t, own)
	h := newTape(t)
	r := newRevoker(t, quick(RevokerOptions{
		DSN: dsn, History: h.Writer, Timeout: 300 * time.Millisecond, Workers: 3,
		Weights: map[string]int{"update": 3, "delete": 1},
	}))
	stop := drive(t, r.Run)
	defer stop()
	goesOn := func() {
		t.Helper()
		n, _ := r.Counts()
		eventually(t, "revocations", func() bool { m, _ := r.Counts(); return m > n+20 })
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := func() {
		t.Helper()
		_, n := r.Counts()
		eventually(t, "a revocation without an acknowledgement", func() bool { _, m := r.Counts(); return m > n })
	}
	goesOn()
	must(own.Kill())
	must(own.Start())
	goesOn()
	must(own.Pause())
	fails()
	must(own.Resume())
	goesOn()
	conn := connect(t, dsn)
	_, err := conn.Exec(context.Background(), `ALTER SYSTEM SET default_transaction_read_only = on`)
	must(err)
	_, err = conn.Exec(context.Background(), `SELECT pg_reload_conf()`)
	must(err)
	fails()
	_, err = conn.Exec(context.Background(), `SET default_transaction_read_only = off`)
	must(err)
	_, err = conn.Exec(context.Background(), `ALTER SYSTEM RESET default_transaction_read_only`)
	must(err)
	_, err = conn.Exec(context.Background(), `SELECT pg_reload_conf()`)
	must(err)
	goesOn()
	standby := own.StartStandby(t)
	database := conn.Config().Database
	must(own.Kill())
	must(standby.Promote())
	promoted := history.Now()
	r.SetDSN(standby.DSN(database))
	goesOn()
	r.Pause()
	stop()

	conn = connect(t, standby.DSN(database))
	claims, uncertain := 0, 0
	for _, rec := range everything(t, h) {
		rev, ok := rec.(*history.Revocation)
		if !ok {
			continue
		}
		if rev.AckedAt == 0 {
			uncertain++
			continue
		}
		claims++
		// The standby was asynchronous: what came before may be lost.
		if rev.SentAt > promoted && value[bool](t, conn, valid, rev.KeyID) {
			t.Errorf("%+v is valid", rev)
		}
	}
	if n, m := r.Counts(); int64(claims) != n || int64(uncertain) != m || uncertain == 0 {
		t.Errorf("%d claims, %d without; counted %d and %d", claims, uncertain, n, m)
	}
}

// A commit that was not replicated because somebody cancelled the wait is not
// claimed.
func TestCancelledWaitForTheStandbyIsClaimed(t *testing.T) {
	t.Parallel()
	own := testenv.StartPostgres(t)
	dsn := schematest.NewDatabase(t, own)
	h := newTape(t)
	r := newRevoker(t, quick(RevokerOptions{DSN: dsn, History: h.Writer, Workers: 1}))
	stop := drive(t, r.Run)
	defer stop()
	eventually(t, "revocations", func() bool { n, _ := r.Counts(); return n > 20 })
	conn := connect(t, dsn)
	standbys := func(names string) {
		t.Helper()
		for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = '` + names + `'`, `SELECT pg_reload_conf()`} {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	standbys("nobody")
	defer standbys("") // or nothing commits any more, not even that the database is dropped
	var acknowledged int64
	eventually(t, "an uncertain revocation", func() bool {
		if _, err := conn.Exec(context.Background(), `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`); err != nil {
			t.Fatal(err)
		}
		n, m := r.Counts()
		acknowledged = n
		return m > 0
	})
	from := history.Now()
	eventually(t, "a while", func() bool { return history.Now() > from+int64(100*time.Millisecond) })
	if n, _ := r.Counts(); n != acknowledged {
		t.Errorf("%d were claimed without a standby", n-acknowledged)
	}
	stop()
	_ = h.Close()
}

func TestWeightsAreIgnored(t *testing.T) {
	r := newRevoker(t, RevokerOptions{Weights: map[string]int{"rename": 2}})
	for _, g := range r.draw() {
		if g.way.name != "rename" || len(g.keys) == 0 || len(g.keys) > 3 {
			t.Fatalf("%+v", g)
		}
	}
	for _, w := range []map[string]int{{"no such way": 1}, {"delete": 0}} {
		if _, err := NewRevoker(RevokerOptions{Weights: w}); err == nil {
			t.Errorf("%v was accepted", w)
		}
	}
	var names []string
	for _, w := range ways() {
		names = append(names, w.name)
	}
	if !slices.Equal(names, []string{"update", "function", "delete", "suspend", "rename"}) {
		t.Error(names)
	}
}
