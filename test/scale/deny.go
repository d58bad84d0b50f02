package scale

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// Turns says how much is measured.
type Turns struct {
	// Each contender has its turn Rounds times, and makes PerRound changes then: at
	// most 40, for a status page tells of the last 64 events.
	Rounds, PerRound int
}

// DefaultTurns gives figures worth keeping.
func DefaultTurns() Turns { return Turns{Rounds: 6, PerRound: 40} }

// Took is the time from acknowledged commits to the last of the receivers.
type Took []time.Duration

// Deny is what the fleet and the bare chain of the same size took.
type Deny struct {
	Sidecars int
	Turns    Turns
	Fleet    Took // to the last sidecar
	Each     Took // to every sidecar by itself
	Bare     Took // to the last process of the bare chain
	ByFence  int  // of len(Each): brought by a fence, not by the queue
	// Broker is the processor time of the broker while the fleet had its turns.
	Broker     time.Duration
	FleetRound []Took
	BareRound  []Took
}

// Deny measures both chains, one after the other in turn.
func (f *Fleet) Deny(ctx context.Context, self string, turns Turns) (d Deny, err error) {
	b, err := newBare(ctx, f, self, len(f.Sidecars))
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	app, err := pgx.Connect(ctx, f.DSN())
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, app.Close(context.WithoutCancel(ctx))) }()
	d.Sidecars, d.Turns = len(f.Sidecars), turns
	// The first round of each does not count: connections, caches, plans.
	for round := range turns.Rounds + 1 {
		before, err := f.brokerTime()
		if err != nil {
			return d, err
		}
		fleet, err := f.revokeOneByOne(ctx, app, &d, turns.PerRound, round > 0)
		if err != nil {
			return d, err
		}
		after, err := f.brokerTime()
		if err != nil {
			return d, err
		}
		if err := f.standStill(ctx, true); err != nil {
			return d, err
		}
		bare, err := b.round(ctx, round, turns.PerRound)
		if err := errors.Join(err, f.standStill(ctx, false)); err != nil {
			return d, err
		}
		if round > 0 {
			d.Broker += after - before
			d.Fleet, d.Bare = append(d.Fleet, fleet...), append(d.Bare, bare...)
			d.FleetRound, d.BareRound = append(d.FleetRound, fleet), append(d.BareRound, bare)
		}
	}
	return d, nil
}

// bound is the sidecars' freshness.max_staleness, its default.
const bound = 3 * time.Second

// between is the pause after a revocation: the fences that follow it, spread over
// a millisecond for each sidecar, are nearly over when the next one begins.
func between(sidecars int) time.Duration {
	return 60*time.Millisecond + time.Duration(sidecars)*time.Millisecond
}

// revokeOneByOne revokes perRound keys and returns how long each took to the last
// sidecar.
func (f *Fleet) revokeOneByOne(ctx context.Context, app *pgx.Conn, d *Deny, perRound int, counts bool) (Took, error) {
	committed := map[string]time.Time{}
	for i := range perRound {
		f.revoked++
		key := fmt.Sprintf("scale_%d", f.revoked)
		s := f.Sidecars[i%len(f.Sidecars)]
		if v, err := s.Get(ctx, key); err != nil || !v.Valid {
			return nil, errors.Join(fmt.Errorf("%s says %q of %s before its revocation", s.Name, v.Code, key), err)
		}
		if _, err := app.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, key); err != nil {
			return nil, err
		}
		committed[subject(key)] = time.Now()
		if err := cluster.Sleep(ctx, between(len(f.Sidecars))); err != nil {
			return nil, err
		}
		// Hardly ever not at once: many processes for few cores are late now and then.
		v, err := s.Until(ctx, key, cluster.Code("revoked"))
		if err != nil {
			return nil, err
		}
		if late := v.SentAt.Sub(committed[subject(key)]); late > bound {
			return nil, fmt.Errorf("%s refuses %s only %s after its revocation", s.Name, key, late)
		}
	}
	last := map[string]time.Duration{}
	for _, s := range f.Sidecars {
		events, err := recentEvents(ctx, s)
		if err != nil {
			return nil, err
		}
		found := 0
		for _, e := range events {
			at, ours := committed[e.Subject]
			if !ours || e.Kind != "revoked" {
				continue
			}
			found++
			took := max(0, time.UnixMicro(e.AppliedUnixMicros).Sub(at))
			last[e.Subject] = max(last[e.Subject], took)
			if counts {
				d.Each = append(d.Each, took)
				if e.Path != "queue" {
					d.ByFence++
				}
			}
		}
		if found != perRound {
			return nil, fmt.Errorf("%s tells of %d of %d revocations", s.Name, found, perRound)
		}
	}
	var took Took
	for _, t := range last {
		took = append(took, t)
	}
	return took, nil
}

// subject is how a status page names a key.
func subject(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:6])
}

type appliedEvent struct {
	Kind              string `json:"kind"`
	Subject           string `json:"subject"`
	Path              string `json:"path"`
	AppliedUnixMicros int64  `json:"applied_unix_us"`
}

func recentEvents(ctx context.Context, s *cluster.Sidecar) ([]appliedEvent, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/statusz", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var body struct {
		Events []appliedEvent `json:"recent_events"`
	}
	return body.Events, json.NewDecoder(resp.Body).Decode(&body)
}
