package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/fleet"
)

const (
	// silentAfter is more than a sidecar ever waits before it reports, in seconds: those
	// that have nothing new to report do so once a minute.
	silentAfter = 90
	// listed bounds the sidecars and the changes of a report, and lookedAt how far back
	// in the log changes are looked for.
	listed        = 50
	listedChanges = 12
	listedRuns    = 20
	lookedAt      = 10_000
	// reportFor is how long a report is good for whoever else asks, lookGap the least
	// time between two looks that ask for different names, lookTime what one may take.
	reportFor = time.Second
	lookGap   = 200 * time.Millisecond
	lookTime  = 3 * time.Second
)

// HistoryOver is the time that History spans, HistoryEvery the time between two of its
// samples.
const (
	HistoryOver  = 10 * time.Minute
	HistoryEvery = registryEvery
)

// sample is one measurement, and when it was made.
type sample struct {
	at clock.Instant
	fleet.Sample
}

// pane shows the fleet to whoever looks at a status page. However many look, the
// database is asked by one at a time, and not again within reportFor.
type pane struct {
	turn   chan struct{} // held by who looks
	at     clock.Instant // of the last look; 0 before
	report *fleet.Report
	err    error
	search string
}

func newPane() *pane { return &pane{turn: make(chan struct{}, 1)} }

// Fleet reads how all sidecars are, those first that are behind and whose names
// contain search. If that fails, why is a word from the same set as
// Status.DatabaseError. The report must not be changed.
func (r *Relay) Fleet(ctx context.Context, search string) (report *fleet.Report, why string) {
	p := r.pane
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, databaseError(ctx.Err())
	}
	defer func() { <-p.turn }()
	since := r.clock.Now().Sub(p.at)
	if p.at != 0 && since < reportFor && (p.search == search || p.err != nil) {
		return p.report, databaseError(p.err)
	}
	if p.at != 0 && since < lookGap && !pause(ctx, lookGap-since) {
		return nil, databaseError(ctx.Err())
	}
	p.report, p.err = r.look(ctx, search)
	p.at, p.search = r.clock.Now(), search
	if ctx.Err() != nil { // who asked has gone; that is no news of the database
		p.at = 0
	}
	return p.report, databaseError(p.err)
}

// History returns what this relay measured while it led, oldest first.
func (r *Relay) History() []fleet.Sample {
	now := r.clock.Now()
	var recent []fleet.Sample
	for _, s := range r.history.Items() {
		s.Ago = now.Sub(s.at)
		if s.Ago <= HistoryOver {
			recent = append(recent, s.Sample)
		}
	}
	return recent
}

// look asks the primary, in one snapshot, on a connection of its own.
func (r *Relay) look(ctx context.Context, search string) (*fleet.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	db, err := r.open(ctx, "-status", lookTime)
	if err != nil {
		return nil, err
	}
	defer db.close()
	report := &fleet.Report{Search: search, Versions: []fleet.VersionCount{}, List: []fleet.Instance{}, Changes: []fleet.Change{}}
	err = pgx.BeginTxFunc(ctx, db.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return errors.Join(lookAtLog(ctx, tx, report), lookAtSidecars(ctx, tx, report), lookAtVersions(ctx, tx, report), lookAtChanges(ctx, tx, report))
	})
	if err != nil {
		return nil, err
	}
	return report, nil
}

func lookAtLog(ctx context.Context, tx pgx.Tx, report *fleet.Report) error {
	err := tx.QueryRow(ctx, `SELECT coalesce(r.leader, ''), r.published_seq, (SELECT coalesce(max(seq), -1) FROM keysidecar.events),
			(extract(epoch FROM clock_timestamp() - r.published_at) * 1000)::bigint, keysidecar.capture_intact(),
			(SELECT g.identity FROM keysidecar.registry g) = keysidecar.registry_identity(),
			EXISTS (SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
				AND l.classid = $1 AND l.objid = $2 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
		FROM keysidecar.relay r`, uint32(lockKey>>32), uint32(lockKey&0xffffffff)).
		Scan(&report.Leader, &report.Published, &report.Head, &report.PublishedMS, &report.CaptureIntact, &report.RegistryComplete, &report.Led)
	if err != nil {
		return fmt.Errorf("look at the log: %w", err)
	}
	return nil
}

// judgedSQL gives each sidecar its state; see fleet.Counts. $1 and $2 are behindAfter
// and silentAfter.
const judgedSQL = `WITH judged AS (
	SELECT i.*, CASE
		WHEN i.marked_at IS NOT NULL THEN 'leaving'
		WHEN i.cursor_seq IS NULL THEN 'starting'
		WHEN i.timeline IS DISTINCT FROM log.timeline OR i.cursor_seq < log.old THEN 'behind'
		WHEN i.reported_at < clock_timestamp() - make_interval(secs => $2) THEN 'silent'
		WHEN i.cursor_seq < log.head THEN 'reading'
		ELSE 'current' END AS state
	FROM keysidecar.instances i, (
		SELECT split_part(keysidecar.registry_identity(), '/', 1) AS timeline, max(e.seq) AS head,
			coalesce((SELECT o.seq FROM keysidecar.events o WHERE o.occurred_at < clock_timestamp() - make_interval(secs => $1) ORDER BY o.seq DESC LIMIT 1), -1) AS old
		FROM keysidecar.events e) AS log)
`

func lookAtSidecars(ctx context.Context, tx pgx.Tx, report *fleet.Report) error {
	rows, err := tx.Query(ctx, judgedSQL+`SELECT state, count(*), count(*) FILTER (WHERE position(lower($3) IN lower(instance)) > 0) FROM judged GROUP BY state`,
		behindAfter, silentAfter, report.Search)
	if err == nil {
		var state string
		var n, found int
		_, err = pgx.ForEachRow(rows, []any{&state, &n, &found}, func() error {
			report.Sidecars.Add(fleet.State(state), n)
			report.Found += found
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("count sidecars: %w", err)
	}
	rows, err = tx.Query(ctx, judgedSQL+`SELECT j.instance, j.version, j.state, j.cursor_seq, j.bound_ms, j.policy,
			greatest(0, (extract(epoch FROM clock_timestamp() - j.reported_at) * 1000)::bigint),
			coalesce(greatest(0, (extract(epoch FROM clock_timestamp() -
				(SELECT e.occurred_at FROM keysidecar.events e WHERE e.seq > j.cursor_seq ORDER BY e.seq LIMIT 1)) * 1000)::bigint), 0)
		FROM (SELECT * FROM judged WHERE position(lower($3) IN lower(instance)) > 0
			ORDER BY array_position(ARRAY['behind', 'silent', 'starting', 'leaving', 'reading', 'current'], state), cursor_seq NULLS FIRST, instance, registration LIMIT $4) AS j
		ORDER BY array_position(ARRAY['behind', 'silent', 'starting', 'leaving', 'reading', 'current'], j.state), j.cursor_seq NULLS FIRST, j.instance, j.registration`,
		behindAfter, silentAfter, report.Search, listed)
	if err == nil {
		var i fleet.Instance
		_, err = pgx.ForEachRow(rows, []any{&i.Name, &i.Version, &i.State, &i.Cursor, &i.BoundMS, &i.Policy, &i.ReportedMS, &i.LagMS}, func() error {
			report.List = append(report.List, i)
			i = fleet.Instance{}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("list sidecars: %w", err)
	}
	return nil
}

func lookAtVersions(ctx context.Context, tx pgx.Tx, report *fleet.Report) error {
	rows, err := tx.Query(ctx, "SELECT version, count(*) FROM keysidecar.instances WHERE marked_at IS NULL GROUP BY version ORDER BY 2 DESC, 1 LIMIT $1", listedRuns)
	if err == nil {
		var v fleet.VersionCount
		_, err = pgx.ForEachRow(rows, []any{&v.Version, &v.Count}, func() error {
			report.Versions = append(report.Versions, v)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("count versions: %w", err)
	}
	return nil
}

// lookAtChanges reads the newest changes that may have ended a key, and counts who
// has reported them as a receipt does.
func lookAtChanges(ctx context.Context, tx pgx.Tx, report *fleet.Report) error {
	rows, err := tx.Query(ctx, `WITH newest AS (
			SELECT e.seq, e.kind, CASE e.kind WHEN 'owner_changed' THEN e.owner_id ELSE e.key_id END AS subject, e.occurred_at
			FROM keysidecar.events e WHERE e.seq > greatest(0, $1) AND e.kind <> 'issued' ORDER BY e.seq DESC LIMIT $2)
		SELECT n.seq, n.kind, coalesce(n.subject, ''), greatest(0, (extract(epoch FROM clock_timestamp() - n.occurred_at) * 1000)::bigint),
			(SELECT count(*) FROM keysidecar.instances i WHERE i.cursor_seq >= n.seq AND i.timeline = split_part(keysidecar.registry_identity(), '/', 1))
		FROM newest n ORDER BY n.seq DESC`, report.Head-lookedAt, listedChanges)
	if err == nil {
		var c fleet.Change
		var id string
		_, err = pgx.ForEachRow(rows, []any{&c.Seq, &c.Kind, &id, &c.AgeMS, &c.Acknowledged}, func() error {
			if c.Subject = ""; id != "" {
				c.Subject = event.Pseudonym(id)
			}
			report.Changes = append(report.Changes, c)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("read the newest changes: %w", err)
	}
	return nil
}
