package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

func postgresKinds() []Kind {
	const short, long = 200 * time.Millisecond, 10 * time.Second
	server := func(name string, hit, mend func(*testenv.Postgres) error) Kind {
		return Kind{name, OfPostgres, func(_ context.Context, w *World, _ *rand.Rand) (Fault, error) {
			p := w.Primary()
			return Fault{Mend: func(context.Context) error { return mend(p) }}, hit(p)
		}, short, long}
	}
	return []Kind{
		server("Postgres stopped", (*testenv.Postgres).Stop, (*testenv.Postgres).Start),
		server("Postgres killed", (*testenv.Postgres).Kill, (*testenv.Postgres).Start),
		server("Postgres paused", (*testenv.Postgres).Pause, (*testenv.Postgres).Resume),
		{"Postgres slow", OfPostgres, postgresSlow, time.Second, long},
		{"Postgres out of connections", OfPostgres, postgresFull, time.Second, long},
		{"Postgres read-only", OfPostgres, postgresReadOnly, time.Second, long},
		{"Postgres ends every session", OfPostgres, sessionsEnded, time.Second, long},
		{"registry of sidecars lost", OfPostgres, registryLost, time.Second, long},
		{"everything reset, over and over", OfPostgres, everythingReset, time.Second, long},
	}
}

// postgresSlow lets the server run for a part of the time only.
func postgresSlow(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	p := w.Primary()
	still, running := between(r, 50*time.Millisecond, 1500*time.Millisecond), between(r, 5*time.Millisecond, 50*time.Millisecond)
	paused := false
	stop := repeatedly(ctx, func(context.Context) (time.Duration, error) {
		if paused = !paused; paused {
			return still, p.Pause()
		}
		return running, p.Resume()
	})
	return Fault{Detail: still.String() + " still, " + running.String() + " running", Mend: func(context.Context) error {
		return errors.Join(stop(), p.Resume())
	}}, nil
}

// postgresFull takes every connection there is and ends everybody else's.
func postgresFull(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
	var (
		mu   sync.Mutex
		held []*pgx.Conn
	)
	dsn := w.Primary().DSN(cluster.Database)
	take := func() bool {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		held = append(held, conn)
		return true
	}
	if !take() {
		return Fault{}, errors.New("no connection at all")
	}
	stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
		for take() { // until there are none left
		}
		_, err := held[0].Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name IN ('`+appName+`') OR application_name LIKE 'keysidecar%'`)
		return 20 * time.Millisecond, err
	})
	return Fault{Mend: func(ctx context.Context) error {
		err := stop()
		var closing sync.WaitGroup
		for _, conn := range held {
			closing.Go(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
		}
		closing.Wait()
		return err
	}}, nil
}

func postgresReadOnly(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
	err := w.Exec(ctx, `ALTER SYSTEM SET default_transaction_read_only = on`, `SELECT pg_reload_conf()`)
	return Fault{Mend: func(ctx context.Context) error {
		return w.Exec(ctx, `ALTER SYSTEM RESET default_transaction_read_only`, `SELECT pg_reload_conf()`)
	}}, err
}

func sessionsEnded(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	pause := between(r, 50*time.Millisecond, 2*time.Second)
	stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
		return pause, w.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`)
	})
	return Fault{Detail: "every " + pause.String(), Mend: func(context.Context) error { return stop() }}, nil
}

// everythingReset makes every sidecar forget everything, in the midst of warms,
// too.
func everythingReset(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	pause := between(r, 50*time.Millisecond, 2*time.Second)
	stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
		return pause, w.Exec(ctx, `SELECT keysidecar.reset()`)
	})
	return Fault{Detail: "every " + pause.String(), Mend: func(context.Context) error { return stop() }}, nil
}

// registryLost empties the registry: every sidecar has to enter itself again.
func registryLost(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	pause := between(r, 200*time.Millisecond, 3*time.Second)
	stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
		return pause, w.Exec(ctx, `TRUNCATE keysidecar.instances`)
	})
	return Fault{Detail: "every " + pause.String(), Mend: func(context.Context) error { return stop() }}, nil
}
