package load

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

// ProberOptions says what a Prober asks for.
type ProberOptions struct {
	// Socket is the sidecar's, Process its incarnation at first.
	Socket  string
	Process int
	History *history.Writer
	// Watch are the keys to look at closely; nil for none.
	Watch *Watch
	// Bound is the L that this sidecar is held to (default 3 s).
	Bound time.Duration
	// Every is how often a watched key is asked for at first after its revocation
	// was sent (default 20 ms); it grows to AtMost (50 ms).
	Every, AtMost time.Duration
	// Workers is how many connections there are (default 4).
	Workers int
	// Rate is how many background requests there are a second, besides those for
	// watched keys. A share of MadeUp are for keys that never existed, the rest for
	// one of Hot.
	Rate   float64
	MadeUp float64
	Hot    []string
	// Timeout of one request (default 2 s).
	Timeout time.Duration
	Seed    uint64
}

// Prober asks one sidecar, through all of its incarnations.
type Prober struct {
	opts    ProberOptions
	process atomic.Int64
}

// NewProber returns a prober; Run starts it.
func NewProber(o ProberOptions) *Prober {
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Bound == 0 {
		o.Bound = 3 * time.Second
	}
	if o.Every == 0 {
		o.Every = 20 * time.Millisecond
	}
	if o.AtMost == 0 {
		o.AtMost = max(o.Every, 50*time.Millisecond)
	}
	p := &Prober{opts: o}
	p.SetProcess(o.Process)
	return p
}

// SetProcess says which incarnation listens on the socket. It has to be called
// when the old one is gone and before the new one starts: a connection belongs to
// the incarnation that was the present one when it was made.
func (p *Prober) SetProcess(process int) { p.process.Store(int64(process)) }

// Run asks until ctx ends, and returns nil then, when the requests under way have
// ended: Timeout later at the most.
func (p *Prober) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for i := range p.opts.Workers {
		w := &worker{
			Prober: p,
			rng:    rand.New(rand.NewPCG(p.opts.Seed, uint64(i))),
			schedule: schedule{
				watch: p.opts.Watch, mine: uint32(i), workers: uint32(p.opts.Workers), items: make(map[*Watched]*item),
				every: int64(p.opts.Every), atMost: int64(p.opts.AtMost), bound: int64(p.opts.Bound),
			},
			gap: -1,
		}
		if p.opts.Rate > 0 && (len(p.opts.Hot) > 0 || p.opts.MadeUp > 0) {
			w.gap = int64(float64(time.Second) * float64(p.opts.Workers) / p.opts.Rate)
		}
		wg.Go(func() { w.run(ctx) })
	}
	wg.Wait()
	return nil
}

// worker is one connection of a prober.
type worker struct {
	*Prober
	schedule schedule
	rng      *rand.Rand
	conn     *Conn
	backOff  time.Duration
	timer    *time.Timer
	// gap is the time between background requests, negative for none; next when the
	// next is due.
	gap, next int64
	verdict   verdict
	request   history.Request
}

// verdict is what is read of an answer.
type verdict struct {
	Valid bool   `json:"valid"`
	Code  string `json:"code"`
	KeyID string `json:"key_id"`
	AsOf  struct {
		History string `json:"history"`
		Seq     int64  `json:"seq"`
		AgeMS   int64  `json:"age_ms"`
	} `json:"as_of"`
	Source string `json:"source"`
}

const (
	// late is how far behind its rate a worker may fall before it gives up the rest.
	late         = int64(100 * time.Millisecond)
	firstBackOff = 20 * time.Millisecond
	lastBackOff  = 200 * time.Millisecond
)

func (w *worker) run(ctx context.Context) {
	w.timer = time.NewTimer(time.Hour)
	defer w.timer.Stop()
	defer w.hangUp()
	w.next = history.Now()
	for ctx.Err() == nil {
		now := history.Now()
		w.schedule.take(now)
		it := w.schedule.first()
		// What was revoked and is not refused yet comes before everything else.
		urgent := it != nil && it.due <= now && !it.denied
		background := w.gap >= 0 && !urgent && (it == nil || w.next < it.due)
		due := now + w.schedule.every
		switch {
		case background:
			due = w.next
		case it != nil:
			due = it.due
		}
		if due > now {
			// A change of the watch is seen at the next round, so rounds are short.
			w.sleep(ctx, time.Duration(min(due-now, w.schedule.every/2)))
			continue
		}
		if background {
			w.next = max(w.next+w.gap, now-late)
			w.ask(ctx, w.pick())
			continue
		}
		answered := w.ask(ctx, it.keyID)
		w.schedule.asked(it, w.request.SentAt, history.Now(), answered, w.request.Valid)
	}
}

func (w *worker) sleep(ctx context.Context, d time.Duration) {
	w.timer.Reset(d)
	select {
	case <-ctx.Done():
	case <-w.timer.C:
	}
}

func (w *worker) pick() string {
	if len(w.opts.Hot) == 0 || w.rng.Float64() < w.opts.MadeUp {
		return fmt.Sprintf("made-up-%016x", w.rng.Uint64())
	}
	return w.opts.Hot[w.rng.IntN(len(w.opts.Hot))]
}

func (w *worker) hangUp() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

// ask asks for a key and records it. It reports whether there was an answer.
func (w *worker) ask(ctx context.Context, keyID string) bool {
	q := &w.request
	*q = history.Request{Process: int(w.process.Load()), KeyID: keyID, SentAt: history.Now()}
	err := w.exchange(ctx, q)
	q.DoneAt = history.Now()
	if err == nil {
		w.backOff = 0
		w.opts.History.Request(q)
		return true
	}
	w.hangUp()
	if ctx.Err() != nil {
		return false // it was cut off by the end of the run
	}
	q.Failed, q.Code, q.Valid, q.Status = true, why(err), false, 0
	w.opts.History.Request(q)
	if q.Code == "refused" {
		w.backOff = min(max(2*w.backOff, firstBackOff), lastBackOff)
		w.sleep(ctx, w.backOff)
	}
	return false
}

func (w *worker) exchange(ctx context.Context, q *history.Request) error {
	if w.conn == nil {
		c, err := Dial(ctx, w.opts.Socket)
		if err != nil {
			return err
		}
		c.process = q.Process
		w.conn = c
		q.SentAt = history.Now()
	}
	q.Process = w.conn.process
	status, body, err := w.conn.Get("/v1/keys/", q.KeyID, "", w.opts.Timeout)
	if err != nil {
		return err
	}
	v := &w.verdict
	*v = verdict{}
	if status == http.StatusServiceUnavailable {
		// Also what is answered when there are too many connections, which need not be
		// a verdict.
		_ = json.Unmarshal(body, v)
	} else if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	if w.conn.last {
		w.hangUp()
	}
	q.Status, q.Valid, q.Code, q.Source = status, v.Valid, v.Code, v.Source
	q.History, q.Seq, q.AgeMS = v.AsOf.History, v.AsOf.Seq, v.AsOf.AgeMS
	if v.KeyID != q.KeyID && v.Valid {
		q.Code = "another_key"
	}
	return nil
}
