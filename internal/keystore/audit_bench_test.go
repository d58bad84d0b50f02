package keystore

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
)

// million is a Postgres with n keys, and a store that holds them all.
func million(tb *testing.B, n int) *bench {
	tb.Helper()
	dsn := schematest.NewDatabase(tb, pgServer)
	p, err := NewPostgres(pgOptions(dsn))
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close(); _ = conn.Close(context.Background()) })
	exec := func(sql string, args ...any) {
		if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
			tb.Fatal(err)
		}
	}
	exec(`INSERT INTO keysidecar.owners (owner_id) SELECT 'm' || i FROM generate_series(0, 999) i`)
	// Without their events, which would take most of the time.
	exec(uncaptured(fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key, scopes, attributes)
		SELECT 'pk_live_' || md5(i::text), 'm' || i %% 1000, 'ed25519', decode(repeat('ab', 44), 'hex'), '{pay,refund}', '{"env":"live"}' FROM generate_series(1, %d) i`, n)))
	exec(`VACUUM ANALYZE keysidecar.public_keys`)
	exec(`VACUUM ANALYZE keysidecar.events`)
	b := build(tb, p, func(o *Options) { o.Capacity, o.FenceInterval = n+n/10, time.Second }).run()
	select {
	case <-b.store.Warmed():
	case <-time.After(2 * time.Minute):
		tb.Fatal("not warm")
	}
	return b
}

// The cost of the statement that a sample and a page are.
func BenchmarkAuditStatement(b *testing.B) {
	s := million(b, 100_000)
	m := s.store.mem.Load()
	for _, n := range []int{1, 20, 100, auditPage} {
		for _, list := range []int{0, n} {
			b.Run(fmt.Sprintf("keys=%d/list=%d", n, list), func(b *testing.B) {
				p := newSampler(m)
				for b.Loop() {
					if _, err := s.store.compare(context.Background(), m, p.next(m, n), p.from, list); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// A whole audit, and what look-ups feel of it.
func BenchmarkWholeAudit(b *testing.B) {
	const n = 200_000
	s := million(b, n)
	p := newSampler(s.store.mem.Load())
	ids := p.next(s.store.mem.Load(), 10_000)
	p99 := func(stop *atomic.Bool) time.Duration {
		var took []time.Duration
		for i := 0; !stop.Load() && i < 30_000_000; i++ {
			begun := time.Now()
			_, _ = s.store.Lookup(context.Background(), ids[i*7919%len(ids)], Bounds{})
			if i%10 == 0 {
				took = append(took, time.Since(begun))
			}
			if i%100 == 0 {
				time.Sleep(50 * time.Microsecond) // a load, not a flood
			}
		}
		slices.Sort(took)
		return took[len(took)*999/1000]
	}
	var quiet atomic.Bool
	time.AfterFunc(3*time.Second, func() { quiet.Store(true) })
	still := p99(&quiet)
	for b.Loop() {
		var done atomic.Bool
		busy := make(chan time.Duration, 1)
		go func() { busy <- p99(&done) }()
		r, err := s.store.Audit(context.Background())
		done.Store(true)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(still.Nanoseconds()), "ns-p999-quiet")
		b.ReportMetric(float64((<-busy).Nanoseconds()), "ns-p999-audit")
		b.ReportMetric(float64(r.Compared)/r.Duration.Seconds(), "keys/s")
		if r.Compared != n || r.Listed != n {
			b.Fatalf("%+v", r)
		}
	}
}

// How long a sampler holds a shard's lock to take its keys.
func BenchmarkKeysOfAShard(b *testing.B) {
	m, err := newMemory(1_100_000, "x")
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1_000_000 {
		k := key(i)
		m.load(k.row(), NewRecord(&k))
	}
	for i := 0; b.Loop(); i++ {
		_ = m.shards[i%shardCount].keys()
	}
}
