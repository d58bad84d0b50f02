package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"
)

func relayKinds() []Kind {
	const short, long = 500 * time.Millisecond, 12 * time.Second
	return []Kind{
		{"leading relay killed", OfRelay, func(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
			return relaysKilled(w.leader(ctx))
		}, short, long},
		{"all relays killed", OfRelay, func(_ context.Context, w *World, _ *rand.Rand) (Fault, error) {
			return relaysKilled(w.Relays...)
		}, short, long},
		{"leading relay paused", OfRelay, func(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
			return relaysPaused(w.leader(ctx))
		}, short, long},
		{"all relays paused", OfRelay, func(_ context.Context, w *World, _ *rand.Rand) (Fault, error) {
			return relaysPaused(w.Relays...)
		}, short, long},
		{"relay replays everything", OfRelay, relayReplays, time.Second, long / 2},
		{"two relays lead", OfRelay, twoLeaders, 4 * time.Second, long},
		{"relays half-open to the broker", OfRelay, relaysCutOff, short, long},
	}
}

func (w *World) leader(ctx context.Context) *Relay {
	return w.Relays[max(0, w.leading(ctx))]
}

func relaysKilled(part ...*Relay) (Fault, error) {
	var err error
	for _, r := range part {
		err = errors.Join(err, r.Kill())
	}
	return Fault{Mend: func(context.Context) error {
		var err error
		for _, r := range part {
			err = errors.Join(err, r.Start())
		}
		return err
	}}, err
}

func relaysPaused(part ...*Relay) (Fault, error) {
	var err error
	for _, r := range part {
		err = errors.Join(err, r.Pause())
	}
	return Fault{Mend: func(context.Context) error {
		var err error
		for _, r := range part {
			err = errors.Join(err, r.Resume())
		}
		return err
	}}, err
}

// relayReplays asks for everything again, every second.
func relayReplays(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	back := r.Int64N(5000)
	stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
		head, err := w.Number(ctx, `SELECT max(seq) FROM keysidecar.events`)
		if err == nil {
			// Postgres may be away: that is another fault.
			_, _ = w.Cluster.Command(ctx, "relay", "--replay-from", strconv.FormatInt(max(0, head-back), 10))
		}
		return time.Second, nil
	})
	return Fault{Detail: "the last " + strconv.FormatInt(back, 10), Mend: func(context.Context) error { return stop() }}, nil
}

// twoLeaders cuts the leader off from Postgres without telling it, for long enough
// that another leads. It still has the broker. Then all that it asked arrives.
func twoLeaders(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
	old := w.leader(ctx)
	old.PG.Freeze()
	return Fault{Mend: func(context.Context) error {
		old.PG.Thaw()
		return nil
	}}, nil
}

func relaysCutOff(_ context.Context, w *World, _ *rand.Rand) (Fault, error) {
	for _, r := range w.Relays {
		r.MQ.Freeze()
	}
	return Fault{Mend: func(context.Context) error {
		for _, r := range w.Relays {
			r.MQ.Thaw()
		}
		return nil
	}}, nil
}
