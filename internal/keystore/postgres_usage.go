package keystore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// UsageSession is a connection on which the last uses of keys are written. It is
// made for a few statements and closed, and counts beyond MaxConns: a fill must not
// wait for a write, and a connection that idles most of the time is one too many for
// each of some hundred sidecars.
type UsageSession struct {
	conn     *pgx.Conn
	relation string // as configured
	quoted   string
}

// pruneRows is how many rows one Prune looks at.
const pruneRows = 500

// usageLimitsSQL keeps a write from waiting for others. It need not be durable,
// either.
const usageLimitsSQL = `SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '500ms', true), set_config('statement_timeout', '5s', true)`

// usageSQL writes later moments only. The join comes first because ON CONFLICT locks
// a row, and so writes, even where there is nothing to change: most sidecars find
// that another one has written the same moment. The second comparison is for one
// that does so meanwhile.
const usageSQL = `
INSERT INTO keysidecar.key_usage AS u (relation, key_id, last_used_at)
SELECT $1, n.key_id, n.at
FROM (SELECT x.key_id, to_timestamp(floor(extract(epoch FROM now() - make_interval(secs => x.age)) / $4::float8) * $4::float8) AS at
      FROM unnest($2::text[], $3::float8[]) AS x (key_id, age)) n
LEFT JOIN keysidecar.key_usage old ON old.relation = $1 AND old.key_id = n.key_id
WHERE old.last_used_at IS NULL OR old.last_used_at < n.at
ORDER BY n.key_id COLLATE "C"
ON CONFLICT (relation, key_id) DO UPDATE SET last_used_at = excluded.last_used_at WHERE u.last_used_at < excluded.last_used_at`

const (
	usageRowsSQL = `SELECT u.key_id FROM keysidecar.key_usage u WHERE u.relation = $1 AND u.key_id > $2 ORDER BY u.key_id LIMIT $3`
	// A key that is issued anew just now loses what is known of its namesake.
	usageGoneSQL   = `SELECT q.id FROM unnest($1::text[]) AS q (id) WHERE NOT EXISTS (SELECT 1 FROM %s k WHERE k.key_id = q.id)`
	usageDeleteSQL = `DELETE FROM keysidecar.key_usage d USING (
		SELECT u.key_id FROM keysidecar.key_usage u WHERE u.relation = $1 AND u.key_id = ANY ($2::text[]) ORDER BY u.key_id FOR UPDATE SKIP LOCKED) gone
	WHERE d.relation = $1 AND d.key_id = gone.key_id`
)

// OpenUsage connects for a round of writing last uses. A server in recovery is
// found out by the first write.
func (p *Postgres) OpenUsage(ctx context.Context) (*UsageSession, error) {
	quoted, err := relationName(p.opts.Relation)
	if err != nil {
		return nil, err
	}
	cfg, err := p.connConfig()
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing to prepare for: the connection ends soon
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to write last uses: %w", err)
	}
	return &UsageSession{conn: conn, relation: p.opts.Relation, quoted: quoted}, nil
}

// Close ends the connection.
func (s *UsageSession) Close() { closeQuietly(s.conn) }

// inTransaction runs work within the limits of usageLimitsSQL.
func (s *UsageSession) inTransaction(ctx context.Context, work func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.conn, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, usageLimitsSQL); err != nil {
			return classify(err)
		}
		return work(tx)
	})
}

// Write notes that keys[i] was used ages[i] seconds ago, by the database's clock and
// rounded down to resolution. keys are in byte order.
func (s *UsageSession) Write(ctx context.Context, keys []string, ages []float64, resolution time.Duration) error {
	return s.inTransaction(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, usageSQL, s.relation, keys, ages, resolution.Seconds())
		return classify(err)
	})
}

// Prune looks at the rows that follow from and deletes those whose keys the relation
// does not have any more. next is where to go on, and empty at the end.
func (s *UsageSession) Prune(ctx context.Context, from string) (next string, gone int64, err error) {
	err = s.inTransaction(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, usageRowsSQL, s.relation, from, pruneRows)
		if err != nil {
			return classify(err)
		}
		seen, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(seen) == 0 {
			return classify(err)
		}
		if len(seen) == pruneRows {
			next = seen[len(seen)-1]
		}
		rows, err = tx.Query(ctx, fmt.Sprintf(usageGoneSQL, s.quoted), seen)
		if err != nil {
			return classify(err)
		}
		dead, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(dead) == 0 {
			return classify(err)
		}
		tag, err := tx.Exec(ctx, usageDeleteSQL, s.relation, dead)
		gone = tag.RowsAffected()
		return classify(err)
	})
	return next, gone, err
}
