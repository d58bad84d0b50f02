package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func brokerKinds() []Kind {
	const short, long = 500 * time.Millisecond, 12 * time.Second
	server := func(name string, hit, mend func(*World) error) Kind {
		return Kind{name, OfBroker, func(_ context.Context, w *World, _ *rand.Rand) (Fault, error) {
			return Fault{Mend: func(context.Context) error { return mend(w) }}, hit(w)
		}, short, long}
	}
	start := func(w *World) error { return w.MQ.Start() }
	resume := func(w *World) error { return w.MQ.Resume() }
	// once: something is done to every queue, again and again while it lasts.
	queues := func(name string, f func(*amqp.Channel, string) error) Kind {
		return Kind{name, OfBroker, func(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
			pause := between(r, 300*time.Millisecond, 3*time.Second)
			if err := w.onQueues(ctx, f); err != nil {
				return Fault{}, err
			}
			stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) { return pause, w.onQueues(ctx, f) })
			return Fault{Mend: func(context.Context) error { return stop() }}, nil
		}, short, long / 2}
	}
	return []Kind{
		server("broker stopped", func(w *World) error { return w.MQ.Stop() }, start),
		server("broker killed", func(w *World) error { return w.MQ.Kill() }, start),
		server("broker paused", func(w *World) error { return w.MQ.Pause() }, resume),
		server("broker memory alarm", alarm(`rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})`), alarm(`rabbit_alarm:clear_alarm({resource_limit, memory, node()})`)),
		server("broker disk alarm", alarm(`rabbit_alarm:set_alarm({{resource_limit, disk, node()}, []})`), alarm(`rabbit_alarm:clear_alarm({resource_limit, disk, node()})`)),
		queues("queues deleted", func(ch *amqp.Channel, q string) error {
			_, err := ch.QueueDelete(q, false, false, false)
			return err
		}),
		queues("queues purged", func(ch *amqp.Channel, q string) error {
			_, err := ch.QueuePurge(q, false)
			return err
		}),
		queues("bindings removed while publications are confirmed", func(ch *amqp.Channel, q string) error {
			return ch.QueueUnbind(q, "", exchange, nil)
		}),
		{"exchange deleted", OfBroker, func(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
			drop := func(ctx context.Context) (time.Duration, error) {
				return time.Second, w.onChannel(ctx, func(ch *amqp.Channel) error { return ch.ExchangeDelete(exchange, false, false) })
			}
			if _, err := drop(ctx); err != nil {
				return Fault{}, err
			}
			stop := repeatedly(ctx, drop)
			return Fault{Mend: func(context.Context) error { return stop() }}, nil
		}, short, long / 2},
		{"queue expired", OfBroker, queueExpired, 2500 * time.Millisecond, long / 2},
		{"queue overflowing", OfBroker, queueOverflowing, short, long / 2},
	}
}

func alarm(expression string) func(*World) error {
	return func(w *World) error {
		_, err := w.MQ.Eval(expression)
		return err
	}
}

// brief are the sidecars whose queues are short-lived and short.
func brief(w *World) []*Sidecar {
	return w.having(func(s Spec) bool { return s.Name == "brief" })
}

// queueExpired keeps sidecars away from the broker for longer than their queues
// live.
func queueExpired(_ context.Context, w *World, _ *rand.Rand) (Fault, error) {
	part := brief(w)
	var err error
	for _, s := range part {
		err = errors.Join(err, s.MQ.Refuse(true))
		s.MQ.Cut()
	}
	return Fault{Affected: part, Mend: func(context.Context) error {
		var err error
		for _, s := range part {
			err = errors.Join(err, s.MQ.Refuse(false))
		}
		return err
	}}, err
}

// queueOverflowing has more published than a queue holds while nobody takes from
// it.
func queueOverflowing(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
	part := brief(w)
	for _, s := range part {
		s.MQ.Freeze()
	}
	stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
		_ = w.touch(ctx, 200) // whether Postgres takes them is another fault's business
		return 200 * time.Millisecond, nil
	})
	return Fault{Affected: part, Mend: func(context.Context) error {
		err := stop()
		for _, s := range part {
			s.MQ.Thaw()
		}
		return err
	}}, nil
}

// touch makes n events about keys of the faults' own.
func (w *World) touch(ctx context.Context, n int) error {
	return w.Exec(ctx, fmt.Sprintf(`UPDATE keysidecar.public_keys SET attributes = jsonb_build_object('n', clock_timestamp())
		WHERE key_id IN (SELECT 'thrash_' || i FROM generate_series(1, %d) i)`, min(n, thrashKeys)))
}

// onChannel runs f on a channel of its own, past every proxy.
func (w *World) onChannel(ctx context.Context, f func(*amqp.Channel) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := amqp.DialConfig(w.MQ.URL(), amqp.Config{Heartbeat: 10 * time.Second, Dial: amqp.DefaultDial(10 * time.Second)})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	return f(ch)
}

// onQueues runs f for the queue of each instance that has one by its own name.
func (w *World) onQueues(ctx context.Context, f func(*amqp.Channel, string) error) error {
	for _, q := range w.queues() {
		err := w.onChannel(ctx, func(ch *amqp.Channel) error { return f(ch, q) })
		if gone := new(amqp.Error); errors.As(err, &gone) && gone.Code == amqp.NotFound {
			continue // its owner uses another one, or is away
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *World) queues() []string {
	var names []string
	seen := map[string]bool{}
	for _, s := range w.Sidecars {
		name := s.Spec.Instance
		if name == "" {
			name = s.Name
		}
		if !seen[name] {
			seen[name] = true
			names = append(names, queuePrefix+name)
		}
	}
	return names
}
