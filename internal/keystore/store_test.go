package keystore

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keysidecar/keysidecar/internal/event"
)

func filled(t *testing.T, n int) *ledger {
	l := newLedger(t)
	for i := range n {
		l.put(key(i))
	}
	return l
}

func TestAnswersAreWrongAtRest(t *testing.T) {
	l := filled(t, 10)
	l.revoke("k1")
	l.suspend("m2", true)
	exp, nb := key(20), key(21)
	exp.ExpiresAt, nb.NotBefore = time.Now().Add(-time.Second), time.Now().Add(time.Hour)
	l.put(exp)
	l.put(nb)
	b := build(t, l).warm()
	a := b.expect("k0", Active)
	if got, want := a.Record.Key(), key(0); got.ID != want.ID || got.OwnerID != want.OwnerID || string(got.PublicKey) != string(want.PublicKey) ||
		len(got.Scopes) != 2 || got.Attributes != want.Attributes || a.Origin != FromCache {
		t.Fatalf("got %+v from %v", got, a.Origin)
	}
	b.expect("k1", Revoked)
	b.expect("k2", OwnerSuspended)
	b.expect("k20", OwnerSuspended) // 20 % 3 == 2: suspension outranks expiry
	b.expect("k21", NotYetValid)
	if a := b.expect("nobody", UnknownKey); a.Origin != FromCache {
		t.Fatalf("a complete memory asked the source: %v", a.Origin)
	}
	if l.reads() != 0 {
		t.Fatalf("%d fills for a complete memory", l.reads())
	}
}

func TestRevocationByMessageIsNotSeenAtOnce(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	b.expect("k0", Active)
	e := l.revoke("k0")
	b.store.Evict(e)
	if a := b.expect("k0", Revoked); a.Origin != FromDatabase {
		t.Fatalf("answered from %v", a.Origin)
	}
	b.expect("k1", Active)
}

func TestRevocationWithoutMessageOutlivesTheFence(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.revoke("k0")
	b.fenced()
	b.expect("k0", Revoked)
}

func TestOwnerEventMissesAKey(t *testing.T) {
	l := filled(t, 30)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	check := func(suspended bool) {
		t.Helper()
		for i := range 30 {
			want := Active
			if suspended && i%3 == 1 {
				want = OwnerSuspended
			}
			b.expect(key(i).ID, want)
		}
	}
	b.store.Evict(l.suspend("m1", true))
	check(true)
	b.fenced()
	before := l.reads()
	check(true)
	check(true)
	if n := l.reads() - before; n > 1 {
		t.Fatalf("%d reads after the fence; the first should have told for all keys of the owner", n)
	}
	b.store.Evict(l.suspend("m1", false))
	check(false)
	b.fenced()
	check(false)
}

// Between a message and the fence that brings its event nothing read may enter
// memory. A key that is asked for all the time must not be read each time.
func TestHotKeyIsReadForEachRequestUntilTheFence(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	b.fenced()
	hold := newStep(t)
	l.set(func() { l.beforeFence = func() { hold.stop("") } })
	changed := key(0)
	changed.Scopes = []string{"other"}
	b.store.Evict(l.put(changed))
	<-hold.reached
	before := l.reads()
	for range 1000 {
		if a := b.expect("k0", Active); !a.Record.HasScope("other") {
			t.Fatal("an answer from before the change")
		}
	}
	if n := l.reads() - before; n != 1 {
		t.Fatalf("%d reads for 1000 requests", n)
	}
	b.store.Evict(l.revoke("k0"))
	b.expect("k0", Revoked)
	hold.goOn()
	b.fenced()
	b.expect("k0", Revoked)
}

func TestForgedMessageAddsTrust(t *testing.T) {
	l := filled(t, 5)
	l.revoke("k0")
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second; o.Capacity = 100 }).warm()
	before := b.store.Status()
	for _, e := range []event.Event{
		{Seq: 1 << 40, ID: uuid.New(), Kind: event.Issued, KeyID: "k0"},
		{Seq: 5, ID: uuid.New(), Kind: event.Issued, KeyID: "made-up"},
		{Seq: 1 << 40, ID: uuid.New(), Kind: event.OwnerChanged, OwnerID: "m0"},
		{Seq: 1 << 40, ID: uuid.New(), Kind: event.Reset},
	} {
		b.store.Evict(e)
	}
	b.expect("k0", Revoked)
	b.expect("made-up", UnknownKey)
	after := b.store.Status()
	if after.AsOf.Seq != before.AsOf.Seq || after.AsOf.History != before.AsOf.History || after.Entries != before.Entries || !after.Complete {
		t.Fatalf("a forged message changed more than trust: %+v then %+v", before, after)
	}
}

func TestGenuineMessageWithAnotherKeysNameHidesARevocation(t *testing.T) {
	l := filled(t, 5)
	b := build(t, l).warm()
	e := l.revoke("k0")
	e.KeyID = "k1" // altered on its way; the original is lost
	b.store.Evict(e)
	b.fenced()
	b.expect("k0", Revoked)
	b.expect("k1", Active)
}

func TestIssueIsHiddenByCompleteness(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	b.expect("k9", UnknownKey)
	l.put(key(9))
	b.fenced()
	b.expect("k9", Active)
	if !b.store.Status().Complete {
		t.Fatal("an issue cost completeness")
	}
	l.delete("k9")
	b.fenced()
	b.expect("k9", UnknownKey)
	if st := b.store.Status(); !st.Complete || st.Marks != 0 {
		t.Fatalf("%+v", st)
	}
}

func TestNegativeEntrySurvivesAnIssue(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.Capacity = 2; o.FenceInterval = 2 * time.Second }).warm()
	b.expect("k9", UnknownKey)
	fills := l.reads()
	b.expect("k9", UnknownKey)
	if l.reads() != fills {
		t.Fatal("an unknown key was read twice")
	}
	b.store.Evict(l.put(key(9)))
	b.expect("k9", Active)
}

func TestEvictionLetsAbsenceAnswer(t *testing.T) {
	l := filled(t, 40)
	b := build(t, l, func(o *Options) { o.Capacity = 40 }).warm()
	if !b.store.Status().Complete {
		t.Fatal("not complete after a warm that fitted")
	}
	for i := 100; i < 800; i++ { // push everything out, by the fence's marks
		l.put(key(i))
	}
	b.fenced()
	if b.store.Status().Complete {
		t.Fatal("complete although capacity was exceeded")
	}
	for i := range 40 {
		b.expect(key(i).ID, Active)
	}
	if st := b.store.Status(); st.Entries > 40+64*8 {
		t.Fatalf("memory holds %d keys with a capacity of 40", st.Entries)
	}
}

func TestAnswersOutliveTheLease(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.set(func() { l.down = errDown })
	b.expect("k0", Active)
	eventually(t, "a failed fence", func() bool { return b.store.Status().LastFenceError != "" })
	b.clock.Advance(3 * time.Second)
	start := time.Now()
	b.expect("k0", Unavailable)
	if took := time.Since(start); took >= b.store.opts.FillTimeout {
		t.Fatalf("took %v to say that it cannot tell", took)
	}
	l.set(func() { l.down = nil })
	b.fenced()
	b.expect("k0", Active)
	if l.reads() != 0 {
		t.Fatalf("%d fills for a key in memory", l.reads())
	}
}

func TestSuspendKeepsTheLeaseAlive(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.set(func() { l.down = errDown })
	eventually(t, "a failed fence", func() bool { return b.store.Status().LastFenceError != "" })
	b.clock.Suspend(10 * time.Second)
	b.expect("k0", Unavailable)
}

func TestLeaseIsAnchoredAtTheAnswer(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	// From now on each fence takes 2 s of boot time between question and answer.
	l.set(func() { l.beforeFence = func() { b.clock.Advance(2 * time.Second) } })
	b.fenced()
	le := b.store.mem.Load().lease.Load()
	if left := le.until.Sub(b.clock.Now()); left > time.Second {
		t.Fatalf("%v of lease left after a fence of 2 s with L = 3 s", left)
	}
	l.set(func() { l.beforeFence = func() {} })
}

func TestRequestAfterALongPauseIsRefusedAlthoughTheStoreIsWell(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2900 * time.Millisecond }).warm()
	b.clock.Advance(time.Minute) // as after SIGSTOP
	if a := b.expect("k0", Active); a.AsOf.Age > time.Second {
		t.Fatalf("answered from a lease %v old", a.AsOf.Age)
	}
}

func TestStaleAnswersAreUnmarkedOrUnlimited(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.StaleLimit = 10 * time.Second }).warm()
	l.set(func() { l.down = errDown })
	eventually(t, "a failed fence", func() bool { return b.store.Status().LastFenceError != "" })
	b.clock.Advance(4 * time.Second)
	if a := b.expect("k0", Active); a.Origin != FromStale {
		t.Fatalf("stale answer from %v", a.Origin)
	}
	for _, bounds := range []Bounds{{NoCache: true}, {HasMaxAge: true, MaxAge: time.Hour}} {
		if _, err := b.store.Lookup(context.Background(), "k0", bounds); err == nil {
			t.Fatalf("%+v was answered stale", bounds)
		}
	}
	b.clock.Advance(7 * time.Second)
	b.expect("k0", Unavailable)
}

func TestRewrittenHistoryIsServed(t *testing.T) {
	for name, rewrite := range map[string]func(l *ledger){
		"same numbers, other events": func(l *ledger) {
			last := &l.events[len(l.events)-1]
			last.ID = uuid.New()
		},
		"shorter log":    func(l *ledger) { l.events = l.events[:len(l.events)-1] },
		"other timeline": func(l *ledger) { l.timeline = "00000002" },
	} {
		t.Run(name, func(t *testing.T) {
			l := filled(t, 3)
			b := build(t, l).warm()
			before := b.store.Status().AsOf.History
			l.set(func() {
				k := l.keys["k0"]
				k.Revoked = true
				l.keys["k0"] = k // a revocation that no event after the cursor tells
				rewrite(l)
			})
			b.fenced()
			b.expect("k0", Revoked)
			if b.store.Status().AsOf.History == before {
				t.Fatal("the history kept its name")
			}
		})
	}
}

func TestTruncateLeavesKeys(t *testing.T) {
	l := filled(t, 10)
	b := build(t, l).warm()
	l.truncate()
	b.fenced()
	for i := range 10 {
		b.expect(key(i).ID, UnknownKey)
	}
}

func TestStandbyOrLostCaptureRenewsTheLease(t *testing.T) {
	for name, breakIt := range map[string]func(l *ledger){
		"standby":      func(l *ledger) { l.standby = true },
		"capture_lost": func(l *ledger) { l.capture = false },
	} {
		t.Run(name, func(t *testing.T) {
			l := filled(t, 3)
			b := build(t, l).warm()
			l.set(func() { breakIt(l) })
			eventually(t, name, func() bool { return b.store.Status().LastFenceError == name })
			b.clock.Advance(3 * time.Second)
			b.expect("k0", Unavailable)
		})
	}
}

func TestFullPageRenewsTheLease(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l)
	b.store.mem.Load().lease.Store(nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.store.enrol(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := b.store.warm(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.store.adopt(m)
	for i := range pageRows {
		l.put(key(i % 3))
	}
	full, err := b.store.fence(ctx, m)
	if err != nil || !full || m.lease.Load() != nil {
		t.Fatalf("full page: %v, %v, lease %+v", full, err, m.lease.Load())
	}
	full, err = b.store.fence(ctx, m)
	if err != nil || full || m.lease.Load() == nil {
		t.Fatalf("last page: %v, %v, lease %+v", full, err, m.lease.Load())
	}
	b.store.stop()
}

// Whoever must not wait is told so at once, whatever it is that would have to be waited for, and
// nothing is asked or counted for it: it asks again.
func TestWhoeverMustNotWaitIsKeptWaiting(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.Capacity = 2 }).warm() // one of the three is not in memory
	ctx := context.Background()
	atOnce := func(keyID string, bounds Bounds) (Answer, error) {
		t.Helper()
		bounds.AtOnce = true
		before := b.store.Lookups()
		a, err := b.store.Lookup(ctx, keyID, bounds)
		if err != nil && (!errors.Is(err, ErrNotAtOnce) || b.store.Lookups() != before || testutil.ToFloat64(b.store.metrics.notCached) != 0 || a != Answer{}) {
			t.Fatalf("%s: %v, %+v, counted %+v after %+v", keyID, err, a, b.store.Lookups(), before)
		}
		return a, err
	}
	inMemory := ""
	for _, id := range []string{"k0", "k1", "k2"} {
		if a, err := atOnce(id, Bounds{}); err == nil && a.Code == Active {
			inMemory = id
		}
	}
	if inMemory == "" {
		t.Fatal("no key is answered from memory")
	}
	missing := 0
	for _, id := range []string{"k0", "k1", "k2"} {
		if _, err := atOnce(id, Bounds{}); err != nil {
			missing++
		}
	}
	if missing != 1 {
		t.Fatalf("%d keys have to be read, want 1", missing)
	}
	if _, err := atOnce(inMemory, Bounds{NoCache: true}); err == nil {
		t.Fatal("no-cache was answered without a new question")
	}
	b.clock.Advance(2 * time.Second)
	if _, err := atOnce(inMemory, Bounds{HasMaxAge: true, MaxAge: time.Second}); err == nil {
		t.Fatal("max-age=1 was answered after 2 s")
	}
	b.clock.Advance(2 * time.Second)
	if _, err := atOnce(inMemory, Bounds{}); err == nil {
		t.Fatal("answered without a lease")
	}
}

func TestBoundsAreIgnored(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2900 * time.Millisecond }).warm()
	l.revoke("k0") // nobody tells
	ctx := context.Background()
	if a, err := b.store.Lookup(ctx, "k0", Bounds{}); err != nil || a.Code != Active {
		t.Fatalf("the lease should still cover: %v %v", a.Code, err)
	}
	b.clock.Advance(1500 * time.Millisecond)
	if a, err := b.store.Lookup(ctx, "k1", Bounds{HasMaxAge: true, MaxAge: 2 * time.Second, OnlyIfCached: true}); err != nil || a.Code != Active {
		t.Fatalf("max-age=2 at 1.5 s: %v %v", a.Code, err)
	}
	if _, err := b.store.Lookup(ctx, "k1", Bounds{HasMaxAge: true, MaxAge: time.Second, OnlyIfCached: true}); !errors.Is(err, ErrNotCached) {
		t.Fatalf("max-age=1, only-if-cached at 1.5 s: %v", err)
	}
	if a, err := b.store.Lookup(ctx, "k0", Bounds{HasMaxAge: true, MaxAge: time.Second}); err != nil || a.Code != Revoked {
		t.Fatalf("max-age=1: %v %v", a.Code, err)
	}
	l.revoke("k1")
	if a, err := b.store.Lookup(ctx, "k1", Bounds{NoCache: true}); err != nil || a.Code != Revoked {
		t.Fatalf("no-cache: %v %v", a.Code, err)
	}
	if _, err := b.store.Lookup(ctx, "k1", Bounds{NoCache: true, OnlyIfCached: true}); !errors.Is(err, ErrNotCached) {
		t.Fatalf("no-cache, only-if-cached: %v", err)
	}
}

func TestPodsWallClockChangesAVerdict(t *testing.T) {
	l := newLedger(t)
	l.now = func() time.Time { return time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC) } // the database's
	k := key(0)
	k.NotBefore, k.ExpiresAt = l.now().Add(-time.Hour), l.now().Add(2*time.Second)
	l.put(k)
	b := build(t, l, func(o *Options) { o.MaxStaleness = time.Minute; o.FenceInterval = 20 * time.Second }).warm()
	b.expect("k0", Active)
	b.clock.Advance(3 * time.Second)
	b.expect("k0", Expired) // without any write, and without a fence
}

func TestMaxTTLIsIgnored(t *testing.T) {
	l := filled(t, 1)
	b := build(t, l, func(o *Options) {
		o.MaxTTL, o.MaxStaleness, o.FenceInterval = 10*time.Second, time.Minute, 20*time.Second
	}).warm()
	b.expect("k0", Active)
	b.clock.Advance(11 * time.Second)
	if a := b.expect("k0", Active); a.Origin != FromDatabase {
		t.Fatalf("an entry older than max_ttl came from %v", a.Origin)
	}
	if a := b.expect("k0", Active); a.Origin != FromCache {
		t.Fatalf("a refilled entry came from %v", a.Origin)
	}
}

func TestCallersStampedeTheSource(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.Capacity = 1; o.MaxFills = 2; o.MissRate = 10; o.FenceInterval = 2 * time.Second }).warm()
	gate := make(chan struct{})
	l.set(func() { l.beforeFill = func(string) { <-gate } })
	results := make(chan error, 64)
	for range 64 { // one key: one fill
		go func() {
			_, err := b.store.Lookup(context.Background(), "nobody", Bounds{})
			results <- err
		}()
	}
	eventually(t, "the fill", func() bool { return len(b.store.fillSlots) == 1 })
	close(gate)
	for range 64 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if l.reads() > 3 { // late starters may read once more; the point is: not 64
		t.Fatalf("%d reads for one key", l.reads())
	}
	var u *UnavailableError
	for i := range 100 {
		if _, err := b.store.Lookup(context.Background(), key(1000+i).ID, Bounds{}); errors.As(err, &u) {
			break
		}
	}
	if u == nil || u.Reason != ReasonMissRate {
		t.Fatalf("100 unknown keys at a miss rate of 10: %v", u)
	}
}

func TestLookupOfCachedKeyAllocates(t *testing.T) {
	b := build(t, filled(t, 3)).warm()
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() {
		if a, err := b.store.Lookup(ctx, "k1", Bounds{}); err != nil || a.Code != Active {
			t.Fatal(a.Code, err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
