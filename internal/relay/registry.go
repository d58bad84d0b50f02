package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// registryKeeper does what needs somebody who can wait: what the registry forgets,
// it may forget only when nobody can hold an old right any more. Each wait counts
// on this process's boot clock from after the database showed what is waited for,
// and what is then written is conditional on that still standing: so it does not
// matter who led meanwhile.
type registryKeeper struct {
	marked     map[string]clock.Instant // registration@mark -> when it was first seen marked
	silent     map[string]clock.Instant // registration@report -> when that was first seen to be its newest
	looked     clock.Instant            // for silence; 0 before
	identity   wait
	unreported wait
	gate       wait // for how long the same transaction was seen to hold the gate
}

func newRegistryKeeper() *registryKeeper {
	return &registryKeeper{marked: map[string]clock.Instant{}, silent: map[string]clock.Instant{}}
}

// wait is how long something has been seen unchanged.
type wait struct {
	what  string
	since clock.Instant
}

// over reports whether what has been seen for at least d.
func (w *wait) over(what string, now clock.Instant, d time.Duration) bool {
	if w.what != what {
		w.what, w.since = what, now
	}
	return now.Sub(w.since) >= d
}

// keepRegistry does the chores of the registry until ctx ends.
func (r *Relay) keepRegistry(ctx context.Context) {
	for {
		if err := r.registryOnce(ctx, r.keeper); err != nil && ctx.Err() == nil {
			r.metrics.houseFailures.Inc()
			r.opts.Logger.Error("keeping the registry failed", zap.Error(err))
		}
		if !pause(ctx, r.limits.registry) {
			return
		}
	}
}

// registryOnce does each chore, also if another fails, on a connection of its own.
func (r *Relay) registryOnce(ctx context.Context, k *registryKeeper) error {
	db, err := r.open(ctx, "-registry", r.limits.db)
	if err != nil {
		return err
	}
	defer db.close()
	return errors.Join(r.trustRegistry(ctx, db, k), r.markSilent(ctx, db, k), r.pruneMarked(ctx, db, k), r.countBehind(ctx, db), r.watchGate(ctx, db, k))
}

// trustRegistry counts, and shortens what receipts wait for besides reports.
func (r *Relay) trustRegistry(ctx context.Context, db *database, k *registryKeeper) error {
	var (
		present, stored             string
		longest, unreported, target int64
		changes                     int64
		size                        int
	)
	err := db.row(ctx, `SELECT keysidecar.registry_identity(), r.identity,
			greatest(r.longest_ms, (SELECT max(i.bound_ms) FROM keysidecar.instances i)),
			r.unreported_ms, coalesce((SELECT s.value::bigint FROM keysidecar.settings s WHERE s.name = 'fleet.unreported_ms'), 0),
			r.unreported_changes, (SELECT count(*) FROM keysidecar.instances)
		FROM keysidecar.registry r`, nil, &present, &stored, &longest, &unreported, &target, &changes, &size)
	if err != nil {
		return fmt.Errorf("read the registry: %w", err)
	}
	now := r.clock.Sync()
	r.metrics.instances.Set(float64(size))
	r.metrics.registryComplete.Set(1)
	if stored != present {
		r.metrics.registryComplete.Set(0)
		// Whoever the registry lost has asked before it was lost.
		if k.identity.over(stored+" "+present, now, millis(longest)) {
			r.opts.Logger.Info("the registry is complete again", zap.Int("instances", size))
			err = db.exec(ctx, "UPDATE keysidecar.registry SET identity = keysidecar.registry_identity() WHERE identity = $1 AND keysidecar.registry_identity() = $2", stored, present)
		}
	}
	if unreported > target && k.unreported.over(fmt.Sprint(present, " ", changes), now, millis(unreported)) {
		err = errors.Join(err, db.exec(ctx, "UPDATE keysidecar.registry SET unreported_ms = $1 WHERE unreported_changes = $2", target, changes))
	}
	return errors.Join(err, db.exec(ctx, "UPDATE keysidecar.registry SET size = $1 WHERE size <> $1", size))
}

func millis(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// markSilent marks sidecars that have not reported for long, as this relay itself has
// seen: after an outage of the database all of them are silent at once, and none is
// gone. That one of those marked is alive does no harm: it finds the mark, and
// registers again.
func (r *Relay) markSilent(ctx context.Context, db *database, k *registryKeeper) error {
	now := r.clock.Sync()
	every := r.limits.silent / 10
	if k.looked != 0 && now.Sub(k.looked) < every {
		return nil
	}
	if now.Sub(k.looked) > r.limits.silent/2 {
		clear(k.silent) // nobody looked; perhaps nobody could report
	}
	k.looked = 0 // until this look has succeeded
	reports, err := r.reports(ctx, db)
	if err != nil {
		return fmt.Errorf("look for silent sidecars: %w", err)
	}
	seen := make(map[string]clock.Instant, len(reports))
	for _, m := range reports {
		id := fmt.Sprintf("%s@%d", m.registration, m.at.UnixMicro())
		since, known := k.silent[id]
		if !known {
			since = now
		}
		seen[id] = since
		if now.Sub(since) < r.limits.silent {
			continue
		}
		err := db.exec(ctx, "UPDATE keysidecar.instances SET marked_at = clock_timestamp() WHERE registration = $1 AND reported_at = $2 AND marked_at IS NULL", m.registration, m.at)
		if err != nil {
			return fmt.Errorf("mark a silent sidecar: %w", err)
		}
		delete(seen, id)
	}
	k.silent, k.looked = seen, now
	return nil
}

type reported struct {
	registration string
	at           time.Time
}

// reports returns when each unmarked sidecar last reported.
func (r *Relay) reports(ctx context.Context, db *database) (all []reported, err error) {
	rows, err := db.conn.Query(ctx, "SELECT registration::text, reported_at FROM keysidecar.instances WHERE marked_at IS NULL")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var m reported
		if err := rows.Scan(&m.registration, &m.at); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, rows.Err()
}

// pruneMarked deletes what has been marked for its bound. Every question asked under
// a marked registration is void, so what it may still answer by was asked before
// this relay saw the mark.
func (r *Relay) pruneMarked(ctx context.Context, db *database, k *registryKeeper) error {
	type row struct {
		registration, instance string
		markedAt               time.Time
		boundMS                int64
	}
	rows, err := db.conn.Query(ctx, "SELECT registration::text, instance, marked_at, bound_ms FROM keysidecar.instances WHERE marked_at IS NOT NULL LIMIT 10000")
	if err != nil {
		return fmt.Errorf("read marked sidecars: %w", err)
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		var m row
		if err := rows.Scan(&m.registration, &m.instance, &m.markedAt, &m.boundMS); err != nil {
			return fmt.Errorf("read marked sidecars: %w", err)
		}
		all = append(all, m)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read marked sidecars: %w", err)
	}
	now := r.clock.Sync()
	seen := make(map[string]clock.Instant, len(all))
	for _, m := range all {
		id := fmt.Sprintf("%s@%d", m.registration, m.markedAt.UnixMicro())
		since, known := k.marked[id]
		if !known {
			since = now
		}
		if now.Sub(since) < millis(m.boundMS) {
			seen[id] = since
			continue
		}
		if err := db.exec(ctx, "DELETE FROM keysidecar.instances WHERE registration = $1 AND marked_at = $2", m.registration, m.markedAt); err != nil {
			return fmt.Errorf("prune a sidecar that is gone: %w", err)
		}
		r.metrics.instancesPruned.Inc()
		r.opts.Logger.Info("a sidecar is gone without signing off", zap.String("instance", m.instance), zap.String("registration", m.registration))
	}
	k.marked = seen
	return nil
}
