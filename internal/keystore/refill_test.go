package keystore

import (
	"context"
	"testing"
	"time"
)

// Without it the first request after each change waits for a read.
func TestChangedKeyInUseIsNotReadBeforeItsNextRequest(t *testing.T) {
	for name, newWorld := range worlds {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			opaque := Key{ID: "k0", OwnerID: "m0", Algorithm: "opaque", Attributes: `{"env":"live"}`}
			w.put(opaque)
			b := build(t, w, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
			b.expect("k0", Active)
			changed := opaque
			changed.Scopes = []string{"other"}
			w.put(changed)
			b.store.RequestFence(FenceForGap)
			eventually(t, "the key is in memory again", func() bool {
				a, err := b.store.Lookup(context.Background(), "k0", Bounds{OnlyIfCached: true})
				return err == nil && a.Code == Active && a.Record.HasScope("other")
			})
		})
	}
}

// A change of all keys would otherwise be a stampede of reads that nobody asked for.
func TestChangedKeysThatNobodyUsesAreLeftAlone(t *testing.T) {
	l := filled(t, 100)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	b.expect("k7", Active)
	b.expect("k8", Active)
	b.store.Evict(l.revoke("k8"))
	before := l.reads() // a fence of the store's own may come at any time from here
	for i := range 100 {
		if i != 8 {
			l.put(key(i))
		}
	}
	b.fenced()
	eventually(t, "the key in use is read", func() bool { return l.reads() > before })
	b.fenced()
	if n := l.reads() - before; n != 1 {
		t.Errorf("%d reads for one key in use", n)
	}
}

func TestUsedForgetsKeysOverTime(t *testing.T) {
	t.Parallel()
	var u used
	const first, second = 0xabcdef12_00000700, 0x12345678_00000700 // the same slot
	if u.has(first) {
		t.Error("never used")
	}
	u.note(first)
	if !u.has(first) || u.has(second) {
		t.Error("not the one that was used")
	}
	u.note(second)
	if u.has(first) || !u.has(second) {
		t.Error("a slot remembers the last one")
	}
}

// The machine's memory is sized for one copy of the keys, not for two.
func TestReWarmHoldsTwoCopies(t *testing.T) {
	l := filled(t, 200)
	b := build(t, l, func(o *Options) { o.Capacity = 1000 }).warm()
	b.fenced()
	old := b.store.mem.Load()
	if n, _, _ := old.count(); n != 200 {
		t.Fatalf("%d keys after the warm", n)
	}
	hold := newStep(t)
	l.set(func() { l.duringWarm = func(int) { hold.stop("") } })
	l.truncate()
	l.put(key(3))
	<-hold.reached
	now := b.store.mem.Load()
	if n, _, _ := now.count(); now == old || n != 0 {
		t.Errorf("the old memory of %d keys is held while the next is built", n)
	}
	// Meanwhile look-ups are read one by one.
	if a := b.expect("k3", Active); a.Origin != FromDatabase {
		t.Errorf("answered from %v", a.Origin)
	}
	b.expect("k4", UnknownKey)
	hold.goOn()
	eventually(t, "the new memory is adopted", func() bool { st := b.store.Status(); return st.Fresh && st.Entries == 1 })
	b.expect("k4", UnknownKey)
}
