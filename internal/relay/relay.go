package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/rabbit"
	"github.com/keysidecar/keysidecar/internal/ring"
)

// The values of Options.Wakeup.
const (
	WakeupNotify = "notify"
	WakeupPoll   = "poll"
)

// Options configure a Relay. All but TLS are required; URLs may return an empty
// list: the relay then keeps house and publishes nothing.
type Options struct {
	// DSN returns the connection string of the primary, direct and not through a
	// pooler. It is asked again for every connection.
	DSN func() (string, error)
	// URLs and TLS: see rabbit.Options.
	URLs func() ([]string, error)
	TLS  func() (*tls.Config, error)
	// Exchange is the fanout exchange to publish to.
	Exchange string
	// PollInterval is how often the log is read with WakeupPoll, and with
	// WakeupNotify while LISTEN is not possible.
	PollInterval time.Duration
	// Batch is how many events are read at a time and may be unconfirmed at once.
	Batch int
	// Retention is the age at which events are deleted.
	Retention time.Duration
	// Wakeup is WakeupNotify or WakeupPoll.
	Wakeup string
	// Persistent asks the broker to keep messages on disk; docs/adr/0010 says why not.
	Persistent bool
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

func (o Options) check() error {
	switch {
	case o.DSN == nil || o.URLs == nil || o.Logger == nil || o.Registerer == nil:
		return errors.New("relay: DSN, URLs, Logger and Registerer are required")
	case o.Exchange == "" || len(o.Exchange) > 255 || strings.HasPrefix(o.Exchange, "amq."):
		return errors.New("relay: the exchange's name must have 1 to 255 bytes and not begin with \"amq.\"")
	case o.PollInterval < time.Millisecond || o.Retention <= 0:
		return errors.New("relay: the poll interval must be at least 1ms and the retention positive")
	case o.Batch < 1 || o.Batch > 10000:
		return errors.New("relay: the batch must be between 1 and 10000")
	case o.Wakeup != WakeupNotify && o.Wakeup != WakeupPoll:
		return fmt.Errorf("relay: wakeup must be %s or %s", WakeupNotify, WakeupPoll)
	}
	return nil
}

// limits are the times and numbers that only tests change.
type limits struct {
	db           time.Duration // each statement
	idleSession  time.Duration // the server ends a silent leader's session
	heartbeat    time.Duration // the leader shows life
	contend      time.Duration // a standby asks for the lock
	markEvery    time.Duration // at most one mark in this time
	confirm      time.Duration // the broker must confirm
	retryMin     time.Duration // first pause after a refusal; each next one is four times as long
	retryMax     time.Duration
	attempts     int           // publications of an event that is refused each time
	brokerless   time.Duration // without a broker, before others may try
	resigned     time.Duration // pause after that
	drain        time.Duration // at the end, for confirms under way
	housekeeping time.Duration
	registry     time.Duration // between chores of the registry
	silent       time.Duration // after which a sidecar is taken for gone
	keepNewest   int
	prunePage    int
}

// registryEvery is how often a leader looks after the registry.
const registryEvery = 2 * time.Second

func defaultLimits() limits {
	return limits{
		db: 2 * time.Second, idleSession: 3 * time.Second, heartbeat: 500 * time.Millisecond, contend: 250 * time.Millisecond,
		markEvery: 25 * time.Millisecond, confirm: 5 * time.Second, retryMin: 100 * time.Millisecond, retryMax: 5 * time.Second, attempts: 5,
		brokerless: 5 * time.Second, resigned: time.Second, drain: 300 * time.Millisecond,
		housekeeping: time.Minute, registry: registryEvery, silent: 3 * time.Minute, keepNewest: 10000, prunePage: 5000,
	}
}

// hooks are failpoints for tests; nil ones do nothing.
type hooks struct {
	beforeMark func(seq int64) error // after the confirms, before the mark is written
}

// Status is a relay's state for people and status pages.
type Status struct {
	// Leader is true while this relay holds the lock.
	Leader bool
	// PublishedSeq and HeadSeq are the mark and the newest event, as last seen by
	// this relay while it led; 0 before.
	PublishedSeq, HeadSeq int64
	// Connected is true while the leader has a broker; Host is the broker's
	// host:port.
	Connected bool
	Host      string
	// LastError says what last went wrong on the way to the broker (empty while
	// connected), DatabaseError on the way to Postgres (empty while connected).
	LastError     rabbit.Category
	DatabaseError string
	// GateHeld is for how long a leader has seen one transaction hold the gate.
	GateHeld time.Duration
}

// Relay publishes the log while it leads.
type Relay struct {
	opts    Options
	limits  limits
	hooks   hooks
	dial    rabbit.Options
	name    string // of this process, in keysidecar.relay.leader
	clock   *clock.Clock
	metrics *metrics

	kept   clock.Instant   // when housekeeping was last begun; used by the leader only
	keeper *registryKeeper // likewise: what it has waited for outlives a term

	pane    *pane
	history *ring.Ring[sample]

	mu     sync.Mutex
	status Status
}

// New checks opts and registers the metrics. Nothing is connected before Run.
func New(opts Options) (*Relay, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, fmt.Errorf("relay metrics: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Relay{
		opts: opts, limits: defaultLimits(), clock: clock.New(), metrics: m, keeper: newRegistryKeeper(),
		pane: newPane(), history: ring.New[sample](int(HistoryOver / HistoryEvery)),
		name: fmt.Sprintf("%s/%d", host, os.Getpid()),
		dial: rabbit.Options{URLs: opts.URLs, TLS: opts.TLS, Name: "keysidecar relay " + host},
	}, nil
}

// Status returns the present state.
func (r *Relay) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *Relay) note(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// settled is how long a term or a connection must last to count as a success.
const settled = 10 * time.Second

// Run contends for the lead, and leads when it has it, until ctx ends, and then
// returns nil.
func (r *Relay) Run(ctx context.Context) error {
	pauses := rabbit.Backoff{Min: 100 * time.Millisecond, Max: 1500 * time.Millisecond}
	shown := ""
	for ctx.Err() == nil {
		began := r.clock.Now()
		err := r.contend(ctx)
		if r.clock.Now().Sub(began) > settled {
			pauses.Reset()
			shown = ""
		}
		reason := databaseError(err)
		r.note(func(s *Status) { s.DatabaseError = reason })
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errBrokerless):
			r.opts.Logger.Info("no broker reached, letting another relay lead")
			pause(ctx, r.limits.resigned)
		default:
			if reason != shown {
				shown = reason
				r.opts.Logger.Warn("no database to lead with", zap.String("reason", reason), zap.Error(err))
			}
			pauses.Wait(ctx)
		}
	}
	r.note(func(s *Status) { s.DatabaseError = "" })
	return nil
}

// contend connects and asks for the lock until it has it, and then leads. It
// returns when the connection or the lead is lost.
func (r *Relay) contend(ctx context.Context) error {
	db, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer db.close()
	r.note(func(s *Status) { s.DatabaseError = "" })
	for {
		got, err := db.tryLock(ctx)
		if err != nil {
			return err
		}
		if got {
			return r.lead(ctx, db)
		}
		if !pause(ctx, r.limits.contend) {
			return ctx.Err()
		}
	}
}

// pause waits for d; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
