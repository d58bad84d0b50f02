package keystore

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lookup runs a look-up in the background.
func (b *bench) lookup(id string) <-chan Answer {
	out := make(chan Answer, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // a wrong wait must fail, not hang
		defer cancel()
		a, err := b.store.Lookup(ctx, id, Bounds{})
		if err != nil {
			b.t.Errorf("%s: %v", id, err)
		}
		out <- a
	}()
	return out
}

// step is a place at which one goroutine waits until the test lets it go on.
// Whoever comes after the first passes.
type step struct {
	taken            atomic.Bool
	once             sync.Once
	reached, release chan struct{}
}

// newStep is to be called after the store was started: a test that fails lets go
// of whoever waits before the store is stopped.
func newStep(t *testing.T) *step {
	s := &step{reached: make(chan struct{}), release: make(chan struct{})}
	t.Cleanup(s.goOn)
	return s
}

func (s *step) goOn() { s.once.Do(func() { close(s.release) }) }

func (s *step) stop(string) {
	if s.taken.CompareAndSwap(false, true) {
		close(s.reached)
		<-s.release
	}
}

// cold empties memory without an event, so that the next look-up is a miss.
func (b *bench) cold(id string) {
	m := b.store.mem.Load()
	m.complete.Store(false)
	sh := m.shard(id)
	sh.mu.Lock()
	sh.remove(m, id)
	sh.mu.Unlock()
}

func TestRevokedKeyEntersByAFillBegunBefore(t *testing.T) {
	for _, at := range []string{"before the read", "after the read"} {
		for _, by := range []string{"message", "fence"} {
			t.Run(at+", event by "+by, func(t *testing.T) {
				l := filled(t, 3)
				b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second; o.FillTimeout = 5 * time.Second }).warm()
				b.cold("k0")
				s := newStep(t)
				l.set(func() {
					if at == "before the read" {
						l.beforeFill = s.stop
					} else {
						l.afterFill = s.stop
					}
				})
				first := b.lookup("k0")
				<-s.reached
				e := l.revoke("k0")
				if by == "message" {
					b.store.Evict(e)
				} else {
					b.fenced()
				}
				second := b.lookup("k0") // arrives after the revocation was applied
				if got := <-second; got.Code != Revoked {
					t.Fatalf("a look-up after the revocation got %v", got.Code)
				}
				s.goOn()
				<-first
				b.expect("k0", Revoked)
				b.fenced()
				b.expect("k0", Revoked)
			})
		}
	}
}

func TestUnknownResultEntersAfterAnIssue(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second; o.FillTimeout = 5 * time.Second }).warm()
	b.cold("k9")
	s := newStep(t)
	l.set(func() { l.afterFill = s.stop })
	first := b.lookup("k9")
	<-s.reached
	b.store.Evict(l.put(key(9)))
	s.goOn()
	<-first
	b.expect("k9", Active)
}

func TestOwnerEventDuringAFillIsLost(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second; o.FillTimeout = 5 * time.Second }).warm()
	b.cold("k0")
	s := newStep(t)
	l.set(func() { l.afterFill = s.stop })
	first := b.lookup("k0")
	<-s.reached
	b.store.Evict(l.suspend("m0", true)) // m0 has no key in memory now
	s.goOn()
	<-first
	b.expect("k0", OwnerSuspended)
}

// A failover that loses the tail which a fill had read leaves the cursor known:
// only the fill's own question about its key tells.
func TestFillFromALostTailStays(t *testing.T) {
	l := filled(t, 3)
	l.revoke("k0")
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	b.cold("k0")
	k := key(0)
	l.put(k) // un-revoked, in a tail that is about to be lost
	b.expect("k0", Active)
	l.set(func() {
		l.events = l.events[:len(l.events)-1]
		k.Revoked = true
		l.keys["k0"] = k
	})
	b.fenced()
	b.expect("k0", Revoked)
}

func TestWarmServesAKeyRevokedSinceItsSnapshot(t *testing.T) {
	l := filled(t, 20)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second; o.FillTimeout = 50 * time.Millisecond }).warm()
	reading, fencing := newStep(t), newStep(t)
	l.set(func() {
		l.duringWarm = func(i int) {
			if i == 0 {
				reading.stop("")
			}
		}
		l.timeline = "00000002" // history over: warm again
	})
	b.store.RequestFence(FenceForGap)
	<-reading.reached
	l.set(func() {
		l.duringWarm = func(int) {}
		l.beforeFence = func() { fencing.stop("") }
	})
	b.store.Evict(l.revoke("k7")) // by message and log
	l.revoke("k8")                // by log alone
	b.store.Evict(l.suspend("m1", true))
	reading.goOn()
	<-fencing.reached // adopted, and the first fence is on its way
	for _, id := range []string{"k7", "k8", "k4"} {
		if a, err := b.store.Lookup(context.Background(), id, Bounds{}); err == nil && a.Code == Active {
			t.Fatalf("%s is active in a memory that was never fenced", id)
		}
	}
	fencing.goOn()
	b.fenced()
	b.expect("k7", Revoked)
	b.expect("k8", Revoked)
	b.expect("k4", OwnerSuspended)
}

func TestFillAcrossARewarmEntersTheNewMemory(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second; o.FillTimeout = 5 * time.Second }).warm()
	b.cold("k0")
	s := newStep(t)
	l.set(func() { l.afterFill = s.stop })
	first := b.lookup("k0")
	<-s.reached
	l.set(func() { l.timeline = "00000002" })
	l.revoke("k0")
	b.fenced() // history over, warmed, fenced: k0 is revoked in the new memory
	s.goOn()
	if got := <-first; got.Code != Revoked {
		t.Fatalf("a look-up that crossed a generation answered %v from the old one", got.Code)
	}
	b.expect("k0", Revoked)
}

func TestFillAnswersLongAfterItsQuestion(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second; o.FillTimeout = 5 * time.Second }).warm()
	b.cold("k0")
	var once sync.Once
	l.set(func() {
		l.afterFill = func(string) { once.Do(func() { b.clock.Advance(4 * time.Second) }) } // stopped in mid-fill, L = 3 s
	})
	if a, err := b.store.Lookup(context.Background(), "k0", Bounds{}); err == nil {
		t.Fatalf("answered %v by a read begun 4 s before", a.Code)
	}
}

func TestFenceFailsBecauseFillsHang(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FillTimeout = 5 * time.Second; o.MaxFills = 4 }).warm()
	gate := make(chan struct{})
	l.set(func() { l.beforeFill = func(string) { <-gate } })
	defer close(gate)
	m := b.store.mem.Load()
	m.complete.Store(false)
	for i := range 4 {
		go func() { _, _ = b.store.Lookup(context.Background(), key(100+i).ID, Bounds{}) }()
	}
	eventually(t, "all fills hang", func() bool { return len(b.store.fillSlots) == 4 })
	b.fenced()
	b.expect("k0", Active)
	b.expect("k200", Unavailable)
}

func TestConcurrentUse(t *testing.T) {
	l := filled(t, 50)
	b := build(t, l, func(o *Options) { o.Capacity = 30; o.MissRate = 1 << 20; o.MaxFills = 64 }).warm()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := w; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_, _ = b.store.Lookup(context.Background(), key(i%60).ID, Bounds{})
				_ = b.store.Status()
			}
		})
	}
	for i := range 2000 {
		switch i % 5 {
		case 0:
			b.store.Evict(l.revoke(key(i % 50).ID))
		case 1:
			b.store.Evict(l.put(key(i % 50)))
		case 2:
			b.store.Evict(l.suspend("m1", i%2 == 0))
		case 3:
			l.put(key(i % 50))
		case 4:
			if i%500 == 4 {
				l.set(func() { l.timeline += "x" })
			}
		}
	}
	close(stop)
	wg.Wait()
	b.fenced()
	for i := range 50 {
		l.mu.Lock()
		k := l.keys[key(i).ID]
		suspended := l.owners[k.OwnerID]
		l.mu.Unlock()
		want := Active
		switch {
		case k.Revoked:
			want = Revoked
		case suspended:
			want = OwnerSuspended
		}
		b.expect(k.ID, want)
	}
}
