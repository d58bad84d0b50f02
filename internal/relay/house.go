package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// houseTimeout bounds each statement of the housekeeping.
const houseTimeout = 30 * time.Second

// keepHouse does the leader's chores at once and then each minute, across terms,
// until ctx ends.
func (r *Relay) keepHouse(ctx context.Context) {
	for {
		wait := r.limits.housekeeping
		if since := r.clock.Now().Sub(r.kept); r.kept != 0 && since < wait {
			wait -= since
		} else {
			r.kept = r.clock.Now()
			if err := r.houseOnce(ctx); err != nil && ctx.Err() == nil {
				r.metrics.houseFailures.Inc()
				r.opts.Logger.Error("housekeeping failed", zap.Error(err))
			}
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// houseOnce does each chore, also if another fails, on a connection of its own.
func (r *Relay) houseOnce(ctx context.Context) error {
	db, err := r.open(ctx, "-housekeeping", houseTimeout)
	if err != nil {
		return err
	}
	defer db.close()
	if err := db.exec(ctx, fmt.Sprintf("SET statement_timeout = '%dms'", houseTimeout.Milliseconds())); err != nil {
		return err
	}
	return errors.Join(r.checkCapture(ctx, db), r.emptyStaging(ctx, db), r.prune(ctx, db))
}

// checkCapture sees whether every trigger that writes the log is in its place.
func (r *Relay) checkCapture(ctx context.Context, db *database) error {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	rows, err := db.conn.Query(ctx, "SELECT relation_name, coalesce(trigger_name::text, ''), problem FROM keysidecar.capture_problems()")
	if err != nil {
		r.metrics.captureIntact.Set(0)
		return fmt.Errorf("check capture: %w", err)
	}
	defer rows.Close()
	intact := 1.0
	for rows.Next() {
		var relation, trigger, problem string
		if err := rows.Scan(&relation, &trigger, &problem); err != nil {
			return fmt.Errorf("check capture: %w", err)
		}
		intact = 0
		r.opts.Logger.Error("changes are not captured, sidecars will refuse to answer from memory",
			zap.String("relation", relation), zap.String("trigger", trigger), zap.String("problem", problem))
	}
	if err := rows.Err(); err != nil {
		r.metrics.captureIntact.Set(0)
		return fmt.Errorf("check capture: %w", err)
	}
	r.metrics.captureIntact.Set(intact)
	return nil
}

// emptyStaging clears what a transaction noted and never numbered. Each empties
// its own rows before it ends, so a row that others can see is of a time when
// capture was broken.
func (r *Relay) emptyStaging(ctx context.Context, db *database) error {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	tag, err := db.conn.Exec(ctx, "DELETE FROM keysidecar.staging")
	if err != nil {
		return fmt.Errorf("empty staging: %w", err)
	}
	if n := tag.RowsAffected(); n > 0 {
		r.opts.Logger.Error("changes were noted and never numbered while capture was broken, SELECT keysidecar.reset() makes sidecars forget what they hold", zap.Int64("changes", n))
	}
	return nil
}

// prune deletes events past their retention, oldest first, a page at a time, and
// never the newest ones: a sidecar's cursor must find itself in the log.
func (r *Relay) prune(ctx context.Context, db *database) error {
	var limit int64
	err := db.row(ctx, "SELECT coalesce(min(seq), 0) FROM (SELECT seq FROM keysidecar.events ORDER BY seq DESC LIMIT $1) newest", []any{r.limits.keepNewest}, &limit)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	for {
		var looked, pruned, unpublished int
		err := db.row(ctx, `WITH oldest AS (
				SELECT seq FROM keysidecar.events WHERE seq < $1 ORDER BY seq LIMIT $2
			), gone AS (
				DELETE FROM keysidecar.events e USING oldest
				WHERE e.seq = oldest.seq AND e.occurred_at < now() - make_interval(secs => $3) RETURNING e.seq
			)
			SELECT (SELECT count(*) FROM oldest), (SELECT count(*) FROM gone),
				(SELECT count(*) FROM gone, keysidecar.relay r WHERE gone.seq > r.published_seq)`,
			[]any{limit, r.limits.prunePage, r.opts.Retention.Seconds()}, &looked, &pruned, &unpublished)
		if err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		r.metrics.pruned.Add(float64(pruned))
		if unpublished > 0 {
			r.opts.Logger.Error("events past their retention were deleted that no broker has had", zap.Int("events", unpublished))
		}
		if pruned < looked || looked < r.limits.prunePage {
			return nil
		}
	}
}
