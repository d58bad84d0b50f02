package subscriber

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/rabbit"
)

const (
	// minPause and maxPause bound the pause between two lives: short enough to be
	// back within 2 s of a fault's end, long enough for a thousand sidecars at once.
	minPause = 100 * time.Millisecond
	maxPause = 1500 * time.Millisecond
	// settled is how long a life must last to count as a success.
	settled = 10 * time.Second
	// rebindEvery is how long a lost binding stays unnoticed if no event comes.
	rebindEvery = 10 * time.Second
	// stopGrace is how long a request under way may take when Run is to end.
	stopGrace = 300 * time.Millisecond
	// logEvery spaces log lines about a condition that persists.
	logEvery = time.Minute
)

// Status is a subscriber's state for people and status pages.
type Status struct {
	// Connected is true while messages can arrive.
	Connected bool
	// Queue is the queue in use, Host the broker's host:port; both empty while not
	// connected.
	Queue, Host string
	// LastError says why the last attempt or life ended; empty while connected.
	LastError rabbit.Category
}

// Subscriber feeds a Store from a queue.
type Subscriber struct {
	opts    Options
	queue   string
	dial    rabbit.Options
	pauses  rabbit.Backoff
	settled time.Duration
	rebind  time.Duration
	metrics *metrics
	behind  chan struct{} // one request to bind again is enough

	mu     sync.Mutex
	status Status
}

// New checks opts and registers the metrics. Nothing is dialled before Run.
func New(opts Options) (*Subscriber, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, fmt.Errorf("subscriber metrics: %w", err)
	}
	return &Subscriber{
		opts:  opts,
		queue: queueName(opts.QueuePrefix, opts.Instance),
		dial: rabbit.Options{
			URLs: opts.URLs, TLS: opts.TLS,
			Name:            "keysidecar subscriber " + opts.Instance,
			MaxMessageBytes: event.MaxMessageBytes,
		},
		pauses:  rabbit.Backoff{Min: minPause, Max: maxPause},
		settled: settled,
		rebind:  rebindEvery,
		metrics: m,
		behind:  make(chan struct{}, 1),
	}, nil
}

// Status returns the present state.
func (s *Subscriber) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// QueueBehind asks to bind the queue again, for a fence brought an event that the
// queue did not. It never blocks.
func (s *Subscriber) QueueBehind() {
	select {
	case s.behind <- struct{}{}:
	default:
	}
}

// Run lives one life after another until ctx ends, and then returns nil.
func (s *Subscriber) Run(ctx context.Context) error {
	dialer := rabbit.NewDialer(s.dial)
	var shown complaint
	for ctx.Err() == nil {
		attached, err := s.live(ctx, dialer)
		s.ended(err)
		if ctx.Err() == nil {
			s.report(attached, err, &shown)
			s.pauses.Wait(ctx)
		}
	}
	s.ended(nil)
	return nil
}

// live is one attempt and, if it succeeds, one life.
func (s *Subscriber) live(ctx context.Context, dialer *rabbit.Dialer) (attached bool, err error) {
	session, err := dialer.Dial(ctx)
	if err != nil {
		return false, err
	}
	defer session.Close()
	session.EndWith(ctx, stopGrace)
	l, err := s.attach(session)
	if err != nil {
		return false, err
	}
	s.began(l)
	return true, l.run(ctx)
}

// report counts and logs why an attempt failed or a life ended.
func (s *Subscriber) report(attached bool, err error, shown *complaint) {
	why := zap.String("reason", reason(err))
	switch {
	case attached:
		*shown = complaint{}
		s.metrics.reconnects[reason(err)].Inc()
		s.opts.Logger.Warn("broker connection lost", why, zap.Error(err))
	case !shown.isNew(reason(err)):
	case errors.Is(err, rabbit.ErrNoURLs):
		s.opts.Logger.Info("no broker is configured, revocations arrive with the fences alone")
	default:
		s.opts.Logger.Warn("broker not reached", why, zap.Error(err))
	}
}

func (s *Subscriber) began(l *life) {
	s.mu.Lock()
	s.status = Status{Connected: true, Queue: l.queue, Host: l.session.Host()}
	s.mu.Unlock()
	s.metrics.connected.Set(1)
	s.metrics.fallback.Set(0)
	if l.queue != s.queue {
		s.metrics.fallback.Set(1)
	}
	s.opts.Logger.Info("broker connected", zap.String("host", l.session.Host()), zap.String("queue", l.queue), zap.Int("waiting_messages", l.waiting))
	s.opts.Store.RequestFence("reconnect")
}

func (s *Subscriber) ended(err error) {
	s.mu.Lock()
	s.status = Status{LastError: rabbit.Categorise(err)}
	s.mu.Unlock()
	s.metrics.connected.Set(0)
	s.metrics.fallback.Set(0)
}

// reason is err's label in metrics and logs.
func reason(err error) string {
	if errors.Is(err, errQueueLost) {
		return queueLost
	}
	return string(rabbit.Categorise(err))
}
