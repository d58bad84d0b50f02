package keystore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
	"weak"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// AuditOptions say how often memory is compared with the source by itself.
type AuditOptions struct {
	// Interval is the mean time between two samples; 0 for none.
	Interval time.Duration
	// Sample is how many entries are compared at a time, and how many of the
	// source's keys are looked for in a complete memory.
	Sample int
}

func (o AuditOptions) ok() bool {
	return o.Interval == 0 || o.Interval > 0 && o.Sample >= 1
}

// AuditStatus is what the comparisons with the source found.
type AuditStatus struct {
	// Compared counts entries since the start, Differences those that differed.
	Compared, Differences int64
	// LastDifferences is what the last audit found, sample or whole.
	LastDifferences int
	// Done: an audit has succeeded since the start; Age is the time since.
	Done bool
	Age  time.Duration
}

// AuditReport is the outcome of comparing the whole memory.
type AuditReport struct {
	// Compared counts what memory claims and was compared: keys, and unknown keys.
	// Newer claims were not, for the log or memory already knew something newer.
	// Unclaimed are marks and entries due to be read again.
	Compared, Newer, Unclaimed int
	// Complete: memory says that it holds every key. Listed then counts the
	// source's keys that were looked for in memory. CannotList: they could not be.
	Complete   bool
	Listed     int
	CannotList bool
	// Differences counts keys that differ, by kind. All of them were evicted.
	Differences map[Difference]int
	// Keys names the first of them, at most AuditKeysNamed.
	Keys []AuditedDifference
	// OldestEntry is the time since the oldest entry was read, LeaseAge the time
	// since the fence that last proved them all.
	OldestEntry, LeaseAge time.Duration
	Duration              time.Duration
}

// AuditedDifference names a key that differs.
type AuditedDifference struct {
	KeyID string
	Kind  Difference
}

// AuditKeysNamed is how many differing keys an AuditReport names.
const AuditKeysNamed = 100

// Total is how many keys differ.
func (r *AuditReport) Total() (n int) {
	for _, d := range r.Differences {
		n += d
	}
	return n
}

// ErrAuditRunning: one audit at a time.
var ErrAuditRunning = errors.New("an audit is under way")

// ErrAuditUnavailable: the audit could not be made, or not be finished.
var ErrAuditUnavailable = errors.New("memory cannot be compared with the store now")

const (
	// auditPage is how many keys a whole audit compares in one snapshot: few enough
	// that a fill which finds the connection taken does not wait long.
	auditPage = 250
	// auditPatience is how long a whole audit tries to get one page.
	auditPatience = 5 * time.Second
	auditRetry    = 50 * time.Millisecond
)

// auditState is what the audits of a store share.
type auditState struct {
	// turn is held by whoever audits, and by Run when it has ended.
	turn chan struct{}
	// at is called between the steps of a comparison; tests replace it.
	at      func(auditStep)
	metrics *auditMetrics
	began   clock.Instant
	sampler sampler // of whoever has the turn

	mu     sync.Mutex
	status AuditStatus
	last   clock.Instant
}

type auditStep int

const (
	stepCursor auditStep = iota // the cursor was read
	stepClaims                  // the claims were read
	stepAnswer                  // the source has answered
)

func (a *auditState) init(now clock.Instant) {
	a.turn = make(chan struct{}, 1)
	a.at = func(auditStep) {}
	a.began = now
}

// stop waits for the audit under way, and lets no other begin.
func (a *auditState) stop() { a.turn <- struct{}{} }

func (a *auditState) begin() bool {
	select {
	case a.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

func (a *auditState) end() { <-a.turn }

// report counts a comparison, and says aloud what differed.
func (a *auditState) report(s *Store, c comparison) {
	a.metrics.compared.Add(float64(c.compared))
	a.metrics.newer.Add(float64(c.newer))
	a.mu.Lock()
	a.status.Compared += int64(c.compared)
	a.status.Differences += int64(len(c.findings))
	a.mu.Unlock()
	if len(c.findings) == 0 {
		return
	}
	kinds := make(map[Difference]int)
	for _, f := range c.findings {
		kinds[f.kind]++
		a.metrics.differences[f.kind].Inc()
		s.log.Debug("memory differed from the store on a key", zap.String("key_id", f.keyID), zap.String("kind", string(f.kind)))
	}
	s.log.Error("memory differed from the store and was corrected; changes may have escaped the log",
		zap.Int("keys", len(c.findings)), zap.Any("kinds", kinds))
}

func (a *auditState) succeeded(now clock.Instant, differences int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Done, a.status.LastDifferences, a.last = true, differences, now
}

func (a *auditState) snapshot(now clock.Instant) AuditStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := a.status
	if st.Done {
		st.Age = now.Sub(a.last)
	}
	return st
}

// age is the time since the last success, or since the start.
func (a *auditState) age(now clock.Instant) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.status.Done {
		return now.Sub(a.last)
	}
	return now.Sub(a.began)
}

// audits compares a sample every Interval, jittered so that a fleet's questions
// do not come together. It never waits for anything: a turn that cannot be had
// now, for want of a lease or of a connection, is left out.
func (s *Store) audits(ctx context.Context) error {
	interval := s.opts.Audit.Interval
	if interval == 0 {
		return nil
	}
	for sleep(ctx, interval/2+jitter(interval)) == nil {
		if !s.audit.begin() {
			continue
		}
		err := s.auditSample(ctx)
		s.audit.end()
		switch {
		case err == nil, ctx.Err() != nil:
		case errors.Is(err, errNoLease), errors.Is(err, ErrBusy), errors.Is(err, errAuditVoid):
			s.audit.metrics.skipped.Inc()
		default:
			s.audit.metrics.failed.Inc()
			s.log.Warn("cannot compare memory with the store", zap.String("category", Categorize(err)), zap.Error(err))
		}
	}
	return nil
}

// auditSample compares the next few entries, and looks in a complete memory for
// the next few of the source's keys.
func (s *Store) auditSample(ctx context.Context) error {
	m := s.mem.Load()
	a := &s.audit
	if a.sampler.of != weak.Make(m) {
		a.sampler = newSampler(m)
	}
	list := 0
	if m.complete.Load() {
		list = s.opts.Audit.Sample
	}
	got, err := s.compare(ctx, m, a.sampler.next(m, s.opts.Audit.Sample), a.sampler.from, list)
	if err != nil {
		return err
	}
	found := len(got.findings)
	a.sampler.listed(got.page.Listed, list)
	if absent := m.claimedAbsent(got.page.Listed, s.clock.Now()); len(absent) > 0 {
		if got, err = s.compare(ctx, m, absent, "", 0); err != nil {
			return err
		}
		found += len(got.findings)
	}
	a.succeeded(s.clock.Now(), found)
	return nil
}

// claimedAbsent returns those of the source's keys that m says do not exist. They
// were read before what m says, the wrong order to compare: it has to be asked
// about them again.
func (m *memory) claimedAbsent(keys []string, now clock.Instant) (absent []string) {
	for _, id := range keys {
		if CheckKeyID(id) != nil {
			continue // nobody can ask for it
		}
		if c, ok := m.claim(id, now, 0); ok && c.isAbsence() {
			absent = append(absent, id)
		}
	}
	return absent
}

// sampler walks over a memory a few keys at a time, so that every entry has its
// turn. It holds the keys of one shard, and never more than one lock.
type sampler struct {
	// of is the memory it walks over, and does not keep it from being freed when a
	// new warm has taken its place.
	of    weak.Pointer[memory]
	shard int
	keys  []string
	// from is the last of the source's keys that was looked for.
	from string
}

// newSampler begins at a random place: the sidecars of a fleet shall not all look
// at the same keys.
func newSampler(m *memory) sampler {
	p := sampler{of: weak.Make(m), shard: rand.N(shardCount)} //nolint:gosec // spreads work, guards nothing
	if keys := p.next(m, 1); len(keys) > 0 {
		p.from = keys[0]
	}
	return p
}

// next returns n keys of m, fewer only if there are no more. None occurs twice.
func (p *sampler) next(m *memory, n int) []string {
	var out []string
	shards := shardCount
	if len(p.keys) > 0 {
		shards-- // the one begun is not begun again
	}
	for {
		take := min(n-len(out), len(p.keys))
		out = append(out, p.keys[:take]...)
		p.keys = p.keys[take:]
		if len(out) == n || shards == 0 {
			return out
		}
		p.keys, p.shard, shards = m.shards[p.shard].keys(), (p.shard+1)%shardCount, shards-1
	}
}

// listed notes how far the source's keys have been looked for.
func (p *sampler) listed(keys []string, wanted int) {
	p.from = ""
	if len(keys) > 0 && len(keys) == wanted {
		p.from = keys[len(keys)-1]
	}
}

// keys returns the keys and unknown keys of a shard, in any order. Look-ups of the
// shard's keys wait meanwhile: about 0.35 us for each key, 6 ms if memory holds a
// million. A sampler asks once per round of the shard, an audit of everything once.
func (sh *shard) keys() []string {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return append(sh.lru.Keys(), sh.absent.Keys()...)
}

// Audit compares everything in memory with the source, a page at a time, each in
// a snapshot of its own, and evicts what differs. It takes about half of one
// connection's time. The error is ErrAuditRunning or wraps ErrAuditUnavailable or
// ctx's.
func (s *Store) Audit(ctx context.Context) (*AuditReport, error) {
	if s.life.Err() != nil {
		return nil, fmt.Errorf("%w: it is stopping", ErrAuditUnavailable)
	}
	if !s.audit.begin() {
		return nil, ErrAuditRunning
	}
	defer s.audit.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	m := s.mem.Load()
	w := &wholeAudit{store: s, memory: m, oldest: s.clock.Now(), report: AuditReport{Complete: m.complete.Load(), Differences: make(map[Difference]int)}}
	begun := w.oldest
	err := w.entries(ctx)
	if err == nil && w.report.Complete {
		err = w.absences(ctx)
	}
	now := s.clock.Now()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		s.audit.metrics.failed.Inc()
		return nil, fmt.Errorf("%w: %w", ErrAuditUnavailable, err)
	}
	w.report.Duration, w.report.OldestEntry = now.Sub(begun), now.Sub(w.oldest)
	if l := m.lease.Load(); l != nil {
		w.report.LeaseAge = now.Sub(l.asked)
	}
	s.audit.succeeded(now, w.report.Total())
	s.log.Info("compared all of memory with the store", zap.Int("compared", w.report.Compared), zap.Int("newer", w.report.Newer),
		zap.Int("differences", w.report.Total()), zap.Duration("took", w.report.Duration))
	return &w.report, nil
}

// wholeAudit is one Audit under way.
type wholeAudit struct {
	store  *Store
	memory *memory
	report AuditReport
	oldest clock.Instant
}

// entries compares what memory holds, shard by shard.
func (w *wholeAudit) entries(ctx context.Context) error {
	var keys []string
	for i := range w.memory.shards {
		keys = append(keys, w.memory.shards[i].keys()...)
		for last := i == shardCount-1; len(keys) >= auditPage || last && len(keys) > 0; {
			n := min(auditPage, len(keys))
			got, err := w.page(ctx, keys[:n], "", 0)
			if err != nil {
				return err
			}
			w.report.Unclaimed += n - got.compared - got.newer
			w.age(keys[:n])
			keys = keys[n:]
		}
	}
	return nil
}

// age notes when the oldest of keys was read.
func (w *wholeAudit) age(keys []string) {
	for _, id := range keys {
		sh := w.memory.shard(id)
		sh.mu.Lock()
		if e, here := sh.lru.Peek(id); here && !e.isMark() {
			w.oldest = min(w.oldest, e.rec.filled())
		}
		sh.mu.Unlock()
	}
}

// absences looks in memory for every key of the source.
func (w *wholeAudit) absences(ctx context.Context) error {
	for from := ""; ; {
		got, err := w.page(ctx, nil, from, auditPage)
		if err != nil {
			return err
		}
		if got.page.CannotList {
			w.report.CannotList = true
			return nil
		}
		w.report.Listed += len(got.page.Listed)
		if absent := w.memory.claimedAbsent(got.page.Listed, w.store.clock.Now()); len(absent) > 0 {
			if _, err := w.page(ctx, absent, "", 0); err != nil {
				return err
			}
		}
		if len(got.page.Listed) < auditPage {
			return nil
		}
		from = got.page.Listed[auditPage-1]
	}
}

// page compares one page, again if it has to be, and rests for as long as that
// took.
func (w *wholeAudit) page(ctx context.Context, keys []string, from string, list int) (comparison, error) {
	s := w.store
	for first := s.clock.Now(); ; {
		begun := s.clock.Now()
		got, err := s.compare(ctx, w.memory, keys, from, list)
		now := s.clock.Now()
		switch {
		case err == nil:
			w.add(got)
			return got, sleep(ctx, max(now.Sub(begun), time.Millisecond))
		case errors.Is(err, errNotAudited), ctx.Err() != nil:
			return got, err
		case w.memory.ended.Load(), s.mem.Load() != w.memory:
			return got, errAuditVoid
		case now.Sub(first) > auditPatience:
			return got, err
		}
		if err := sleep(ctx, auditRetry); err != nil {
			return got, err
		}
	}
}

func (w *wholeAudit) add(c comparison) {
	r := &w.report
	r.Compared += c.compared
	r.Newer += c.newer
	for _, f := range c.findings {
		r.Differences[f.kind]++
		if len(r.Keys) < AuditKeysNamed {
			r.Keys = append(r.Keys, AuditedDifference{f.keyID, f.kind})
		}
	}
}
