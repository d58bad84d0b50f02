package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

func failoverKinds() []Kind {
	const short, long = 200 * time.Millisecond, 20 * time.Second
	return []Kind{
		{"failover to a synchronous standby", OfPostgres, failover(false), short, long},
		{"failover from a paused primary", OfPostgres, failover(true), short, long},
		{"failover that loses the newest commits", OfPostgres, lostTail(false), short, long / 4},
		{"failover that loses commits, seen after its log has grown past them", OfPostgres, lostTail(true), short, long / 4},
		{"older backup restored", OfPostgres, restored, short, long / 4},
	}
}

// failover makes a synchronous standby, then the primary dies, or stands still and
// is ended later, as a high-availability tool does it. At the end the standby is
// promoted and every way leads there.
func failover(paused bool) func(context.Context, *World, *rand.Rand) (Fault, error) {
	return func(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
		old := w.Primary()
		standby, err := old.NewStandby()
		if err != nil {
			return Fault{}, err
		}
		// After the commit that waits for it, every commit acknowledged so far is there,
		// and every later one is before it is acknowledged.
		err = w.Exec(ctx, `ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`)
		if err == nil {
			err = w.poll(ctx, 20*time.Second, "the standby to be synchronous", func() (bool, error) {
				n, err := w.Number(ctx, `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND current_setting('synchronous_standby_names') = '*'`)
				return n == 1, err
			})
		}
		if err == nil {
			err = w.touch(ctx, 1)
		}
		if err != nil {
			return Fault{}, errors.Join(err, standby.Close())
		}
		began := time.Now()
		if paused {
			err = old.Pause()
		} else {
			err = old.Kill()
		}
		return Fault{Began: began, Mend: func(context.Context) error {
			if err := errors.Join(old.Kill(), standby.Promote()); err != nil {
				return err
			}
			w.setPrimary(standby)
			w.lead(append(w.ways(), w.App)...)
			return old.Close()
		}}, err
	}
}

// sync waits until the standby has everything that the primary has.
func caughtUp(ctx context.Context, w *World, standby *testenv.Postgres) error {
	var lsn string
	if err := w.onPrimary(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn()::text`).Scan(&lsn)
	}); err != nil {
		return err
	}
	return w.poll(ctx, 20*time.Second, "the standby to have caught up", func() (ok bool, err error) {
		err = onServer(ctx, standby, func(c *pgx.Conn) error {
			return c.QueryRow(ctx, `SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn`, lsn).Scan(&ok)
		})
		return ok, err
	})
}

// lostTail fails over to a standby that lacks the newest commits. They are the
// fault's own, made while the application is kept out: a key was issued, and a
// revoked one was turned on again. Sidecars see them, for the primary said so. Soon
// after it is gone nobody may.
//
// With grown, sidecars find the new primary only when its log has more numbers than
// the one they knew.
func lostTail(grown bool) func(context.Context, *World, *rand.Rand) (Fault, error) {
	return func(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
		id := w.name("lost")
		issued, revived := id+"_issued", id+"_revived"
		if err := w.quiet(ctx); err != nil {
			return Fault{}, errors.Join(err, w.open())
		}
		old := w.Primary()
		standby, lost, err := w.loseTail(ctx, issued, revived, 1+r.IntN(60))
		if err != nil {
			return Fault{}, errors.Join(err, w.open())
		}
		began := time.Now()
		err = old.Kill()
		return Fault{Began: began, Detail: fmt.Sprintf("up to number %d", lost), Mend: func(ctx context.Context) error {
			if err := standby.Promote(); err != nil {
				return err
			}
			w.setPrimary(standby)
			w.lead(w.App)
			if err := w.open(); err != nil {
				return err
			}
			if grown {
				if err := w.growPast(ctx, lost); err != nil {
					return err
				}
			}
			w.lead(w.ways()...)
			return errors.Join(w.never(ctx, began, issued, revived), old.Close())
		}}, err
	}
}

// loseTail makes a standby, cuts it off, and makes commits that it does not get,
// and that sidecars know of. It returns the number of the last.
func (w *World) loseTail(ctx context.Context, issued, revived string, more int) (_ *testenv.Postgres, lost int64, err error) {
	err = w.Exec(ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, revoked_at) VALUES ('`+revived+`', '`+faultOwner+`', 'opaque', now())`)
	if err != nil {
		return nil, 0, err
	}
	standby, err := w.Primary().NewStandby()
	if err != nil {
		return nil, 0, err
	}
	err = caughtUp(ctx, w, standby)
	if err == nil {
		err = onServer(ctx, standby, func(c *pgx.Conn) error {
			_, err := c.Exec(ctx, `ALTER SYSTEM SET primary_conninfo = ''`)
			if err == nil {
				_, err = c.Exec(ctx, `SELECT pg_reload_conf()`)
			}
			return err
		})
	}
	if err == nil {
		err = w.poll(ctx, 20*time.Second, "the standby to be cut off", func() (bool, error) {
			n, err := w.Number(ctx, `SELECT count(*) FROM pg_stat_replication`)
			return n == 0, err
		})
	}
	if err == nil {
		lost, err = w.loseCommits(ctx, issued, revived, more)
	}
	if err != nil {
		return nil, 0, errors.Join(err, standby.Close())
	}
	return standby, lost, nil
}

// loseCommits makes the commits that will be lost, and waits until a sidecar has
// applied them, if one is there to do it.
func (w *World) loseCommits(ctx context.Context, issued, revived string, more int) (int64, error) {
	err := w.Exec(ctx,
		`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('`+issued+`', '`+faultOwner+`', 'opaque')`,
		`UPDATE keysidecar.public_keys SET revoked_at = NULL WHERE key_id = '`+revived+`'`)
	if err != nil {
		return 0, err
	}
	if err := w.touch(ctx, more); err != nil {
		return 0, err
	}
	_ = w.poll(ctx, 2*w.Promise.FenceInterval, "a sidecar to see it", func() (bool, error) {
		seen := 0
		for _, s := range w.Sidecars {
			ask, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			v, err := s.Get(ask, revived)
			cancel()
			if err == nil && v.Valid {
				seen++
			}
		}
		return seen > len(w.Sidecars)/2, nil
	})
	return w.Number(ctx, `SELECT max(seq) FROM keysidecar.events`)
}

// growPast makes events until the log is longer than it ever was.
func (w *World) growPast(ctx context.Context, lost int64) error {
	for {
		head, err := w.Number(ctx, `SELECT max(seq) FROM keysidecar.events`)
		if err != nil || head > lost+10 {
			return err
		}
		if err := w.touch(ctx, 10); err != nil {
			return err
		}
	}
}

// restored brings a backup back that lacks what the fault itself committed since.
// The timeline is the same, and so will be the numbers of the next events.
func restored(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	id := w.name("restored")
	issued, revived := id+"_issued", id+"_revived"
	p := w.Primary()
	grow, announce := r.IntN(2) == 0, r.IntN(2) == 0
	err := w.quiet(ctx)
	if err == nil {
		err = w.Exec(ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, revoked_at) VALUES ('`+revived+`', '`+faultOwner+`', 'opaque', now())`)
	}
	var lost int64
	if err == nil {
		err = errors.Join(p.Stop(), p.Backup(), p.Start())
	}
	if err == nil {
		lost, err = w.loseCommits(ctx, issued, revived, 1+r.IntN(60))
	}
	if err != nil {
		return Fault{}, errors.Join(err, w.open())
	}
	began := time.Now()
	err = p.Kill()
	return Fault{Began: began, Detail: fmt.Sprintf("without the events up to number %d", lost), Mend: func(ctx context.Context) error {
		ways := w.ways()
		if grow { // nobody sees the log before it is longer than it was
			for _, way := range ways {
				way.Retarget("127.0.0.1:1")
			}
		}
		if err := errors.Join(p.Restore(), p.Start()); err != nil {
			return err
		}
		if grow {
			if err := w.growPast(ctx, lost); err != nil {
				return err
			}
			w.lead(ways...)
		}
		if announce {
			if err := w.Exec(ctx, `SELECT keysidecar.reset()`); err != nil {
				return err
			}
		}
		return errors.Join(w.open(), w.never(ctx, began, issued, revived))
	}}, err
}
