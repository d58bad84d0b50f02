package keystore

import (
	"context"
	"testing"
	"time"
)

// The lease is over and the key revoked long ago. If a look-up read the entry first,
// and a fence came between that and its look at the lease, the old entry would be
// answered under the new lease. (The hook stands for the pause; only a mutant calls
// it there.)
func TestEntryOfAnOldLeaseIsAnsweredUnderANewOne(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	hold := newStep(t)
	l.set(func() { l.beforeFence = func() { hold.stop("") } })
	<-hold.reached
	l.revoke("k0")
	b.clock.Advance(4 * time.Second)
	old := b.store.mem.Load().lease.Load()
	b.store.hooks.before = func(string) {
		hold.goOn()
		eventually(t, "another lease", func() bool { return b.store.mem.Load().lease.Load() != old })
	}
	if a, _ := b.store.Lookup(context.Background(), "k0", Bounds{}); a.Code == Active {
		t.Fatalf("%+v", a)
	}
}

// Messages go on arriving while the store is down.
func TestMessagesKeepTheLeaseAlive(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	e := l.delete("k2")
	l.set(func() { l.down = errDown })
	eventually(t, "a failed fence", func() bool { return b.store.Status().LastFenceError != "" })
	for range 8 {
		b.clock.Advance(500 * time.Millisecond)
		b.store.Evict(e)
	}
	b.expect("k0", Unavailable)
}
