package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Healthy measures how long after a commit the last of n sidecars refuses a key,
// when nothing is broken, one revocation at a time. It returns a section of the
// evidence, and an error if the figures of the promise (L1) are missed.
func Healthy(ctx context.Context, o Options, revocations int) (section string, err error) {
	w, err := Start(ctx, o.Dir, false, o.Promise, o.Fleet)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	last, each, err := w.timeRevocations(ctx, revocations)
	if err != nil {
		return "", err
	}
	p50, p99 := quantile(last, 0.5), quantile(last, 0.99)
	var b strings.Builder
	fmt.Fprintf(&b, "## Healthy: from the commit to the refusal\n\n    %s\n\n", o.Command)
	for _, line := range w.machine(ctx, "source "+revision(ctx)) {
		fmt.Fprintf(&b, "- %s\n", strings.TrimSpace(line))
	}
	fmt.Fprintf(&b, "- %d sidecars, reporting on; %d revocations one at a time\n\n", len(w.Sidecars), len(last))
	b.WriteString("From the acknowledgement of the commit until the first request was sent that was refused, asked for every " + askEvery.String() + " by each.\n\n| | p50 | p90 | p99 | max |\n|---|---|---|---|---|\n")
	for _, x := range []struct {
		what string
		d    []time.Duration
	}{{"the last sidecar", last}, {"any sidecar", each}} {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", x.what, quantile(x.d, 0.5), quantile(x.d, 0.9), quantile(x.d, 0.99), quantile(x.d, 1))
	}
	const most50, most99 = 5 * time.Millisecond, 25 * time.Millisecond
	fmt.Fprintf(&b, "\nPromised: p50 at most %s, p99 at most %s.\n", most50, most99)
	if p50 > most50 || p99 > most99 {
		err = fmt.Errorf("the last sidecar refuses after %v (p50) and %v (p99)", p50, p99)
	}
	return b.String(), err
}

// timeRevocations revokes keys one after another while every sidecar is asked, and
// returns the times of the last sidecar and of all.
func (w *World) timeRevocations(ctx context.Context, n int) (last, each []time.Duration, err error) {
	if err := w.Exec(ctx, fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'timed_' || i, '%s', 'opaque' FROM generate_series(1, %d) i`, faultOwner, n)); err != nil {
		return nil, nil, err
	}
	clients := make([]*client, len(w.Sidecars))
	for i, s := range w.Sidecars {
		if clients[i], err = newClient(ctx, s.Socket); err != nil {
			return nil, nil, err
		}
		defer clients[i].close()
	}
	app, err := pgx.Connect(ctx, w.DSN())
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, app.Close(context.WithoutCancel(ctx))) }()
	if err := sleep(ctx, 2*w.Promise.FenceInterval); err != nil {
		return nil, nil, err
	}
	for i := range n {
		key := fmt.Sprintf("timed_%d", 1+i)
		took, err := w.timeOne(ctx, app, clients, key)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
		each = append(each, took...)
		last = append(last, slices.Max(took))
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, nil, err
		}
	}
	return last, each, nil
}

// askEvery is how often a client asks its sidecar until it refuses. All of them
// together must not need the processors that the revocation needs.
const askEvery = 2 * time.Millisecond

// timeOne revokes a key and returns how long after the acknowledgement each sidecar
// was sent the first request that it refused.
func (w *World) timeOne(ctx context.Context, app *pgx.Conn, clients []*client, key string) ([]time.Duration, error) {
	for i, c := range clients {
		if status, err := c.status(key); err != nil || status != http.StatusOK {
			return nil, errors.Join(fmt.Errorf("%s answers %d before the revocation", w.Sidecars[i].Name, status), err)
		}
	}
	sent := make([]time.Time, len(clients))
	errs := make([]error, len(clients))
	var askers sync.WaitGroup
	for i, c := range clients {
		askers.Go(func() {
			if errs[i] = sleep(ctx, rand.N(askEvery)); errs[i] != nil { //nolint:gosec // spreads the questions
				return
			}
			tick := time.NewTicker(askEvery)
			defer tick.Stop()
			for {
				at := time.Now()
				status, err := c.status(key)
				if err != nil || status != http.StatusOK {
					sent[i], errs[i] = at, err
					return
				}
				<-tick.C
			}
		})
	}
	_, err := app.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, key)
	acked := time.Now()
	askers.Wait()
	if err := errors.Join(err, errors.Join(errs...)); err != nil {
		return nil, err
	}
	took := make([]time.Duration, len(sent))
	for i, at := range sent {
		took[i] = max(0, at.Sub(acked))
	}
	return took, nil
}

// WithoutBroker has the broker away from before the load begins to its end.
func WithoutBroker(ctx context.Context, o Options) (section string, err error) {
	o.Before = func(ctx context.Context, w *World) error {
		if err := w.MQ.Stop(); err != nil {
			return err
		}
		return sleep(ctx, 2*w.Promise.FenceInterval)
	}
	o.During = func(ctx context.Context, _ *World) error { return sleep(ctx, o.Duration) }
	res, err := Run(ctx, o)
	if err != nil {
		return "", err
	}
	report, err := Judge(res.History)
	if err != nil {
		return "", err
	}
	all := &report.All
	limit := o.Promise.FenceInterval + 250*time.Millisecond
	p99 := all.TimeToDeny.Quantile(0.99)
	var b strings.Builder
	fmt.Fprintf(&b, "## The broker away for the whole run\n\n    %s\n\n", o.Command)
	for _, line := range res.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- %d sidecars, %s of load, %d requests\n\n| what | value |\n|---|---|\n", len(o.Fleet), res.Took.Round(time.Second), all.Requests)
	fmt.Fprintf(&b, "| requests answered 503 | %d |\n| requests without an answer | %d |\n| revocations | %d |\n", all.Unavailable, all.Failed, report.Claims)
	fmt.Fprintf(&b, "| pairs (incarnation x revocation) | %d |\n", all.Pairs)
	fmt.Fprintf(&b, "| time to deny p50 | %s |\n| time to deny p99 | %s |\n| time to deny max | %s |\n| violations | %d |\n",
		all.TimeToDeny.Quantile(0.5).Round(time.Millisecond), p99.Round(time.Millisecond), all.TimeToDeny.Quantile(1).Round(time.Millisecond), report.Total())
	fmt.Fprintf(&b, "\nPromised: no failed request, p99 at most %s (the fence interval and 250 ms).\n", limit)
	err = report.Err()
	if all.Unavailable+all.Failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d requests were answered 503, %d not at all", all.Unavailable, all.Failed))
	}
	if p99 > limit {
		err = errors.Join(err, fmt.Errorf("time to deny is %v at p99", p99))
	}
	return b.String(), errors.Join(err, os.Remove(res.History))
}
