package keystore

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
)

func benchStore(b *testing.B, n int) *bench {
	l := newLedger(&testing.T{})
	for i := range n {
		l.put(key(i))
	}
	s := build(b, l, func(o *Options) {
		o.Capacity, o.FenceInterval, o.Logger = 2*n, time.Second, zap.NewNop()
	})
	return s.warm()
}

func BenchmarkLookupCached(b *testing.B) {
	s := benchStore(b, 100_000)
	ids := make([]string, 4096)
	for i := range ids {
		ids[i] = key(i * 17 % 100_000).ID
	}
	ctx := context.Background()
	b.Run("one goroutine", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if a, err := s.store.Lookup(ctx, ids[i&4095], Bounds{}); err != nil || a.Code != Active {
				b.Fatal(a.Code, err)
			}
			i++
		}
	})
	b.Run("all cores", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			i := 0
			for pb.Next() {
				if a, err := s.store.Lookup(ctx, ids[i&4095], Bounds{}); err != nil || a.Code != Active {
					b.Error(a.Code, err)
				}
				i++
			}
		})
	})
}

// BenchmarkWarm compares a warm with COPY ... (FORMAT binary) of the same rows in
// the same run, and prints the memory that the warm leaves resident.
// Set -keys with go test -bench Warm -args? The number is fixed: 1,000,000.
func BenchmarkWarm(b *testing.B) {
	const n = 1_000_000
	dsn := schematest.NewDatabase(b, pgServer)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		`INSERT INTO keysidecar.owners SELECT 'm_' || i FROM generate_series(0, 9999) i`,
		fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key, scopes, attributes)
			SELECT 'pk_live_' || lpad(i::text, 10, '0'), 'm_' || i %% 10000, 'ed25519',
			       decode('302a300506032b6570032100', 'hex') || sha256(i::text::bytea), '{pay}', '{}'
			FROM generate_series(1, %d) i`, n),
		`VACUUM ANALYZE keysidecar.public_keys`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			b.Fatal(err)
		}
	}
	copyTime := func() time.Duration {
		start := time.Now()
		if _, err := conn.PgConn().CopyTo(ctx, discard{}, `COPY keysidecar.public_keys TO STDOUT (FORMAT binary)`); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	var copied, warmed time.Duration
	var live uint64
	for b.Loop() {
		copied += copyTime()
		o := pgOptions(dsn)
		src, err := NewPostgres(o)
		if err != nil {
			b.Fatal(err)
		}
		s := build(b, src, func(o *Options) { o.Capacity, o.Logger = n+n/10, zap.NewNop() })
		start := time.Now()
		m, err := s.store.warm(ctx)
		if err != nil {
			b.Fatal(err)
		}
		warmed += time.Since(start)
		if e, _, _ := m.count(); e != n || !m.complete.Load() {
			b.Fatalf("%d keys, complete %v", e, m.complete.Load())
		}
		s.store.stop()
		src.Close()
		debug.FreeOSMemory()
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		live = ms.HeapAlloc
		runtime.KeepAlive(m)
	}
	b.ReportMetric(warmed.Seconds()/copied.Seconds(), "warm/copy")
	b.ReportMetric(copied.Seconds()/float64(b.N), "copy-s")
	b.ReportMetric(float64(live)/n, "heap-B/key")
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
