package keystore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// Clients send max-age=0 where they mean no-cache (RFC 9111, 5.2.1.1).
func TestMaxAgeOfZeroIsNeverMet(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.revoke("k0")
	zero := Bounds{HasMaxAge: true}
	if a, err := b.store.Lookup(context.Background(), "k0", zero); err != nil || a.Code != Revoked {
		t.Errorf("in memory: %v, %v", a.Code, err)
	}
	b.cold("k1")
	if a, err := b.store.Lookup(context.Background(), "k1", zero); err != nil || a.Code != Active || a.Origin != FromDatabase {
		t.Errorf("not in memory: %v, %v", a.Code, err)
	}
}

func TestFarFutureWrapsAround(t *testing.T) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], 9223371331199999999) // Postgres's last moment, in the year 294276
	if got := pgMicros(b[:]); got < math.MaxInt64-1 {
		t.Fatalf("became %d, which is %v", got, time.UnixMicro(got))
	}
}

func TestStaleLimitIsExceededByTheClocksError(t *testing.T) {
	l := filled(t, 1)
	b := build(t, l, func(o *Options) { o.StaleLimit = 10 * time.Second }).warm()
	le := b.store.mem.Load().lease.Load()
	if got := le.staleUntil.Sub(le.asked); got > 10*time.Second-clock.Uncertainty {
		t.Fatalf("stale answers until %v after the question", got)
	}
}

// A key that memory lacks may have been issued since the lease ended.
func TestAbsenceAnswersAfterTheLease(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.StaleLimit = time.Minute }).warm()
	l.set(func() { l.down = errDown })
	eventually(t, "a failed fence", func() bool { return b.store.Status().LastFenceError != "" })
	b.clock.Advance(4 * time.Second)
	l.put(key(9))
	b.expect("k9", Unavailable)
	b.expect("k0", Active)
}

func TestMarkedKeysShareTheBudgetOfMadeUpOnes(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.MissRate = 5; o.FenceInterval = 2 * time.Second }).warm()
	b.store.Evict(l.revoke("k0"))
	b.fenced()
	for b.store.missBudget.Allow() { // a flood
	}
	// A fence asked for at this moment does not cover the request, but it is marked.
	if a, err := b.store.Lookup(context.Background(), "k0", Bounds{NoCache: true}); err != nil || a.Code != Revoked {
		t.Fatalf("%v, %v", a.Code, err)
	}
}

// What a long warm leaves to be read one by one must not pile up until its end.
func TestReadsPileUpDuringALongWarm(t *testing.T) {
	l := filled(t, 3)
	hold := newStep(t)
	l.set(func() { l.duringWarm = hold.stop1 })
	b := build(t, l, func(o *Options) { o.MissRate = 1 << 20; o.FillTimeout = 200 * time.Millisecond }).run()
	<-hold.reached
	defer hold.goOn()
	for i := range 20_000 {
		_, err := b.store.Lookup(context.Background(), fmt.Sprintf("made-up-%d", i), Bounds{})
		var u *UnavailableError
		if err != nil && !errors.As(err, &u) {
			t.Fatal(err)
		}
	}
	b.store.lingerMu.Lock()
	n := len(b.store.lingering)
	b.store.lingerMu.Unlock()
	flights := 0
	m := b.store.mem.Load()
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.Lock()
		flights += len(sh.flights)
		sh.mu.Unlock()
	}
	if n > maxLingering || flights > maxLingering+b.store.opts.MaxFills {
		t.Fatalf("%d answers are kept, %d reads registered", n, flights)
	}
}

func (s *step) stop1(int) { s.stop("") }

func TestSlowRowsEndAWarm(t *testing.T) {
	l := filled(t, 30)
	l.set(func() { l.duringWarm = func(int) { time.Sleep(100 * time.Millisecond) } }) // a view that computes much
	b := build(t, l)
	defer b.store.stop()
	begun := time.Now()
	if _, err := b.store.warm(context.Background()); err != nil {
		t.Fatalf("after %v: %v", time.Since(begun), err)
	}
}

func TestStoppingRacesWithReads(t *testing.T) {
	for range 20 {
		l := filled(t, 3)
		b := build(t, l, func(o *Options) { o.MissRate = 1 << 20 }).warm()
		b.store.mem.Load().complete.Store(false)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
						_, _ = b.store.Lookup(context.Background(), fmt.Sprintf("n%d-%d", w, i), Bounds{})
					}
				}
			})
		}
		eventually(t, "a read", func() bool { return l.reads() > 10 })
		b.stop()
		l.set(l.Close) // whoever reads now was not waited for
		close(stop)
		wg.Wait()
	}
}

// A change that rewrites a table is not MVCC-safe: to a snapshot from before it,
// the table is empty. A warm that waits for such a change must not take its
// snapshot first.
func TestWarmDuringATableRewriteSeesAnEmptyTable(t *testing.T) {
	for table, want := range map[string]Code{"owners": OwnerSuspended, "public_keys": OwnerSuspended} {
		t.Run(table, func(t *testing.T) {
			w := newPgWorld(t)
			w.put(real(1))
			w.suspend("m1", true)
			w.exec("BEGIN")
			w.exec("ALTER TABLE keysidecar." + table + " ADD COLUMN ticket uuid DEFAULT gen_random_uuid()")
			b := build(t, w).run()
			watcher, err := pgx.Connect(context.Background(), w.dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = watcher.Close(context.Background()) }()
			eventually(t, "the warm waits for the change", func() bool {
				var waits bool
				err := watcher.QueryRow(context.Background(), "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))").Scan(&waits)
				return err == nil && waits
			})
			w.exec("COMMIT")
			<-b.store.Warmed()
			b.expect("k1", want)
		})
	}
}

// The making of a connection takes many round trips, and a host that is gone
// takes its whole time-out. Neither has to fit into a fence's.
func TestLostConnectionIsNeverMadeAgain(t *testing.T) {
	back := func(b *bench) {
		b.t.Helper()
		begun := time.Now()
		eventually(b.t, "service resumes", func() bool {
			a, err := b.store.Lookup(context.Background(), "k0", Bounds{})
			return err == nil && a.Code == Active && a.Origin == FromCache
		})
		b.t.Logf("back after %v", time.Since(begun))
	}
	t.Run("slow line", func(t *testing.T) {
		dsn := schematest.NewDatabase(t, pgServer)
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		pgWorldOn(t, dsn).put(real(0))
		proxy := testenv.NewProxy(t, u.Host)
		u.Host = proxy.Addr()
		proxy.Delay(20 * time.Millisecond)
		w := pgWorldOn(t, dsn, func(o *PostgresOptions) { o.DSN = func() (string, error) { return u.String(), nil } })
		b := build(t, w, func(o *Options) { o.FenceInterval = 100 * time.Millisecond; o.MaxStaleness = 300 * time.Millisecond }).warm()
		back(b)
		proxy.Cut()
		eventually(t, "the lease ends", func() bool { return !b.store.Status().Fresh })
		back(b)
	})
	t.Run("first host gone", func(t *testing.T) {
		dsn := schematest.NewDatabase(t, pgServer)
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		pgWorldOn(t, dsn).put(real(0))
		first := testenv.NewProxy(t, u.Host)
		u.Host = first.Addr() + "," + u.Host
		w := pgWorldOn(t, dsn, func(o *PostgresOptions) { o.DSN = func() (string, error) { return u.String(), nil } })
		b := build(t, w, func(o *Options) { o.FenceInterval = 300 * time.Millisecond; o.MaxStaleness = time.Second }).warm()
		first.Freeze() // accepts, and never says a word
		eventually(t, "the lease ends", func() bool { return !b.store.Status().Fresh })
		back(b)
	})
}

func TestStopWaitsForASilentServer(t *testing.T) {
	dsn := schematest.NewDatabase(t, pgServer)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.NewProxy(t, u.Host)
	u.Host = proxy.Addr()
	o := pgOptions(u.String())
	p, err := NewPostgres(o)
	if err != nil {
		t.Fatal(err)
	}
	b := build(t, p).warm()
	b.cold("k0")
	b.expect("k0", UnknownKey)
	proxy.Freeze()
	eventually(t, "a failed fence", func() bool { return b.store.Status().LastFenceError != "" })
	b.cold("k1")
	b.expect("k1", Unavailable) // a read timed out
	begun := time.Now()
	b.stop()
	stopped := time.Now()
	p.Close()
	if run, closed := stopped.Sub(begun), time.Since(stopped); run+closed > 1800*time.Millisecond { // what the whole process has
		t.Errorf("Run ended after %v, Close after another %v", run, closed)
	}
	proxy.Thaw()
	proxy.Cut()
}

// uuid = text does not exist: a warm would succeed, and every fill would fail.
func TestViewThatCannotBeAskedForOneKeyIsWarmed(t *testing.T) {
	w := newPgWorld(t)
	w.exec(`CREATE VIEW public.odd AS SELECT gen_random_uuid() AS key_id, 'm1' AS owner_id, 'x' AS algorithm, NULL::bytea AS public_key, '{}'::text[] AS scopes,
		NULL::timestamptz AS not_before, NULL::timestamptz AS expires_at, NULL::timestamptz AS revoked_at, '{}'::jsonb AS attributes`)
	v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.odd" })
	b := build(t, v).run()
	eventually(t, "a fence that says why", func() bool { return b.store.Status().LastFenceError == "schema" })
}

// A collation of the operator's own may hold two names for equal.
func TestRowOfAnotherKeyIsTaken(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(1))
	w.exec(`CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`)
	w.exec(`CREATE VIEW public.odd AS SELECT key_id COLLATE public.loose AS key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes FROM keysidecar.public_keys`)
	v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.odd" })
	b := build(t, v).warm()
	b.store.mem.Load().complete.Store(false)
	b.expect("K1", Unavailable)
	b.expect("k1", Active)
}

// reset() is how an operator tells that something changed which no trigger sees.
func TestResetKeepsTheOldViewsColumns(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(1))
	const columns = `key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes`
	w.exec(`CREATE VIEW public.mine AS SELECT ` + columns + ` FROM keysidecar.public_keys`)
	v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.mine" })
	b := build(t, v).warm()
	b.cold("k1")
	b.expect("k1", Active)
	w.exec(`CREATE OR REPLACE VIEW public.mine AS SELECT ` + columns + `, true AS owner_suspended FROM keysidecar.public_keys`)
	w.exec(`SELECT keysidecar.reset()`)
	b.fenced()
	b.expect("k1", OwnerSuspended)
	b.cold("k1")
	b.expect("k1", OwnerSuspended)
}

// While the next history is being loaded, keys are read from it: such an answer
// must not say that it belongs to the old one.
func TestFillNamesAHistoryItWasNotReadFrom(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	old := b.expect("k0", Active).AsOf
	for name, over := range map[string]func(){
		"another timeline":    func() { l.timeline += "2" },
		"a restored old copy": func() { l.events = l.events[:len(l.events)-1] },
	} {
		t.Run(name, func(t *testing.T) {
			b.cold("k1")
			l.set(over)
			read := b.expect("k1", Active).AsOf
			b.fenced()
			if now := b.expect("k0", Active).AsOf; read.History == old.History || read.History != now.History || read.Seq > now.Seq {
				t.Errorf("before %+v, read meanwhile %+v, after %+v", old, read, now)
			}
			old = b.expect("k0", Active).AsOf
		})
	}
}
