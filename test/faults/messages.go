package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/internal/event"
)

// Messages are of the broker's group: they need one that takes them.
func messageKinds() []Kind {
	const short, long = time.Second, 8 * time.Second
	// stream publishes what next makes to the exchange, as anybody could who has its
	// password.
	stream := func(name string, perSecond int, next func(*World, *rand.Rand, *sample) []byte) Kind {
		return Kind{name, OfBroker, func(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
			seen := new(sample)
			seen.read(ctx, w)
			own := rand.New(rand.NewPCG(r.Uint64(), 1))
			stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
				seen.read(ctx, w)
				return 200 * time.Millisecond, w.onChannel(ctx, func(ch *amqp.Channel) error {
					if err := ch.ExchangeDeclare(exchange, "fanout", true, false, false, false, nil); err != nil {
						return err
					}
					for range perSecond / 5 {
						if err := publish(ctx, ch, exchange, "", next(w, own, seen)); err != nil {
							return err
						}
					}
					return nil
				})
			})
			return Fault{Mend: func(context.Context) error { return stop() }}, nil
		}, short, long}
	}
	return []Kind{
		stream("messages forged", 200, func(_ *World, r *rand.Rand, seen *sample) []byte { return forged(r, seen) }),
		stream("messages replayed", 500, func(_ *World, r *rand.Rand, seen *sample) []byte {
			e, ok := seen.any(r)
			if !ok {
				return forged(r, seen)
			}
			return encode(e)
		}),
		stream("messages unreadable", 500, func(_ *World, r *rand.Rand, seen *sample) []byte {
			body := forged(r, seen)
			switch r.IntN(4) {
			case 0:
				return body[:r.IntN(len(body))]
			case 1:
				return make([]byte, 1+r.IntN(100_000))
			case 2:
				return append(body, body...)
			}
			for range 1 + r.IntN(20) {
				body[r.IntN(len(body))] = byte(r.Uint32())
			}
			return body
		}),
		{"messages altered on the way", OfBroker, messagesAltered, short, long},
	}
}

// sample is what the log held lately.
type sample struct {
	mu     sync.Mutex
	events []event.Event
}

// read looks at the log, and keeps what it knew if Postgres does not answer.
func (s *sample) read(ctx context.Context, w *World) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var events []event.Event
	err := w.onPrimary(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT seq, lag(seq, 1, seq - 1) OVER (ORDER BY seq), event_id, kind, coalesce(key_id, ''), coalesce(owner_id, ''), occurred_at
			FROM keysidecar.events WHERE kind <> 'reset' ORDER BY seq DESC LIMIT 500`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e event.Event
			if err := rows.Scan(&e.Seq, &e.Prev, &e.ID, &e.Kind, &e.KeyID, &e.OwnerID, &e.OccurredAt); err != nil {
				return err
			}
			events = append(events, e)
		}
		return rows.Err()
	})
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = events
	}
}

func (s *sample) any(r *rand.Rand) (event.Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) == 0 {
		return event.Event{}, false
	}
	return s.events[r.IntN(len(s.events))], true
}

// forged makes a well-formed message that no relay would send: about a key that
// exists, most of the time, with a number, an id and a kind of its own.
func forged(r *rand.Rand, seen *sample) []byte {
	e, _ := seen.any(r)
	if e.KeyID == "" {
		e.KeyID, e.OwnerID = fmt.Sprintf("thrash_%d", 1+r.IntN(thrashKeys)), faultOwner
	}
	if r.IntN(2) == 0 {
		e.ID = uuid.New()
	}
	e.OccurredAt = time.Now()
	switch r.IntN(4) {
	case 0:
		e.Seq += r.Int64N(1000)
	case 1:
		e.Seq = r.Int64N(1 << 50)
	case 2:
		e.Seq = max(1, e.Seq-r.Int64N(1000))
	}
	e.Seq = max(e.Seq, 1)
	e.Prev = e.Seq - 1
	e.Kind = []event.Kind{event.Issued, event.Changed, event.Revoked, event.Deleted}[r.IntN(4)]
	if r.IntN(4) == 0 && e.OwnerID != "" {
		e.Kind, e.KeyID = event.OwnerChanged, ""
	}
	return encode(e)
}

// encode returns the message of e, or of an event that says nothing if e cannot be
// told.
func encode(e event.Event) []byte {
	body, err := event.Encode(e)
	if err != nil {
		return []byte(err.Error())
	}
	return body
}

func publish(ctx context.Context, ch *amqp.Channel, exchange, key string, body []byte) error {
	return ch.PublishWithContext(ctx, exchange, key, false, false, amqp.Publishing{ContentType: event.ContentType, Body: body})
}

// messagesAltered puts itself between the exchange and every queue: messages are
// lost, sent twice, late, out of order, and about another key than they were.
func messagesAltered(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	conn, err := amqp.Dial(w.MQ.URL())
	if err != nil {
		return Fault{}, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return Fault{}, err
	}
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return Fault{}, err
	}
	if err := ch.QueueBind(q.Name, "", exchange, false, nil); err != nil {
		return Fault{}, err
	}
	in, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		return Fault{}, err
	}
	unbind := func(ctx context.Context) error {
		return w.onQueues(ctx, func(ch *amqp.Channel, q string) error { return ch.QueueUnbind(q, "", exchange, nil) })
	}
	if err := unbind(ctx); err != nil {
		return Fault{}, err
	}
	own := rand.New(rand.NewPCG(r.Uint64(), 2))
	var held []event.Event
	stop := repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
		if err := unbind(ctx); err != nil { // sidecars bind again by themselves
			return 0, err
		}
		tick := time.NewTimer(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return 0, nil
			case <-tick.C:
				return 0, nil
			case d, ok := <-in:
				if !ok {
					return 0, amqp.ErrClosed
				}
				e, err := event.Decode(d.Body)
				if err != nil {
					continue
				}
				held = append(held, e)
				for range own.IntN(3) {
					other := held[own.IntN(len(held))]
					e = held[own.IntN(len(held))]
					if own.IntN(2) == 0 && other.KeyID != "" && e.KeyID != "" {
						e.KeyID, e.OwnerID = other.KeyID, other.OwnerID
					}
					for _, q := range w.queues() {
						if err := publish(ctx, ch, "", q, encode(e)); err != nil {
							return 0, err
						}
					}
				}
				if len(held) > 50 {
					held = held[25:]
				}
			}
		}
	})
	return Fault{Mend: func(context.Context) error {
		err := stop()
		_ = conn.Close()
		return err
	}}, nil
}
