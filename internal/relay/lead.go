package relay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// term is one time of leading. It belongs to the goroutine in run; the others
// reach it through its channels.
type term struct {
	*Relay
	db      *database
	win     *window
	more    bool // the log may hold events that were not read
	flight  int  // handed to the publisher, no result yet
	head    int64
	markdue clock.Instant // no mark before this

	publisher *publisher
	wake      chan struct{} // one is enough
	listening chan bool     // LISTEN works, or no longer
}

// lead publishes until ctx ends (nil) or the lead must be given up.
func (r *Relay) lead(ctx context.Context, db *database) error {
	// What the end interrupts may finish: confirms under way are still marked.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(2*r.limits.drain, cancel) })()

	t := &term{Relay: r, db: db, wake: make(chan struct{}, 1), listening: make(chan bool), publisher: newPublisher(r)}
	if err := t.begin(work); err != nil {
		return err
	}
	r.metrics.leader.Set(1)
	r.note(func(s *Status) { s.Leader = true })
	r.opts.Logger.Info("leading", zap.Int64("published_seq", t.win.marked), zap.Int64("head_seq", t.head))

	var helpers sync.WaitGroup
	helpers.Go(func() { t.publisher.run(work) })
	helpers.Go(func() { r.keepHouse(work) })
	helpers.Go(func() { r.keepRegistry(work) })
	if r.opts.Wakeup == WakeupNotify {
		helpers.Go(func() { r.listen(work, t.wake, t.listening) })
	}
	err := t.run(ctx, work)
	cancel()
	helpers.Wait()

	r.metrics.notLeading()
	r.note(func(s *Status) { s.Leader, s.Connected, s.Host, s.GateHeld = false, false, "", 0 })
	r.opts.Logger.Info("no longer leading", zap.Int64("published_seq", t.win.marked), zap.Int("unconfirmed", t.flight), zap.Error(err))
	return err
}

// begin finds where to go on.
func (t *term) begin(ctx context.Context) error {
	if err := t.db.takeLead(ctx, t.name); err != nil {
		return err
	}
	p, err := t.db.position(ctx)
	if err != nil {
		return err
	}
	return t.restart(ctx, p)
}

// restart forgets what was read and goes on from the mark.
func (t *term) restart(ctx context.Context, p position) error {
	if p.published > p.head {
		to, err := t.db.rewind(ctx, p.published, t.limits.keepNewest)
		if err != nil {
			return err
		}
		t.opts.Logger.Error("published_seq is beyond the log, which must have lost events: publishing the newest ones again",
			zap.Int64("published_seq", p.published), zap.Int64("head_seq", p.head), zap.Int64("rewound_to", to))
		p.published = to
	}
	prev, err := t.db.before(ctx, p.published)
	if err != nil {
		return fmt.Errorf("look for the event before: %w", err)
	}
	t.win = newWindow(p.published, prev)
	t.more = true
	t.see(p)
	return nil
}

// see takes note of the log's state.
func (t *term) see(p position) {
	t.head = max(p.head, t.win.read)
	t.metrics.backlog.Set(float64(max(0, t.head-t.win.marked)))
	t.note(func(s *Status) { s.PublishedSeq, s.HeadSeq = t.win.marked, t.head })
}

// run is the leader's loop. All database work of the term happens here, one
// statement at a time.
func (t *term) run(ctx, work context.Context) error {
	heartbeat := time.NewTicker(t.limits.heartbeat)
	defer heartbeat.Stop()
	poll := time.NewTicker(t.opts.PollInterval)
	defer poll.Stop()
	timer := time.NewTimer(0) // for the next retry or mark
	defer timer.Stop()
	for {
		t.settleAll()
		if err := t.read(work); err != nil {
			return err
		}
		if err := t.mark(work, false); err != nil {
			return err
		}
		timer.Reset(t.nextTimer())
		var out chan<- *item
		next := t.win.next()
		if next != nil && t.flight < t.opts.Batch {
			out = t.publisher.in
		}
		var err error
		select {
		case <-ctx.Done():
			return t.drain(work)
		case out <- next:
			t.win.sending()
			t.flight++
		case res := <-t.publisher.results:
			t.settle(res)
		case <-t.wake:
			t.more = true
		case <-poll.C:
			t.more = true
		case on := <-t.listening:
			if on {
				poll.Stop()
			} else {
				poll.Reset(t.opts.PollInterval)
			}
			t.more = true
		case <-timer.C:
		case <-heartbeat.C:
			err = t.beat(work)
		}
		if err != nil {
			return err
		}
	}
}

// read takes the next page if there may be one and there is room.
func (t *term) read(ctx context.Context) error {
	room := t.win.room(t.flight, t.opts.Batch)
	// Small pages would cost a statement each; the room grows with every confirm.
	if !t.more || room < max(1, t.opts.Batch/4) {
		return nil
	}
	events, err := t.db.page(ctx, t.win.read, t.win.prev, room)
	if err != nil {
		return err
	}
	t.more = len(events) == room
	for _, e := range events {
		t.win.push(e, t.encode(e))
	}
	if t.win.read > t.head {
		t.see(position{head: t.win.read})
	}
	return nil
}

// encode returns e's message, nil if it cannot be one: an identifier of a watched
// table may be longer than a message may hold.
func (t *term) encode(e event.Event) []byte {
	body, err := event.Encode(e)
	if err != nil {
		t.metrics.givenUpUnsendable.Inc()
		t.opts.Logger.Error("event cannot be published, sidecars learn of it by their fences", zap.Int64("seq", e.Seq), zap.Error(err))
		return nil
	}
	return body
}

// settleAll takes note of all that is known, so that events of a lost connection
// come before newer ones on the next.
func (t *term) settleAll() {
	for {
		select {
		case res := <-t.publisher.results:
			t.settle(res)
		default:
			return
		}
	}
}

// settle takes note of what became of a publication.
func (t *term) settle(res result) {
	t.flight--
	if res.item.window != t.win || res.item.event.Seq <= t.win.marked {
		return // of before a restart
	}
	switch res.outcome {
	case acked:
		t.metrics.published.Inc()
		t.metrics.confirm.Observe(t.clock.Now().Sub(res.item.sent).Seconds())
		t.win.confirm(res.item)
	case lost:
		t.metrics.republishedUnknown.Inc()
		t.win.unknown(res.item)
	case nacked:
		t.refused(res.item)
	}
}

func (t *term) refused(it *item) {
	it.refusals++
	wait := t.limits.retryMin
	for range it.refusals - 1 {
		wait = min(4*wait, t.limits.retryMax)
	}
	seq := zap.Int64("seq", it.event.Seq)
	if t.win.refuse(it, it.refusals < t.limits.attempts, t.clock.Now().Add(wait)) {
		t.metrics.republishedRefused.Inc()
		t.opts.Logger.Debug("event refused by a queue, trying again", seq, zap.Int("refusals", it.refusals))
		return
	}
	t.metrics.givenUpRefused.Inc()
	t.opts.Logger.Error("event refused again and again, at least one queue does not have it", seq, zap.Int("refusals", it.refusals))
}

// nextTimer is how long nothing needs to be done that no channel tells of.
func (t *term) nextTimer() time.Duration {
	now := t.clock.Now()
	next, ok := t.win.retry(now)
	if !ok {
		next = t.limits.heartbeat
	}
	if t.win.markable() > t.win.marked {
		next = min(next, t.markdue.Sub(now))
	}
	return max(0, next)
}

// mark moves the mark if it can move and was not moved a moment ago.
func (t *term) mark(ctx context.Context, now bool) error {
	to := t.win.markable()
	if to == t.win.marked || !now && t.clock.Now().Before(t.markdue) {
		return nil
	}
	if t.hooks.beforeMark != nil {
		if err := t.hooks.beforeMark(to); err != nil {
			return err
		}
	}
	at, ok, err := t.db.mark(ctx, t.win.marked, to)
	if err != nil {
		return err
	}
	t.markdue = t.clock.Now().Add(t.limits.markEvery)
	if !ok {
		return t.beat(ctx) // which finds out where the mark is
	}
	for _, it := range t.win.advance(to) {
		if it.state == confirmed {
			t.metrics.lag.Observe(max(0, at.Sub(it.event.OccurredAt).Seconds()))
		}
	}
	t.see(position{head: t.head})
	return nil
}

// beat shows life, and finds out whether somebody moved the mark.
func (t *term) beat(ctx context.Context) error {
	p, err := t.db.position(ctx)
	if err != nil {
		return err
	}
	switch {
	case p.published == t.win.marked && p.published <= p.head:
	case p.published > t.win.marked && p.published <= t.win.read:
		t.win.advance(p.published) // another leader, paused or cut off before
	default:
		t.opts.Logger.Info("going on from another place", zap.Int64("published_seq", p.published), zap.Int64("was", t.win.marked))
		return t.restart(ctx, p)
	}
	t.see(p)
	if p.head > t.win.read {
		t.more = true
	}
	if t.publisher.brokerless() < t.limits.brokerless {
		return nil
	}
	others, err := t.db.othersWait(ctx)
	if err == nil && others {
		err = errBrokerless
	}
	return err
}

// drain waits a moment for confirms under way and marks what they allow.
func (t *term) drain(ctx context.Context) error {
	limit := time.NewTimer(t.limits.drain)
	defer limit.Stop()
	for t.flight > 0 {
		select {
		case res := <-t.publisher.results:
			t.settle(res)
			continue
		case <-limit.C:
		}
		break
	}
	if err := t.mark(ctx, true); err != nil {
		t.opts.Logger.Warn("the last events will be published again", zap.Error(err))
	}
	return nil
}
