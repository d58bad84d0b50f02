package keystore

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// A standby may lag behind; nothing it says is an answer. When it is promoted,
// its history is another one.
func TestStandbyIsBelieved(t *testing.T) {
	primary := testenv.StartPostgres(t)
	dsn := schematest.NewDatabase(t, primary)
	w := pgWorldOn(t, dsn)
	w.put(real(0))
	standby := primary.StartStandby(t)
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	replica := func() (string, error) { return standby.DSN(cfg.Database), nil }
	source, err := NewPostgres(func() PostgresOptions { o := pgOptions(dsn); o.DSN = replica; return o }())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(source.Close)
	b := build(t, source).run()
	eventually(t, "a fence refused by a standby", func() bool { return b.store.Status().LastFenceError == "standby" })
	b.expect("k0", Unavailable)
	if err := source.Fill(deadline(t), "k0", noCursor, Membership{}, func(Filled) { t.Error("a standby's answer was used") }); err == nil {
		t.Error("a fill on a standby")
	}
	if _, err := source.Audit(deadline(t), AuditQuery{Keys: []string{"k0"}, At: noCursor}); !errors.Is(err, ErrStandby) {
		t.Errorf("an audit on a standby: %v", err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "answers after the promotion", func() bool {
		a, err := b.store.Lookup(context.Background(), "k0", Bounds{})
		return err == nil && a.Code == Active && a.Origin == FromCache
	})
	if timeline := b.store.mem.Load().timeline; timeline == "00000001" {
		t.Errorf("timeline %s after a promotion", timeline)
	}
}

// The registration is on the standby, too: it was replicated.
func TestAddressThatMovedToAStandbyIsBelieved(t *testing.T) {
	primary := testenv.StartPostgres(t)
	dsn := schematest.NewDatabase(t, primary)
	w := pgWorldOn(t, dsn)
	w.put(real(0))
	standby := primary.StartStandby(t)
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	var moved atomic.Bool
	source, err := NewPostgres(func() PostgresOptions {
		o := pgOptions(dsn)
		o.DSN = func() (string, error) {
			if moved.Load() {
				return standby.DSN(cfg.Database), nil
			}
			return dsn, nil
		}
		return o
	}())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(source.Close)
	b := build(t, source).warm()
	replica, err := pgx.Connect(context.Background(), standby.DSN(cfg.Database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = replica.Close(context.Background()) }()
	eventually(t, "the registration on the standby", func() bool {
		var n int
		return replica.QueryRow(context.Background(), `SELECT count(*) FROM keysidecar.instances`).Scan(&n) == nil && n == 1
	})
	moved.Store(true)
	w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	eventually(t, "a fence refused by the standby", func() bool { return b.store.Status().LastFenceError == "standby" })
	b.clock.Advance(3 * time.Second)
	b.expect("k0", Unavailable)
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
