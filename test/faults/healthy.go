package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// delays after the acknowledged commit at which sidecars are asked. A question costs
// as much processor time as the revocation itself, so that each sidecar is asked
// once for each revocation: asking again and again would measure the asking.
var delays = [...]time.Duration{time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond}

// asked is what one round of questions found.
type asked struct {
	rounds   int
	all      int // rounds in which every sidecar refused
	pairs    int
	refusals int
}

// Healthy measures how soon after a commit n sidecars refuse a key, when nothing is
// broken, one revocation at a time. It returns a section of the evidence, and an
// error if the figures of the promise (L1) are missed.
func Healthy(ctx context.Context, o Options, revocations int) (section string, err error) {
	w, err := Start(ctx, o.Dir, false, o.Promise, o.Fleet)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	found, err := w.timeRevocations(ctx, revocations)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "## Healthy: from the commit to the refusal\n\n    %s\n\n", o.Command)
	for _, line := range w.machine(ctx, "source "+revision(ctx)) {
		fmt.Fprintf(&b, "- %s\n", strings.TrimSpace(line))
	}
	fmt.Fprintf(&b, "- %d sidecars, reporting on; %d revocations one at a time\n\n", len(w.Sidecars), revocations)
	b.WriteString("Each sidecar was asked once for each revocation, all at the same moment after the commit was acknowledged.\n\n" +
		"| asked after | revocations | every sidecar refused | sidecars that refused |\n|---|---|---|---|\n")
	for i, d := range delays {
		a := found[i]
		fmt.Fprintf(&b, "| %s | %d | %.1f %% | %.2f %% |\n", d, a.rounds, percent(a.all, a.rounds), percent(a.refusals, a.pairs))
	}
	const most50, most99 = 5 * time.Millisecond, 25 * time.Millisecond
	fmt.Fprintf(&b, "\nPromised: after %s every sidecar refuses in half of the cases, after %s in 99 %%.\n", most50, most99)
	return b.String(), errors.Join(judgeRefusals(found, most50, 50), judgeRefusals(found, most99, 99))
}

func percent(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }

// judgeRefusals: of the revocations asked about after d, at least share per cent were
// refused by every sidecar.
func judgeRefusals(found []asked, d time.Duration, share float64) error {
	a := found[slices.Index(delays[:], d)]
	if got := percent(a.all, a.rounds); got < share {
		return fmt.Errorf("after %s every sidecar refused in %.1f %% of %d revocations", d, got, a.rounds)
	}
	return nil
}

// timeRevocations revokes n keys one after another, and asks every sidecar once for
// each, after one of the delays in turn. What it returns is indexed like delays.
func (w *World) timeRevocations(ctx context.Context, n int) (found []asked, err error) {
	if err := w.Exec(ctx, fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'timed_' || i, '%s', 'opaque' FROM generate_series(1, %d) i`, faultOwner, n)); err != nil {
		return nil, err
	}
	clients := make([]*client, len(w.Sidecars))
	for i, s := range w.Sidecars {
		if clients[i], err = newClient(ctx, s.Socket); err != nil {
			return nil, err
		}
		defer clients[i].close()
	}
	app, err := pgx.Connect(ctx, w.DSN())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, app.Close(context.WithoutCancel(ctx))) }()
	if err := sleep(ctx, 2*w.Promise.FenceInterval); err != nil {
		return nil, err
	}
	found = make([]asked, len(delays))
	for i := range n {
		key := fmt.Sprintf("timed_%d", 1+i)
		refused, err := w.askOnce(ctx, app, clients, key, delays[i%len(delays)])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		a := &found[i%len(delays)]
		a.rounds++
		a.pairs += len(clients)
		a.refusals += refused
		if refused == len(clients) {
			a.all++
		}
		if err := sleep(ctx, 300*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// askOnce revokes a key, asks every sidecar after d, and returns how many refused.
func (w *World) askOnce(ctx context.Context, app *pgx.Conn, clients []*client, key string, d time.Duration) (refused int, err error) {
	for i, c := range clients {
		if status, err := c.status(key); err != nil || status != http.StatusOK {
			return 0, errors.Join(fmt.Errorf("%s answers %d before the revocation", w.Sidecars[i].Name, status), err)
		}
	}
	if _, err := app.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, key); err != nil {
		return 0, err
	}
	if err := sleep(ctx, d); err != nil {
		return 0, err
	}
	statuses, errs := make([]int, len(clients)), make([]error, len(clients))
	var askers sync.WaitGroup
	for i, c := range clients {
		askers.Go(func() { statuses[i], errs[i] = c.status(key) })
	}
	askers.Wait()
	for _, status := range statuses {
		if status != http.StatusOK {
			refused++
		}
	}
	return refused, errors.Join(errs...)
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
