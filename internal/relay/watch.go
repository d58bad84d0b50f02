package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/keysidecar/keysidecar/internal/fleet"
)

// behindAfter is how old an event must be, in seconds, for a sidecar that has not
// read it to count as behind. A healthy one takes milliseconds, and one without a
// broker a fence interval.
const behindAfter = 10

// countBehind counts sidecars that live, as far as the registry knows, and have not
// read what is old enough. One that was killed counts until it is marked. It also
// notes how old what they have not read is, for status pages.
func (r *Relay) countBehind(ctx context.Context, db *database) error {
	var (
		behind int
		unread float64
	)
	err := db.row(ctx, `SELECT (SELECT count(*) FROM keysidecar.instances i
		WHERE i.marked_at IS NULL AND coalesce(i.cursor_seq, -1) < (
			SELECT e.seq FROM keysidecar.events e
			WHERE e.occurred_at < clock_timestamp() - make_interval(secs => $1) ORDER BY e.seq DESC LIMIT 1)),
		coalesce(extract(epoch FROM clock_timestamp() - (
			SELECT e.occurred_at FROM keysidecar.events e WHERE e.seq > (
				SELECT min(i.cursor_seq) FROM keysidecar.instances i WHERE i.marked_at IS NULL) ORDER BY e.seq LIMIT 1)), 0)::float8`,
		[]any{behindAfter}, &behind, &unread)
	if err != nil {
		return fmt.Errorf("count sidecars that are behind: %w", err)
	}
	r.metrics.instancesBehind.Set(float64(behind))
	s := r.Status()
	r.history.Add(sample{r.clock.Now(), fleet.Sample{
		Behind: behind, Unread: time.Duration(max(0, unread) * float64(time.Second)), Backlog: max(0, s.HeadSeq-s.PublishedSeq),
	}})
	return nil
}

// watchGate sees who holds the gate, and for how long others have been waiting for
// it. Locks do not say since when they are held, so that is counted from the first
// look that saw the same holder.
func (r *Relay) watchGate(ctx context.Context, db *database, k *registryKeeper) error {
	var (
		holder string
		waited float64
	)
	err := db.row(ctx, `SELECT coalesce(max(virtualtransaction) FILTER (WHERE granted), ''),
			coalesce(extract(epoch FROM clock_timestamp() - min(waitstart)), 0)::float8
		FROM pg_locks WHERE locktype = 'relation' AND relation = 'keysidecar.gate'::regclass
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND mode = 'ExclusiveLock'`, nil, &holder, &waited)
	if err != nil {
		return fmt.Errorf("look who holds the gate: %w", err)
	}
	now := r.clock.Sync()
	k.gate.over(holder, now, 0)
	held := 0.0
	if holder != "" {
		held = now.Sub(k.gate.since).Seconds()
	}
	r.metrics.gateHeld.Set(held)
	r.note(func(s *Status) { s.GateHeld = time.Duration(held * float64(time.Second)) })
	r.metrics.gateWait.Set(max(0, waited))
	return nil
}
