package keystore

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Between two looks of a status page memory may have been old, and be young again.
func TestAGlanceMissesHowOldMemoryWas(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = 100 * time.Millisecond })
	if g := b.store.Glance(); g != (Glance{}) {
		t.Fatalf("before anything: %+v", g)
	}
	b.warm()
	eventually(t, "memory has been a fence's interval old", func() bool { return b.store.oldest.ns.Load() > int64(50*time.Millisecond) })
	b.fenced()
	g := b.store.Glance()
	if !g.Warmed || !g.Fresh || g.ServesStale || g.Oldest < 50*time.Millisecond || g.Oldest > 10*time.Second {
		t.Errorf("%+v", g)
	}
	if s := b.store.Status(); s.FenceTook <= 0 {
		t.Errorf("a fence took %v", s.FenceTook)
	}
}

func TestLookupsAreCountedWrongly(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	b.expect("k0", Active)
	b.expect("k1", Active)
	b.expect("nobody", UnknownKey) // memory is complete
	b.store.mem.Load().complete.Store(false)
	b.expect("somebody", UnknownKey)
	if n := b.store.Lookups(); n != (Lookups{Memory: 3, Read: 1}) {
		t.Errorf("%+v", n)
	}
	b.stop()
	var u *UnavailableError
	if _, err := b.store.Lookup(context.Background(), "k0", Bounds{}); !errors.As(err, &u) {
		t.Fatal(err)
	}
	if n := b.store.Lookups(); n.Unavailable != 1 {
		t.Errorf("%+v", n)
	}
}

// A page must not believe a forged number for longer than until the next fence.
func TestHearsayOfTheHeadStays(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval, o.MinFenceGap = time.Second, time.Second }).warm()
	e := l.revoke("k0")
	e.Seq += 1_000_000
	b.store.Evict(e)
	b.fenced()
	if s := b.store.Status(); s.Announced > s.AsOf.Seq {
		t.Errorf("event %d is still announced after a fence that knows of %d", s.Announced, s.AsOf.Seq)
	}
	b.store.announce(7)
	b.store.announce(6)
	if n := b.store.announced.Load(); n != 7 && n != 0 {
		t.Errorf("announced is %d", n)
	}
}
