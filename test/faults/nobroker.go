package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// WithoutBroker has the broker away from before the load begins to its end.
func WithoutBroker(ctx context.Context, o Options) (section string, err error) {
	o.Before = func(ctx context.Context, w *World) error {
		if err := w.MQ.Stop(); err != nil {
			return err
		}
		return cluster.Sleep(ctx, 2*w.Promise.FenceInterval)
	}
	o.During = func(ctx context.Context, _ *World) error { return cluster.Sleep(ctx, o.Duration) }
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
