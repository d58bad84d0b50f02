package keystore

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A batch must not be answered by less than single look-ups are.
func TestReadingAnswersLikeALookup(t *testing.T) {
	l := filled(t, 10)
	l.revoke("k1")
	l.suspend("m2", true)
	b := build(t, l, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	changed := key(3)
	changed.Scopes = []string{"other"}
	b.store.Evict(l.put(changed)) // a mark
	before := testutil.ToFloat64(b.store.metrics.answers[Active][FromCache])
	r := b.store.Read(Bounds{})
	for id, want := range map[string]Code{"k0": Active, "k1": Revoked, "k2": OwnerSuspended, "nobody": UnknownKey} {
		a, ok := r.Recall(id)
		if !ok || a.Code != want || a.Origin != FromCache || a.AsOf.History == "" {
			t.Errorf("%s: %v %+v", id, ok, a)
		}
	}
	if _, ok := r.Recall("k3"); ok {
		t.Error("a key that changed was answered from memory")
	}
	r.End()
	if n := testutil.ToFloat64(b.store.metrics.answers[Active][FromCache]) - before; n != 1 {
		t.Errorf("%v answers counted", n)
	}
}

func TestReadingOutlivesTheLease(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.set(func() { l.down = errDown })
	b.clock.Advance(b.store.opts.MaxStaleness)
	for name, bounds := range map[string]Bounds{"lease over": {}, "no-cache": {NoCache: true}, "max-age=0": {HasMaxAge: true}} {
		r := b.store.Read(bounds)
		if _, ok := r.Recall("k0"); ok {
			t.Errorf("%s: answered from memory", name)
		}
		r.End()
	}
}

func TestReadingAllocates(t *testing.T) {
	b := build(t, filled(t, 3)).warm()
	if n := testing.AllocsPerRun(1000, func() {
		r := b.store.Read(Bounds{})
		if a, ok := r.Recall("k1"); !ok || a.Code != Active {
			t.Fatal(a.Code)
		}
		r.End()
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// Whatever is used again and again must stay, although not each use is noted.
func TestKeyInUseIsEvicted(t *testing.T) {
	l := filled(t, 5)
	b := build(t, l, func(o *Options) { o.Capacity = 200; o.MissRate = 1_000_000; o.FenceInterval = 2 * time.Second }).warm()
	for i := 100; i < 5000; i++ {
		l.put(key(i))
	}
	b.fenced()
	for i := 100; i < 5000; i++ {
		b.expect(key(i).ID, Active)
		for range 2 * promoteEvery {
			b.expect("k0", Active)
		}
	}
	if n := testutil.ToFloat64(b.store.metrics.fills[fillInserted]); n > 4950 {
		t.Errorf("%v reads: the key in use was read again and again", n)
	}
}
