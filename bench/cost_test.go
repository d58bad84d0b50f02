package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// meter measures what operations cost the database: processor time of backends
// and bytes of write-ahead log.
type meter struct {
	b    *testing.B
	conn *pgx.Conn
	pids []int32

	cpu time.Duration
	wal int64
}

// meterOf watches the backends with this application_name.
func meterOf(b *testing.B, dsn, application string) *meter {
	b.Helper()
	m := &meter{b: b}
	var err error
	if m.conn, err = pgx.Connect(context.Background(), dsn); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = m.conn.Close(context.Background()) })
	rows, err := m.conn.Query(context.Background(), `SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`, application)
	if err != nil {
		b.Fatal(err)
	}
	if m.pids, err = pgx.CollectRows(rows, pgx.RowTo[int32]); err != nil || len(m.pids) == 0 {
		b.Fatalf("the backends of %s: %v %v", application, m.pids, err)
	}
	return m
}

func (m *meter) read() (cpu time.Duration, wal int64) {
	m.b.Helper()
	for _, pid := range m.pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			m.b.Fatal(err)
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		for _, f := range fields[11:13] { // utime and stime in hundredths of a second, proc(5)
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				m.b.Fatal(err)
			}
			cpu += time.Duration(n) * 10 * time.Millisecond
		}
	}
	if err := m.conn.QueryRow(context.Background(), `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&wal); err != nil {
		m.b.Fatal(err)
	}
	return cpu, wal
}

func (m *meter) start() { m.cpu, m.wal = m.read() }

// stop reports what was used since start, for each of n operations.
func (m *meter) stop(n int) {
	cpu, wal := m.read()
	m.b.ReportMetric(float64(cpu-m.cpu)/float64(time.Microsecond)/float64(n), "server-cpu-us/op")
	m.b.ReportMetric(float64(wal-m.wal)/float64(n), "WAL-B/op")
}

func costSource(b *testing.B, dsn string) *keystore.Postgres {
	b.Helper()
	p, err := keystore.NewPostgres(keystore.PostgresOptions{
		DSN: func() (string, error) { return dsn, nil }, Relation: "keysidecar.public_keys", MaxConns: 2,
		ExecMode: pgx.QueryExecModeCacheStatement, ConnectTimeout: 5 * time.Second, ApplicationName: "cost", Logger: zap.NewNop(),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	return p
}

// What one sidecar's questions cost the database, on a registry of 1,000. The peer
// is SELECT 1 on a connection like the fence's.
func BenchmarkQuestion(b *testing.B) {
	pg := testenv.StartPostgres(b, testenv.WithFsync())
	dsn := schematest.NewDatabase(b, pg)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		`INSERT INTO keysidecar.owners VALUES ('m')`,
		`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'k' || i, 'm', 'opaque' FROM generate_series(1, 100000) i`,
		`SELECT keysidecar.register(gen_random_uuid(), 'i' || i, 3000, 0, 'fail_closed', 'bench') FROM generate_series(1, 999) i`,
		`VACUUM ANALYZE`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			b.Fatal(err)
		}
	}
	p := costSource(b, dsn)
	id := uuid.New()
	if _, err := p.Register(ctx, keystore.Incarnation{Registration: id, Instance: "bench", Version: "bench", MaxStaleness: 3 * time.Second}); err != nil {
		b.Fatal(err)
	}
	var at keystore.Cursor
	if err := conn.QueryRow(ctx, `SELECT seq, event_id FROM keysidecar.events ORDER BY seq DESC LIMIT 1`).Scan(&at.Seq, &at.ID); err != nil {
		b.Fatal(err)
	}
	by := keystore.Membership{Registration: id, Bound: 3 * time.Second}
	question := keystore.FenceQuestion{At: at, Limit: 1000, By: by, Timeline: "00000001"}

	measure := func(name, application string, each func() error) {
		b.Run(name, func(b *testing.B) {
			if err := each(); err != nil { // plans, connects
				b.Fatal(err)
			}
			m := meterOf(b, dsn, application)
			n := 0
			m.start()
			for b.Loop() {
				if err := each(); err != nil {
					b.Fatal(err)
				}
				n++
			}
			m.stop(n)
		})
	}
	bare, err := pgx.Connect(ctx, dsn+"&application_name=bare")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = bare.Close(ctx) }()
	measure("select_1", "bare", func() error {
		var one int
		return bare.QueryRow(ctx, "SELECT 1").Scan(&one)
	})
	measure("fence", "cost", func() error {
		page, err := p.Fence(ctx, question)
		if err == nil && (!page.Known || !page.Member) {
			b.Fatalf("%+v", page)
		}
		return err
	})
	measure("fence_that_reports", "cost", func() error {
		q := question
		q.Report = true
		page, err := p.Fence(ctx, q)
		if err == nil && !page.Reported {
			b.Fatalf("%+v", page)
		}
		return err
	})
	measure("register", "cost", func() error {
		_, err := p.Register(ctx, keystore.Incarnation{Registration: uuid.New(), Instance: "bench-" + uuid.NewString(), Version: "bench", MaxStaleness: 3 * time.Second})
		return err
	})
}

// What a change of a key costs who makes it: captured or not, and with a standby
// that must confirm each commit.
func BenchmarkKeyChange(b *testing.B) {
	for _, standby := range []string{"alone", "synchronous_standby"} {
		pg := testenv.StartPostgres(b, testenv.WithFsync())
		dsn := schematest.NewDatabase(b, pg)
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, dsn+"&application_name=change")
		if err != nil {
			b.Fatal(err)
		}
		for _, sql := range []string{
			`INSERT INTO keysidecar.owners VALUES ('m')`,
			`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('k', 'm', 'opaque')`,
			`CREATE TABLE public.bare AS SELECT * FROM keysidecar.public_keys`,
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				b.Fatal(err)
			}
		}
		if standby == "synchronous_standby" {
			pg.StartStandby(b)
			for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
				if _, err := conn.Exec(ctx, sql); err != nil {
					b.Fatal(err)
				}
			}
			deadline := time.Now().Add(10 * time.Second)
			for state := ""; state != "sync" && state != "quorum"; {
				if time.Now().After(deadline) {
					b.Fatal("the standby never became synchronous")
				}
				_ = conn.QueryRow(ctx, `SELECT coalesce(max(sync_state), '') FROM pg_stat_replication`).Scan(&state)
			}
		}
		for _, table := range []string{"public.bare", "keysidecar.public_keys"} {
			name := map[string]string{"public.bare": "uncaptured", "keysidecar.public_keys": "captured"}[table]
			b.Run(standby+"/"+name, func(b *testing.B) {
				m := meterOf(b, dsn, "change")
				n := 0
				m.start()
				for b.Loop() {
					if _, err := conn.Exec(ctx, `UPDATE `+table+` SET scopes = ARRAY[$1::text] WHERE key_id = 'k'`, strconv.Itoa(n)); err != nil {
						b.Fatal(err)
					}
					n++
				}
				m.stop(n)
			})
		}
		// Or nothing could be dropped at the end, when the standby is gone.
		for _, sql := range []string{`ALTER SYSTEM RESET synchronous_standby_names`, `SELECT pg_reload_conf()`} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				b.Fatal(err)
			}
		}
		_ = conn.Close(ctx)
	}
}
