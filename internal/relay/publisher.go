package relay

import (
	"context"
	"errors"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/rabbit"
)

// outcome is what became of one publication.
type outcome uint8

const (
	acked  outcome = iota // every queue that exists took it
	nacked                // at least one queue did not
	lost                  // nobody knows: the connection ended first
)

type result struct {
	item    *item
	outcome outcome
}

// stopGrace is how long a request under way may take when the publisher is to end.
const stopGrace = 100 * time.Millisecond

var errNoConfirm = errors.New("the broker did not confirm in time")

// publisher takes items one by one and reports what became of each. It holds no
// more than Options.Batch items, which its user sees to.
type publisher struct {
	*Relay
	in      chan *item
	results chan result

	mu    sync.Mutex
	since clock.Instant // when the broker was lost; 0 while connected or not configured
}

func newPublisher(r *Relay) *publisher {
	return &publisher{Relay: r, in: make(chan *item), results: make(chan result, r.opts.Batch), since: r.clock.Now()}
}

// brokerless is for how long there has been no broker.
func (p *publisher) brokerless() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since == 0 {
		return 0
	}
	return p.clock.Now().Sub(p.since)
}

// run connects again and again until ctx ends.
func (p *publisher) run(ctx context.Context) {
	dialer := rabbit.NewDialer(p.dial)
	pauses := rabbit.Backoff{Min: 100 * time.Millisecond, Max: 1500 * time.Millisecond}
	var shown rabbit.Category
	for ctx.Err() == nil {
		began := p.clock.Now()
		connected, err := p.live(ctx, dialer)
		if ctx.Err() != nil {
			break
		}
		category := rabbit.Categorise(err)
		p.disconnected(category)
		if connected {
			p.metrics.reconnects[category].Inc()
		}
		if p.clock.Now().Sub(began) > settled {
			pauses.Reset()
			shown = rabbit.None
		}
		if category != shown {
			shown = category
			p.opts.Logger.Warn("no broker to publish to", zap.Bool("was_connected", connected), zap.String("reason", string(category)), zap.Error(err))
		}
		pauses.Wait(ctx)
	}
	p.disconnected(rabbit.None)
}

func (p *publisher) disconnected(why rabbit.Category) {
	p.metrics.connected.Set(0)
	p.note(func(s *Status) { s.Connected, s.Host, s.LastError = false, "", why })
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case why == rabbit.NotSet:
		p.since = 0 // another relay would do no better
	case p.since == 0:
		p.since = p.clock.Now()
	}
}

func (p *publisher) connected(host string) {
	p.metrics.connected.Set(1)
	p.note(func(s *Status) { s.Connected, s.Host, s.LastError = true, host, rabbit.None })
	p.mu.Lock()
	p.since = 0
	p.mu.Unlock()
	p.opts.Logger.Info("broker connected", zap.String("host", host))
}

// flying is a publication without a result.
type flying struct {
	item *item
	dc   *amqp.DeferredConfirmation
}

// live is one attempt and, if it succeeds, one connection's life.
func (p *publisher) live(ctx context.Context, dialer *rabbit.Dialer) (connected bool, err error) {
	session, err := dialer.Dial(ctx)
	if err != nil {
		return false, err
	}
	defer session.Close()
	session.EndWith(ctx, stopGrace)
	if err := session.EnsureExchange(p.opts.Exchange); err != nil {
		return false, err
	}
	ch, err := session.Channel()
	if err != nil {
		return false, err
	}
	if err := session.Call("turn on confirms", func() error { return ch.Confirm(false) }); err != nil {
		return false, err
	}
	p.connected(session.Host())

	flight := make(chan flying, p.opts.Batch)
	var collector sync.WaitGroup
	collector.Go(func() { p.collect(session, ch, flight) })
	err = p.publish(ctx, session, ch, flight)
	close(flight)
	if ctx.Err() == nil {
		session.Fail(err)
	}
	session.Close() // what has no confirm by now has an unknown outcome
	collector.Wait()
	return true, session.Err()
}

// publish sends what comes until the session or ctx ends.
func (p *publisher) publish(ctx context.Context, session *rabbit.Session, ch *amqp.Channel, flight chan<- flying) error {
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	for {
		in, unblocked := p.in, session.Unblocked()
		select {
		case <-unblocked:
			unblocked = nil
		default:
			in = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-session.Done():
			return session.Err()
		case reason, ok := <-closed:
			if ok {
				return reason
			}
			return amqp.ErrClosed
		case <-unblocked:
		case it := <-in:
			if err := p.send(session, ch, it, flight); err != nil {
				return why(err, session, ch, closed)
			}
		}
	}
}

// why prefers the broker's reason for closing a channel to the library's remark
// that it is closed.
func why(err error, session *rabbit.Session, ch *amqp.Channel, closed <-chan *amqp.Error) error {
	if !ch.IsClosed() {
		return err
	}
	select {
	case reason, ok := <-closed:
		if ok {
			return reason
		}
	case <-session.Done():
	}
	return err
}

func (p *publisher) send(session *rabbit.Session, ch *amqp.Channel, it *item, flight chan<- flying) error {
	it.sent = p.clock.Now()
	var dc *amqp.DeferredConfirmation
	mode := amqp.Transient
	if p.opts.Persistent {
		mode = amqp.Persistent
	}
	err := session.Call("publish", func() (err error) {
		dc, err = ch.PublishWithDeferredConfirm(p.opts.Exchange, "", false, false, amqp.Publishing{
			ContentType:  event.ContentType,
			DeliveryMode: mode,
			MessageId:    it.event.ID.String(),
			Timestamp:    it.event.OccurredAt,
			Body:         it.body,
		})
		return err
	})
	if err != nil {
		p.results <- result{it, lost}
		return err
	}
	flight <- flying{it, dc}
	return nil
}

// collect reports each publication's outcome, in the order of publishing.
func (p *publisher) collect(session *rabbit.Session, ch *amqp.Channel, flight <-chan flying) {
	for f := range flight {
		p.results <- result{f.item, p.await(session, ch, f.dc)}
	}
}

// await returns once the broker has answered or the session has ended. While the
// broker blocks publishers it may take its time.
func (p *publisher) await(session *rabbit.Session, ch *amqp.Channel, dc *amqp.DeferredConfirmation) outcome {
	if dc.Acked() {
		return acked // one confirm answers for many, so that most are here when their turn comes
	}
	limit := time.NewTimer(p.limits.confirm)
	defer limit.Stop()
	for {
		select {
		case <-dc.Done():
			switch {
			case dc.Acked():
				return acked
			case ch.IsClosed():
				return lost // the library answers "no" for all that a closed channel leaves open
			}
			return nacked
		case <-session.Done():
			if dc.Acked() {
				return acked
			}
			return lost
		case <-limit.C:
			select {
			case <-session.Unblocked():
				session.Fail(errNoConfirm)
			default:
				limit.Reset(p.limits.confirm)
			}
		}
	}
}
