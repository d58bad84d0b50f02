package keystore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
)

// What a set costs, beside a fill in the same run: the statement, by the number of the
// owner's keys and of events that the fence has not brought yet, in a table of 100,000
// keys and a log of 100,000 events; and a set from memory.
func BenchmarkKeySet(b *testing.B) {
	dsn := schematest.NewDatabase(b, pgServer)
	p, err := NewPostgres(pgOptions(dsn))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	const der = `decode('302a300506032b6570032100' || md5(i::text) || md5(i::text), 'hex')`
	for _, sql := range []string{
		`INSERT INTO keysidecar.owners (owner_id) SELECT 'm' || i FROM generate_series(0, 999) i`,
		`INSERT INTO keysidecar.owners VALUES ('o1'), ('o100'), ('o1000')`,
		`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key, scopes)
			SELECT 'pk_' || i, 'm' || i % 1000, 'ed25519', ` + der + `, '{pay,refund}' FROM generate_series(1, 100000) i`,
		`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key) SELECT 'o' || n || '_' || i, 'o' || n, 'ed25519', ` + der + `
			FROM (VALUES (1), (100), (1000)) sizes (n), generate_series(1, n) i`,
		`VACUUM ANALYZE`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			b.Fatal(err)
		}
	}
	registration := uuid.New()
	if _, err := p.Register(ctx, Incarnation{Registration: registration, Instance: "bench", Version: "bench", MaxStaleness: time.Minute}); err != nil {
		b.Fatal(err)
	}
	by := Membership{Registration: registration}
	for _, behind := range []int{0, 1000} {
		var at Cursor
		if err := conn.QueryRow(ctx, `SELECT seq, event_id FROM keysidecar.events ORDER BY seq DESC OFFSET $1 LIMIT 1`, behind).Scan(&at.Seq, &at.ID); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("fill/behind=%d", behind), func(b *testing.B) {
			for b.Loop() {
				if err := p.Fill(ctx, "pk_77", at, by, func(Filled) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, n := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("keys=%d/behind=%d", n, behind), func(b *testing.B) {
				for b.Loop() {
					o := ownerKeys{}
					got, err := p.FillOwner(ctx, fmt.Sprintf("o%d", n), MaxSetKeys+1, at, by, o.add)
					if o.finish(); err != nil || !got.Member || len(o.keys) != n {
						b.Fatalf("%d keys, %+v, %v", len(o.keys), got, err)
					}
				}
			})
		}
	}
	s := build(b, p, func(o *Options) { o.Capacity = 200_000 }).warm()
	for _, n := range []int{1, 1000} {
		if _, err := s.set(fmt.Sprintf("o%d", n), Bounds{}); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("memory/keys=%d", n), func(b *testing.B) {
			for b.Loop() {
				if set, err := s.store.KeySet(ctx, fmt.Sprintf("o%d", n), Bounds{}); err != nil || len(set.Keys) != n {
					b.Fatal(err)
				}
			}
			_, bytes := s.store.mem.Load().sets.size()
			b.ReportMetric(float64(bytes), "bytes-of-all-sets")
		})
	}
}
