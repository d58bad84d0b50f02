package keystore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// Options is what New needs. Durations and counts have no defaults here; the
// configuration's apply.
type Options struct {
	Clock      *clock.Clock
	Source     Source
	Logger     *zap.Logger
	Registerer prometheus.Registerer

	// Capacity is how many keys memory holds (marks included), within a few
	// per cent.
	Capacity int
	// MaxTTL is the age at which an entry is read again, to within a second, and
	// sooner for those of a warm, which would otherwise be due all at once; 0 for
	// never.
	MaxTTL time.Duration
	// NegativeTTL is how long an unknown key is remembered; 0 for not at all.
	NegativeTTL time.Duration
	// FillTimeout bounds one read, and how long a request waits for a fence.
	FillTimeout time.Duration
	// MaxFills reads may be under way at once.
	MaxFills int
	// MissRate is how many unknown keys are read a second. Keys that memory has a
	// mark for have ten times that of their own.
	MissRate int

	// MaxStaleness is L.
	MaxStaleness time.Duration
	// FenceInterval and MinFenceGap are the longest and shortest pause between
	// fences.
	FenceInterval, MinFenceGap time.Duration
	// StaleLimit is 0 under fail_closed; under serve_stale it takes L's place.
	StaleLimit time.Duration
	// Instance and Version are how this process registers.
	Instance, Version string
	// Report: register, and report how far the log was read, so that receipts can
	// count on it. If not, the source must allow that.
	Report bool
	// WarmJitter spreads the first warms of a rollout over this long, or over a
	// millisecond for each registered process if that is less.
	WarmJitter time.Duration
	// DuringWarm, if not nil, is called when a warm begins, and what it returns when
	// it has ended.
	DuringWarm func() (after func())
	// Audit says how often memory is compared with the source.
	Audit AuditOptions
}

func (o *Options) check() error {
	switch {
	case o.Clock == nil || o.Source == nil || o.Logger == nil || o.Registerer == nil:
		return errors.New("keystore: Clock, Source, Logger and Registerer are required")
	case o.Capacity < 1 || o.MaxFills < 1 || o.MissRate < 1:
		return errors.New("keystore: Capacity, MaxFills and MissRate must be at least 1")
	case o.FillTimeout <= 0 || o.FenceInterval <= 0 || o.MinFenceGap <= 0 || o.MinFenceGap > o.FenceInterval:
		return errors.New("keystore: FillTimeout, FenceInterval and MinFenceGap must be positive, and the gap no longer than the interval")
	case o.Report && o.Instance == "":
		return errors.New("keystore: an Instance is required to register as")
	case o.MaxStaleness <= o.FenceInterval || o.MaxStaleness <= 2*clock.Uncertainty:
		return fmt.Errorf("keystore: MaxStaleness must be longer than FenceInterval (%v)", o.FenceInterval)
	case o.MaxTTL != 0 && o.MaxTTL < 2*time.Second:
		return errors.New("keystore: MaxTTL must be 0 or at least 2 s")
	case !o.Audit.ok():
		return errors.New("keystore: Audit.Interval must not be negative, and needs a Sample of at least 1")
	case o.StaleLimit != 0 && o.StaleLimit < o.MaxStaleness:
		return errors.New("keystore: StaleLimit must not be shorter than MaxStaleness")
	}
	return nil
}

// Store answers look-ups; see the package documentation.
type Store struct {
	opts    Options
	clock   *clock.Clock
	source  Source
	log     *zap.Logger
	metrics *metrics
	hooks   hooks

	// term is L less what the clock may be wrong by.
	term         time.Duration
	fenceTimeout time.Duration

	mem atomic.Pointer[memory] // never nil

	enrolment enrolment
	recent    recent
	activity  activity

	pulse      *pulse
	spacing    *rate.Limiter // of rounds of fences
	asked      chan struct{} // somebody waits for a fence
	nudged     chan struct{} // a fence would find something
	fenceError atomic.Pointer[fenceResult]
	fenceTook  atomic.Int64 // nanoseconds that the last answer took; for people
	oldest     peak         // ages of leases when they were renewed; for people
	announced  atomic.Int64 // highest number in a message since the last complete fence; for people
	arrivals   *arrivals
	audit      auditState
	onBehind   atomic.Pointer[func()]
	histories  int      // endings seen; the fence's goroutine only
	refills    []string // changed keys to read again; the fence's goroutine only
	refilling  atomic.Bool
	pageRows   int // of the next fence; the fence's goroutine only

	once   sync.Once
	begun  chan struct{} // closed when the first attempt to register has ended
	warmed chan struct{}

	// life ends when Run does; fills derive from it, not from their callers.
	life       context.Context
	stop       context.CancelFunc
	fills      sync.WaitGroup
	fillSlots  chan struct{}
	setSlots   chan struct{} // reads of key sets, also those that wait for their turn
	setTurn    chan struct{}
	setBudget  *rate.Limiter
	lingerMu   sync.Mutex // after a shard's mu
	lingering  []lingerer
	missBudget *rate.Limiter
	markBudget *rate.Limiter
}

// New returns a store that knows nothing yet; Run makes it learn.
func New(o Options) (*Store, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Store{
		opts: o, clock: o.Clock, source: o.Source, log: o.Logger,
		term: o.MaxStaleness - clock.Uncertainty,
		// Two tries must fit between the end of an interval and the end of the lease.
		fenceTimeout: max(50*time.Millisecond, min(o.FenceInterval, (o.MaxStaleness-o.FenceInterval)/2)),
		pulse:        newPulse(),
		spacing:      rate.NewLimiter(rate.Every(o.MinFenceGap), fenceBurst),
		pageRows:     pageRows,
		asked:        make(chan struct{}, 1),
		nudged:       make(chan struct{}, 1),
		begun:        make(chan struct{}),
		warmed:       make(chan struct{}),
		fillSlots:    make(chan struct{}, o.MaxFills),
		setSlots:     make(chan struct{}, setReads),
		setTurn:      make(chan struct{}, 1),
		setBudget:    rate.NewLimiter(rate.Limit(max(1, o.MissRate/4)), max(1, o.MissRate/4)),
		missBudget:   rate.NewLimiter(rate.Limit(o.MissRate), o.MissRate),
		markBudget:   rate.NewLimiter(rate.Limit(10*o.MissRate), 10*o.MissRate),
	}
	s.fenceError.Store(&fenceResult{})
	s.audit.init(s.clock.Now())
	s.life, s.stop = context.WithCancel(context.Background())
	m, err := newMemory(1, historyName("", 0))
	if err != nil {
		return nil, err
	}
	s.mem.Store(m)
	s.arrivals = newArrivals(s.queueBehind)
	s.metrics, err = newMetrics(o.Registerer, s)
	if err != nil {
		return nil, fmt.Errorf("keystore: %w", err)
	}
	return s, nil
}

// Run registers, warms, fences and watches the source until ctx ends, then ends the
// lease, waits for the fills under way, signs off, and returns nil. It is called
// once, and ended only when nobody asks any more.
func (s *Store) Run(ctx context.Context) error {
	defer func() {
		s.stop()
		s.mem.Load().ended.Store(true)
		s.mem.Load().lease.Store(nil)
		s.arrivals.stop()
		s.audit.stop()
		for range cap(s.fillSlots) { // so that no look-up begins another fill meanwhile
			s.fillSlots <- struct{}{}
		}
		for range cap(s.setSlots) {
			s.setSlots <- struct{}{}
		}
		s.fills.Wait()
		s.sweep(0)
		s.signOff()
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.fences(ctx) })
	g.Go(func() error { return s.audits(ctx) })
	g.Go(func() error {
		return s.source.Watch(ctx, func() { s.RequestFence(FenceForSource) })
	})
	return g.Wait()
}

// Begun is closed when the first attempt to register has ended, well or badly.
func (s *Store) Begun() <-chan struct{} { return s.begun }

// Warmed is closed when the first warm has been adopted and fenced.
func (s *Store) Warmed() <-chan struct{} { return s.warmed }

// Evict applies a message from the queue. Whoever wrote it, it can only take
// trust away: what memory holds of the key or owner is distrusted, and Postgres
// is asked for the truth. Nothing is added, and neither the cursor nor the lease
// moves (S2).
func (s *Store) Evict(e event.Event) {
	s.arrivals.delivered(e.ID)
	if s.mem.Load().apply(e, false) {
		s.metrics.marked.Inc()
	}
	s.activity.note(&e, true)
	s.announce(e.Seq)
	s.metrics.applied(pathQueue, 1)
	s.RequestFence(FenceForMessage)
}

// OnQueueBehind registers f, to be called when a fence has brought events that
// the queue did not deliver, too. f must not block.
func (s *Store) OnQueueBehind(f func()) { s.onBehind.Store(&f) }

func (s *Store) queueBehind(missing int) {
	s.metrics.missing.Add(float64(missing))
	if f := s.onBehind.Load(); f != nil {
		(*f)()
	}
}

// Status returns the store's state now.
func (s *Store) Status() Status {
	m := s.mem.Load()
	l := m.lease.Load()
	now := s.clock.Now()
	st := Status{
		Fresh:         l.covers(now, 0),
		Complete:      m.complete.Load(),
		CaptureIntact: s.metrics.capture.Load(),
		AsOf:          AsOf{History: m.history, Seq: max(m.cursor.Load().Seq, 0)},
		MaxStaleness:  s.opts.MaxStaleness,
		StaleLimit:    s.opts.StaleLimit,
		Capacity:      s.opts.Capacity,
		StoreKind:     s.source.Kind(),
	}
	select {
	case <-s.warmed:
		st.Warmed = true
	default:
	}
	st.ServesStale = !st.Fresh && s.opts.StaleLimit > 0 && !m.ended.Load() && l.coversStale(now)
	if l != nil {
		st.AsOf.Seq = l.seq
		st.AsOf.Age = now.Sub(l.asked)
		st.LeaseRemaining = max(0, l.until.Sub(now))
	}
	st.Entries, st.Marks, st.Negative = m.count()
	st.LastFenceError = s.fenceError.Load().category
	st.FenceTook = time.Duration(s.fenceTook.Load())
	st.Announced = s.announced.Load()
	st.Audit = s.audit.snapshot(now)
	return st
}

// hooks let tests stop a fill before and after its read. Their zero value does
// nothing.
type hooks struct {
	before, after func(keyID string)
}

func (h *hooks) beforeFill(keyID string) {
	if h.before != nil {
		h.before(keyID)
	}
}

func (h *hooks) afterFill(keyID string) {
	if h.after != nil {
		h.after(keyID)
	}
}
