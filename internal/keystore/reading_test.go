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
	codes := map[string]Code{"k0": Active, "k1": Revoked, "k2": OwnerSuspended, "nobody": UnknownKey}
	ids := []string{"k0", "k1", "k2", "nobody", "k3", "k0", "k0", "k1", "k3", "nobody", "k2", "k0"} // more than are looked for at once
	keys := make([]Recalled, len(ids))
	for i, id := range ids {
		keys[i].KeyID = id
	}
	keys[4].OK = true // of a use before
	r.Recall(keys)
	for i, k := range keys {
		want, ok := codes[ids[i]]
		switch {
		case k.OK != ok:
			t.Errorf("%s: answered from memory: %v", k.KeyID, k.OK)
		case ok && (k.Answer.Code != want || k.Answer.Origin != FromCache || k.Answer.AsOf.History == ""):
			t.Errorf("%s: %+v", k.KeyID, k.Answer)
		case ok && want != UnknownKey && k.Answer.Record.KeyID() != k.KeyID:
			t.Errorf("%s: the record of %s", k.KeyID, k.Answer.Record.KeyID())
		case ok && want == UnknownKey && !k.Answer.Record.IsZero():
			t.Errorf("%s: a record", k.KeyID)
		}
	}
	r.End()
	if n := testutil.ToFloat64(b.store.metrics.answers[Active][FromCache]) - before; n != 4 {
		t.Errorf("%v answers counted", n)
	}
}

// Whoever waits for a lock must hold none that others wait for: those who take several
// could wait for each other.
func TestReadingHoldsNoLockWhileItWaits(t *testing.T) {
	b := build(t, filled(t, 100), func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	m := b.store.mem.Load()
	keys := make([]Recalled, MaxTogether)
	for i := range keys {
		keys[i].KeyID = key(i).ID
	}
	held := m.shard("k3")
	held.mu.Lock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := b.store.Read(Bounds{})
		r.Recall(keys)
		r.End()
	}()
	for i := range m.shards {
		if sh := &m.shards[i]; sh != held {
			eventually(t, "a lock is free again", func() bool {
				if !sh.mu.TryLock() {
					return false
				}
				sh.mu.Unlock()
				return true
			})
		}
	}
	select {
	case <-done:
		t.Error("a locked part was read")
	case <-time.After(20 * time.Millisecond):
	}
	held.mu.Unlock()
	<-done
	for _, k := range keys {
		if !k.OK || k.Answer.Record.KeyID() != k.KeyID {
			t.Errorf("%s: %+v", k.KeyID, k)
		}
	}
}

func TestReadingOutlivesTheLease(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.set(func() { l.down = errDown })
	b.clock.Advance(b.store.opts.MaxStaleness)
	for name, bounds := range map[string]Bounds{"lease over": {}, "no-cache": {NoCache: true}, "max-age=0": {HasMaxAge: true}} {
		r := b.store.Read(bounds)
		keys := []Recalled{{KeyID: "k0", OK: true}}
		if r.Recall(keys); keys[0].OK {
			t.Errorf("%s: answered from memory", name)
		}
		r.End()
	}
}

func TestReadingAllocates(t *testing.T) {
	b := build(t, filled(t, 3)).warm()
	keys := []Recalled{{KeyID: "k1"}, {KeyID: "k2"}}
	if n := testing.AllocsPerRun(1000, func() {
		r := b.store.Read(Bounds{})
		if r.Recall(keys); !keys[1].OK || keys[1].Answer.Code != Active {
			t.Fatal(keys[1].Answer.Code)
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
