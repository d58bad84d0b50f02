package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// Which of a sidecar's ways a network fault is about.
type lines struct{ pg, mq bool }

func (l lines) of(part []*Sidecar) []*testenv.Proxy {
	var all []*testenv.Proxy
	for _, s := range part {
		if l.pg {
			all = append(all, s.PG)
		}
		if l.mq {
			all = append(all, s.MQ)
		}
	}
	return all
}

func networkKinds() []Kind {
	const short, long = 200 * time.Millisecond, 15 * time.Second
	toBroker, toPostgres, both := lines{mq: true}, lines{pg: true}, lines{true, true}
	return []Kind{
		{"half-open to the broker", OfNetwork, halfOpen(toBroker), short, long},
		{"half-open to Postgres", OfNetwork, halfOpen(toPostgres), short, long},
		{"half-open to both", OfNetwork, halfOpen(both), short, long},
		{"half-open to Postgres, flickering", OfNetwork, flickering, 2 * time.Second, long},
		{"unreachable", OfNetwork, unreachable, short, long},
		{"latency", OfNetwork, latency, time.Second, long},
		{"connections reset", OfNetwork, resets, time.Second, long},
		{"answers cut short", OfNetwork, truncation, time.Second, long},
		{"bytes from the broker garbled", OfNetwork, garbled, time.Second, long},
	}
}

// halfOpen stops forwarding and keeps connections. At the end either everything
// arrives late, or the connections are found dead.
func halfOpen(l lines) func(context.Context, *World, *rand.Rand) (Fault, error) {
	return func(_ context.Context, w *World, r *rand.Rand) (Fault, error) {
		part := w.some(r)
		ways := l.of(w.of(part))
		late := r.IntN(2) == 0
		for _, p := range ways {
			p.Freeze()
		}
		return Fault{Affected: part, Mend: func(context.Context) error {
			for _, p := range ways {
				if !late {
					p.Cut()
				}
				p.Thaw()
			}
			return nil
		}}, nil
	}
}

// flickering holds every answer of Postgres back, again and again, for around as
// long as a lease lasts.
func flickering(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	part := w.some(r)
	ways := lines{pg: true}.of(w.of(part))
	off, on := between(r, 100*time.Millisecond, w.Promise.MaxStaleness+time.Second), between(r, time.Millisecond, 300*time.Millisecond)
	frozen := false
	stop := repeatedly(ctx, func(context.Context) (time.Duration, error) {
		frozen = !frozen
		for _, p := range ways {
			if frozen {
				p.Freeze()
			} else {
				p.Thaw()
			}
		}
		if frozen {
			return off, nil
		}
		return on, nil
	})
	return Fault{Affected: part, Mend: func(context.Context) error {
		err := stop()
		for _, p := range ways {
			p.Thaw()
		}
		return err
	}}, nil
}

func unreachable(_ context.Context, w *World, r *rand.Rand) (Fault, error) {
	part := w.some(r)
	ways := lines{r.IntN(3) > 0, r.IntN(3) > 0}.of(w.of(part))
	var err error
	for _, p := range ways {
		err = errors.Join(err, p.Refuse(true))
		p.Cut()
	}
	return Fault{Affected: part, Mend: func(context.Context) error {
		var err error
		for _, p := range ways {
			err = errors.Join(err, p.Refuse(false))
		}
		return err
	}}, err
}

func latency(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	part := w.some(r)
	ways := lines{true, true}.of(w.of(part))
	most := between(r, 2*time.Millisecond, 400*time.Millisecond)
	own := rand.New(rand.NewPCG(r.Uint64(), 3))
	stop := repeatedly(ctx, func(context.Context) (time.Duration, error) {
		for _, p := range ways {
			p.Delay(between(own, 0, most))
		}
		return 100 * time.Millisecond, nil
	})
	return Fault{Affected: part, Detail: "up to " + most.String(), Mend: func(context.Context) error {
		err := stop()
		for _, p := range ways {
			p.Delay(0)
		}
		return err
	}}, nil
}

func resets(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	part := w.some(r)
	ways := lines{true, true}.of(w.of(part))
	pause := between(r, 20*time.Millisecond, 2*time.Second)
	stop := repeatedly(ctx, func(context.Context) (time.Duration, error) {
		for _, p := range ways {
			p.Cut()
		}
		return pause, nil
	})
	return Fault{Affected: part, Detail: "every " + pause.String(), Mend: func(context.Context) error { return stop() }}, nil
}

// tampered has f change what reaches sidecars, now and then.
func tampered(w *World, r *rand.Rand, l lines, oneIn uint64, f func(n uint64, data []byte) ([]byte, bool)) Fault {
	part := w.some(r)
	ways := l.of(w.of(part))
	var count atomic.Uint64
	for _, p := range ways {
		p.Tamper(func(toClient bool, data []byte) ([]byte, bool) {
			n := count.Add(1)
			if !toClient || n%oneIn != 0 {
				return data, false
			}
			return f(n, data)
		})
	}
	return Fault{Affected: part, Mend: func(context.Context) error {
		for _, p := range ways {
			p.Tamper(nil)
			p.Cut() // what it was in the middle of ends here
		}
		return nil
	}}
}

func truncation(_ context.Context, w *World, r *rand.Rand) (Fault, error) {
	return tampered(w, r, lines{true, true}, 5+r.Uint64N(50), func(n uint64, data []byte) ([]byte, bool) {
		return data[:n%uint64(len(data))], true
	}), nil
}

func garbled(_ context.Context, w *World, r *rand.Rand) (Fault, error) {
	return tampered(w, r, lines{mq: true}, 3+r.Uint64N(20), func(n uint64, data []byte) ([]byte, bool) {
		data[n%uint64(len(data))] ^= byte(1 + n%255)
		return data, false
	}), nil
}
