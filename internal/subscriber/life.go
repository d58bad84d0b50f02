package subscriber

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/rabbit"
)

const (
	// prefetch bounds what is delivered and not acknowledged, and with
	// event.MaxMessageBytes the memory that messages can take. It is large so that in
	// a burst the broker can hand messages on as they come, which costs it less than
	// to keep them in the queue for a moment.
	prefetch = 1024
	// An acknowledgement covers up to ackBatch messages or ackDelay of them. The delay
	// is longer than a message takes to reach a whole fleet: an acknowledgement keeps
	// the broker from delivering it to the next.
	ackBatch = prefetch / 4
	ackDelay = 50 * time.Millisecond
)

// errQueueLost ends a life whose consumer the broker cancelled.
var errQueueLost = errors.New("the broker cancelled the consumer: the queue was deleted or its node is gone")

// life is one connection's consumer. All of it belongs to the goroutine in run.
type life struct {
	sub        *Subscriber
	session    *rabbit.Session
	channel    *amqp.Channel
	closed     <-chan *amqp.Error
	deliveries <-chan amqp.Delivery
	queue      string
	waiting    int // messages the queue held at the beginning

	last    int64  // seq of the message before this one; -1 at the beginning
	unacked int    // applied and not acknowledged
	tag     uint64 // the newest of them

	shown complaint
}

// attach makes the queue and begins to consume.
func (s *Subscriber) attach(session *rabbit.Session) (*life, error) {
	if err := session.EnsureExchange(s.opts.Exchange); err != nil {
		return nil, err
	}
	l := &life{sub: s, session: session, last: -1}
	err := l.consume(s.queue, false)
	if code, refused := rabbit.Refusal(err); refused {
		var suffix [suffixBytes]byte
		_, _ = rand.Read(suffix[:]) // never fails
		s.opts.Logger.Warn("queue refused, using one of its own for this connection", zap.String("queue", s.queue), zap.Int("code", code), zap.Error(err))
		if fallback := l.consume(s.queue+"."+hex.EncodeToString(suffix[:]), true); fallback != nil {
			return nil, fmt.Errorf("%w; then %w", fallback, err)
		}
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// consume declares, binds and consumes the queue name on a channel of its own. A
// private queue belongs to the connection and ends with it.
func (l *life) consume(name string, private bool) error {
	ch, err := l.session.Channel()
	if err != nil {
		return err
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"declare queue", func() error {
			q, err := ch.QueueDeclare(name, !private, private, private, false, amqp.Table{
				"x-queue-type": "classic",
				"x-expires":    l.sub.opts.QueueExpires.Milliseconds(),
				"x-max-length": int64(l.sub.opts.QueueMaxLength),
				"x-overflow":   "drop-head",
			})
			l.waiting = q.Messages
			return err
		}},
		{"bind queue", func() error { return ch.QueueBind(name, "", l.sub.opts.Exchange, false, nil) }},
		{"set prefetch", func() error { return ch.Qos(prefetch, 0, false) }},
		{"consume", func() error {
			l.deliveries, err = ch.Consume(name, "keysidecar", false, true, false, false, nil)
			return err
		}},
	}
	for _, step := range steps {
		if err := l.session.Call(step.what, step.do); err != nil {
			return err
		}
	}
	l.channel, l.queue = ch, name
	l.closed = ch.NotifyClose(make(chan *amqp.Error, 1))
	return nil
}

// run applies messages until ctx or the life ends.
func (l *life) run(ctx context.Context) error {
	rebind := time.NewTicker(l.sub.rebind)
	defer rebind.Stop()
	ack := time.NewTimer(ackDelay)
	defer ack.Stop()
	settled := time.NewTimer(l.sub.settled)
	defer settled.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return l.ack()
		case <-l.session.Done():
			return l.session.Err()
		case d, ok := <-l.deliveries:
			if !ok {
				return l.lost()
			}
			l.apply(d)
			if l.unacked == 1 {
				ack.Reset(ackDelay)
			}
			if l.unacked >= ackBatch {
				err = l.ack()
			}
		case <-ack.C:
			err = l.ack()
		case <-settled.C:
			l.sub.pauses.Reset()
		case <-rebind.C:
			l.sub.metrics.rebindTimer.Inc()
			err = l.bindAgain()
		case <-l.sub.behind:
			l.sub.metrics.rebindBehind.Inc()
			err = l.bindAgain()
		}
		if err != nil {
			return err
		}
	}
}

// apply hands one message to the store. Whatever the message is, it is then done
// with: only the fence could learn more.
func (l *life) apply(d amqp.Delivery) {
	l.unacked++
	l.tag = d.DeliveryTag
	m, store := l.sub.metrics, l.sub.opts.Store
	e, err := event.Decode(d.Body)
	if err != nil {
		m.unreadable.Inc()
		if l.shown.isNew("unreadable") {
			l.sub.opts.Logger.Warn("unreadable message", zap.Int("bytes", len(d.Body)), zap.Error(err))
		}
		store.RequestFence("unreadable")
		return
	}
	store.Evict(e)
	if l.last >= 0 && e.Prev > l.last {
		m.gaps.Inc()
		if l.shown.isNew("gap") {
			l.sub.opts.Logger.Info("message missing", zap.Int64("after_seq", l.last), zap.Int64("before_seq", e.Seq))
		}
		store.RequestFence("gap")
	}
	if e.Seq > l.last {
		m.applied.Inc()
	} else {
		m.duplicate.Inc()
	}
	// Not the highest so far: one forged number would hide all later gaps.
	l.last = e.Seq
	//nolint:forbidigo // compared with the database's wall clock, for a metric
	m.lag.Observe(max(0, time.Since(e.OccurredAt).Seconds()))
	if entry := l.sub.opts.Logger.Check(zap.DebugLevel, "event applied"); entry != nil {
		entry.Write(zap.Int64("seq", e.Seq), zap.String("kind", string(e.Kind)), zap.String("key_id", e.KeyID), zap.String("owner_id", e.OwnerID), zap.Bool("redelivered", d.Redelivered))
	}
}

// ack acknowledges everything applied so far.
func (l *life) ack() error {
	if l.unacked == 0 {
		return nil
	}
	l.unacked = 0
	return l.session.Call("acknowledge", func() error { return l.channel.Ack(l.tag, true) })
}

// bindAgain restores the binding if somebody removed it. A refusal, such as when the
// exchange is gone, ends the life, and the next one begins from nothing.
func (l *life) bindAgain() error {
	return l.session.Call("bind queue again", func() error { return l.channel.QueueBind(l.queue, "", l.sub.opts.Exchange, false, nil) })
}

// lost says why no more deliveries come.
func (l *life) lost() error {
	if !l.channel.IsClosed() {
		return errQueueLost
	}
	// The library reports a channel's end before it closes its deliveries.
	select {
	case err, ok := <-l.closed:
		if ok {
			return err
		}
	default:
	}
	return amqp.ErrClosed
}
