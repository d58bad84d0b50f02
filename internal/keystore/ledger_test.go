package keystore

import (
	"context"
	"errors"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/event"
)

// ledger is a strict in-memory Source for tests that must stop time at a chosen
// step. It passes the same suite as Postgres and File (TestSources), and fails
// the test when it is used against the contract: two fences or warms at once, a
// use after Close, or a question without a deadline.
type ledger struct {
	t *testing.T

	mu       sync.Mutex
	keys     map[string]Key
	owners   map[string]bool // suspended
	events   []event.Event
	timeline string
	standby  bool
	capture  bool
	down     error
	now      func() time.Time
	fencing  bool
	closed   bool
	fills    int
	// registered holds who may ask; marked those whose questions are void. allowed is
	// the longest bound of those who do not register.
	registered map[uuid.UUID]Cursor
	marked     map[uuid.UUID]bool
	allowed    time.Duration
	signedOff  int
	readOnly   bool // reports are refused
	reports    int

	// Gates run outside the lock, before and after a snapshot is taken.
	beforeFill, afterFill func(keyID string)
	beforeFence           func()
	duringWarm            func(row int)

	// For audits; see audit_ledger_test.go.
	beforeAudit, afterAudit func()
	audits                  int
	audited                 []string
}

func newLedger(t *testing.T) *ledger {
	l := &ledger{
		t: t, registered: map[uuid.UUID]Cursor{}, marked: map[uuid.UUID]bool{}, keys: map[string]Key{}, owners: map[string]bool{}, timeline: "00000001", capture: true, now: time.Now,
		beforeFill: func(string) {}, afterFill: func(string) {}, beforeFence: func() {}, duringWarm: func(int) {},
	}
	l.append(event.Reset, "", "")
	return l
}

// append adds an event; the caller holds mu, or nobody else has l yet.
func (l *ledger) append(kind event.Kind, key, owner string) event.Event {
	seq := int64(0)
	if n := len(l.events); n > 0 {
		seq = l.events[n-1].Seq + 1
	}
	e := event.Event{Seq: seq, Prev: seq - 1, ID: uuid.New(), Kind: kind, KeyID: key, OwnerID: owner, OccurredAt: l.now()}
	l.events = append(l.events, e)
	return e
}

func (l *ledger) put(k Key) event.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, had := l.keys[k.ID]
	l.keys[k.ID] = k
	switch {
	case !had:
		return l.append(event.Issued, k.ID, k.OwnerID)
	case k.Revoked && !old.Revoked:
		return l.append(event.Revoked, k.ID, k.OwnerID)
	}
	return l.append(event.Changed, k.ID, k.OwnerID)
}

func (l *ledger) revoke(id string) event.Event {
	l.mu.Lock()
	k, ok := l.keys[id]
	l.mu.Unlock()
	if !ok {
		l.t.Errorf("revoking %q, which does not exist", id)
	}
	k.Revoked = true
	return l.put(k)
}

func (l *ledger) delete(id string) event.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[id]
	delete(l.keys, id)
	return l.append(event.Deleted, id, k.OwnerID)
}

func (l *ledger) suspend(owner string, suspended bool) event.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners[owner] = suspended
	return l.append(event.OwnerChanged, "", owner)
}

func (l *ledger) truncate() event.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.keys)
	return l.append(event.Reset, "", "")
}

// set runs f under the lock.
func (l *ledger) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *ledger) enter(ctx context.Context) error {
	if l.closed {
		l.t.Error("the source was used after Close")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.down != nil {
		return l.down
	}
	if l.standby {
		return ErrStandby
	}
	return nil
}

func (l *ledger) exclusive(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on && l.fencing {
		l.t.Error("two fences or warms at once")
	}
	l.fencing = on
}

func (l *ledger) gate(f *func(string)) func(string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *f
}

func (l *ledger) fenceGate() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.beforeFence
}

func (l *ledger) warmGate() func(int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.duringWarm
}

func (l *ledger) reads() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fills
}

func (l *ledger) Kind() string { return "ledger" }

func (l *ledger) after(at Cursor) ([]event.Event, bool) {
	i := sort.Search(len(l.events), func(i int) bool { return l.events[i].Seq >= at.Seq })
	if i == len(l.events) || l.events[i].Seq != at.Seq || l.events[i].ID != at.ID {
		return nil, false
	}
	return l.events[i+1:], true
}

func (l *ledger) Register(ctx context.Context, i Incarnation) (int, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		l.t.Error("a registration without a deadline")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enter(ctx); err != nil {
		return 0, err
	}
	if _, again := l.registered[i.Registration]; again || i.Registration == uuid.Nil || i.Instance == "" || i.MaxStaleness <= 0 {
		l.t.Errorf("a registration that cannot be: %+v", i)
	}
	for _, id := range i.Failed {
		delete(l.registered, id)
	}
	l.registered[i.Registration] = noCursor
	return len(l.registered), nil
}

func (l *ledger) SignOff(_ context.Context, ids []uuid.UUID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signedOff++
	for _, id := range ids {
		delete(l.registered, id)
	}
	return nil
}

// member reports whether the question counts; the caller holds mu.
func (l *ledger) member(by Membership) bool {
	if by.Registration == uuid.Nil {
		return by.Bound <= l.allowed
	}
	_, ok := l.registered[by.Registration]
	return ok && !l.marked[by.Registration]
}

func (l *ledger) Fence(ctx context.Context, q FenceQuestion) (Page, error) {
	at, limit := q.At, q.Limit
	if _, bounded := ctx.Deadline(); !bounded {
		l.t.Error("a fence without a deadline")
	}
	l.exclusive(true)
	defer l.exclusive(false)
	l.fenceGate()()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enter(ctx); err != nil {
		return Page{}, err
	}
	rest, known := l.after(at)
	if !known {
		return Page{}, nil
	}
	n := min(limit, len(rest))
	reported := q.Report && !l.readOnly && l.member(q.By) && q.Timeline == l.timeline
	if reported {
		l.registered[q.By.Registration] = at
		l.reports++
	}
	return Page{
		Member: l.member(q.By), Reported: reported, Known: true, Timeline: l.timeline, Time: l.now(), CaptureIntact: l.capture,
		Events: append([]event.Event(nil), rest[:n]...), Full: n == limit,
	}, nil
}

func (l *ledger) Fill(ctx context.Context, keyID string, at Cursor, by Membership, use func(Filled)) error {
	if _, bounded := ctx.Deadline(); !bounded {
		l.t.Error("a fill without a deadline")
	}
	l.gate(&l.beforeFill)(keyID)
	got, err := l.read(ctx, keyID, at, by)
	l.gate(&l.afterFill)(keyID)
	if err != nil {
		return err
	}
	use(got)
	return nil
}

func (l *ledger) read(ctx context.Context, keyID string, at Cursor, by Membership) (Filled, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fills++
	if err := l.enter(ctx); err != nil {
		return Filled{}, err
	}
	k, found := l.keys[keyID]
	rest, known := l.after(at)
	clean := known
	for _, e := range rest {
		if e.KeyID == keyID || e.Kind == event.Reset || (found && e.Kind == event.OwnerChanged && e.OwnerID == k.OwnerID) {
			clean = false
		}
	}
	got := Filled{Member: l.member(by), Known: known, Clean: clean, Timeline: l.timeline, Time: l.now()}
	if found {
		k.OwnerSuspended = l.owners[k.OwnerID]
		got.Row = k.row()
	}
	return got, nil
}

func (l *ledger) FillOwner(ctx context.Context, ownerID string, limit int, at Cursor, by Membership, row func(*Row) bool) (Filled, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		l.t.Error("a fill without a deadline")
	}
	l.gate(&l.beforeFill)("owner " + ownerID)
	got, keys, err := l.readOwner(ctx, ownerID, at, by)
	l.gate(&l.afterFill)("owner " + ownerID)
	if err != nil {
		return Filled{}, err
	}
	for i := range keys[:min(limit, len(keys))] {
		if !row(keys[i].row()) {
			break
		}
	}
	return got, nil
}

func (l *ledger) readOwner(ctx context.Context, ownerID string, at Cursor, by Membership) (Filled, []Key, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fills++
	if err := l.enter(ctx); err != nil {
		return Filled{}, nil, err
	}
	var keys []Key
	for _, k := range l.keys {
		if k.OwnerID == ownerID && !k.Revoked && k.PublicKey != nil && (k.ExpiresAt.IsZero() || l.now().Before(k.ExpiresAt)) {
			k.OwnerSuspended = l.owners[ownerID]
			keys = append(keys, k)
		}
	}
	rest, known := l.after(at)
	clean := known
	for _, e := range rest {
		if e.OwnerID == ownerID || e.OwnerID == "" || l.keys[e.KeyID].OwnerID == ownerID {
			clean = false
		}
	}
	return Filled{Member: l.member(by), Known: known, Clean: clean, Timeline: l.timeline, Time: l.now()}, keys, nil
}

func (l *ledger) Warm(ctx context.Context, limit int, head func(Head) error, row func(*Row) error) error {
	l.exclusive(true)
	defer l.exclusive(false)
	h, keys, err := l.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := head(h); err != nil {
		return err
	}
	for i, k := range keys[:min(limit, len(keys))] {
		l.warmGate()(i)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := row(k.row()); err != nil {
			return err
		}
	}
	l.warmGate()(-1)
	return nil
}

func (l *ledger) snapshot(ctx context.Context) (Head, []Key, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enter(ctx); err != nil {
		return Head{}, nil, err
	}
	last := l.events[len(l.events)-1]
	var keys []Key
	for _, k := range l.keys {
		k.OwnerSuspended = l.owners[k.OwnerID]
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].ID < keys[j].ID })
	return Head{Cursor: Cursor{last.Seq, last.ID}, Timeline: l.timeline, CaptureIntact: l.capture, Keys: int64(len(keys))}, keys, nil
}

func (l *ledger) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

func (l *ledger) Close() { l.closed = true }

var errDown = errors.New("connection refused")
