package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/event"
)

// set asks for an owner's keys.
func (b *bench) set(owner string, bounds Bounds) (KeySet, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // a wrong wait must fail, not hang
	defer cancel()
	return b.store.KeySet(ctx, owner, bounds)
}

func ids(s KeySet) string {
	var list []string
	for _, k := range s.Keys {
		list = append(list, k.ID)
	}
	return strings.Join(list, " ")
}

// expectSet asks and compares the ids.
func (b *bench) expectSet(owner, want string) KeySet {
	b.t.Helper()
	s, err := b.set(owner, Bounds{})
	if err != nil || ids(s) != want {
		b.t.Fatalf("%s: %q, %v; want %q", owner, ids(s), err, want)
	}
	return s
}

func (b *bench) noSet(owner string) {
	b.t.Helper()
	var u *UnavailableError
	if s, err := b.set(owner, Bounds{}); !errors.As(err, &u) || len(s.Keys) > 0 {
		b.t.Fatalf("%s: %q, %v; want unavailable", owner, ids(s), err)
	}
}

// cached asks until the set comes from memory.
func (b *bench) cachedSet(owner, want string) {
	b.t.Helper()
	eventually(b.t, "the set of "+owner+" is in memory", func() bool {
		return b.expectSet(owner, want).Origin == FromCache
	})
}

// ownersOf is a ledger with real keys k0, k1, ... of the owners m0, m1 and m2.
func ownersOf(t *testing.T, keys int) *ledger {
	t.Helper()
	l := newLedger(t)
	for i := range keys {
		l.put(real(i))
	}
	return l
}

func slowFences(o *Options) { o.FenceInterval = 2 * time.Second; o.FillTimeout = 5 * time.Second }

func ownerOf(t *testing.T, s Source, owner string, limit int, at Cursor) (map[string]Key, Filled) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	keys := map[string]Key{}
	f, err := s.FillOwner(ctx, owner, limit, at, member(t, s), func(r *Row) bool {
		rec := r.record()
		k := rec.Key()
		k.OwnerSuspended = r.OwnerSuspended
		keys[k.ID] = k
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if !f.Member || f.Row != nil || time.Since(f.Time).Abs() > time.Minute {
		t.Fatalf("%+v", f)
	}
	return keys, f
}

func TestSourcesReadOwnersDifferently(t *testing.T) {
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			full := real(0)
			full.NotBefore, full.ExpiresAt = time.UnixMicro(1_700_000_000_123_000).UTC(), time.UnixMicro(4_000_000_000_456_000).UTC()
			w.put(full)
			for _, k := range []Key{
				with(real(3), func(k *Key) { k.Revoked = true }),
				with(real(6), func(k *Key) { k.ExpiresAt = time.Now().Add(-time.Second) }),
				with(real(9), func(k *Key) { k.PublicKey = nil }),
				with(real(12), func(k *Key) { k.NotBefore = time.Now().Add(time.Hour) }),
				real(1), real(2),
			} {
				w.put(k)
			}
			h, _ := warmOf(t, w, 100)
			keys, f := ownerOf(t, w, "m0", 100, h.Cursor)
			if len(keys) != 2 || !f.Known || !f.Clean || f.Timeline != h.Timeline {
				t.Fatalf("%+v %+v", keys, f)
			}
			if k := keys["k0"]; string(k.PublicKey) != string(full.PublicKey) || !k.NotBefore.Equal(full.NotBefore) || !k.ExpiresAt.Equal(full.ExpiresAt) || k.OwnerID != "m0" {
				t.Fatalf("%+v", k)
			}
			if _, there := keys["k12"]; !there {
				t.Fatal("a key that is not valid yet is left out")
			}
			if some, _ := ownerOf(t, w, "m0", 1, h.Cursor); len(some) != 1 {
				t.Fatalf("a limit of 1 gave %d keys", len(some))
			}
			if none, f := ownerOf(t, w, "nobody", 100, h.Cursor); len(none) != 0 || !f.Clean {
				t.Fatalf("%+v %+v", none, f)
			}
			if _, f := ownerOf(t, w, "m0", 100, Cursor{h.Cursor.Seq, uuid.New()}); f.Known || f.Clean {
				t.Fatalf("an unknown cursor: %+v", f)
			}
			w.suspend("m1", true)
			w.put(with(real(2), func(k *Key) { k.OwnerID = "m0" }))
			for owner, clean := range map[string]bool{"m0": false, "m1": false, "nobody": true} {
				if _, f := ownerOf(t, w, owner, 100, h.Cursor); f.Clean != clean {
					t.Errorf("%s with an old cursor: %+v", owner, f)
				}
			}
			h, _ = warmOf(t, w, 100)
			if keys, _ := ownerOf(t, w, "m0", 100, h.Cursor); len(keys) != 3 {
				t.Errorf("%+v", keys)
			}
			if keys, f := ownerOf(t, w, "m1", 100, h.Cursor); !keys["k1"].OwnerSuspended || !f.Clean {
				t.Errorf("%+v %+v", keys, f)
			}
			if keys, _ := ownerOf(t, w, "m2", 100, h.Cursor); len(keys) != 0 {
				t.Errorf("%+v", keys)
			}
			if name == "file" {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if f, err := w.FillOwner(ctx, "m0", 100, h.Cursor, Membership{Registration: uuid.New()}, func(*Row) bool { return true }); err != nil || f.Member {
				t.Errorf("asked by nobody: %+v %v", f, err)
			}
		})
	}
}

func with(k Key, change func(*Key)) Key {
	change(&k)
	return k
}

func TestKeySetDiffersFromItsSource(t *testing.T) {
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			for i := range 6 {
				w.put(real(i))
			}
			b := build(t, w).warm()
			b.cachedSet("m0", "k0 k3")
			b.cachedSet("m1", "k1 k4")
			b.cachedSet("m2", "k2 k5")
			b.cachedSet("nobody", "")
			b.store.Evict(w.revoke("k0")) // by message
			b.expectSet("m0", "k3")
			w.revoke("k3") // by the log alone
			b.fenced()
			b.cachedSet("m0", "")
			w.suspend("m1", true)
			b.fenced()
			b.cachedSet("m1", "")
			w.suspend("m1", false)
			b.fenced()
			b.cachedSet("m1", "k1 k4")
			w.put(with(real(2), func(k *Key) { k.OwnerID = "m1" })) // from m2 to m1
			b.fenced()
			b.cachedSet("m2", "k5")
			b.cachedSet("m1", "k1 k2 k4")
			w.delete("k4")
			w.put(with(real(8), func(k *Key) { k.OwnerID = "nobody" }))
			b.fenced()
			b.cachedSet("m1", "k1 k2")
			b.cachedSet("nobody", "k8")
			if s := b.expectSet("m1", "k1 k2"); !strings.Contains(string(s.Keys[0].JWK), `"kid":"k1"`) || !strings.Contains(string(s.Keys[0].JWK), `"crv":"Ed25519"`) || s.LeftOut != 0 || s.AsOf.History == "" {
				t.Errorf("%s %+v", s.Keys[0].JWK, s)
			}
		})
	}
}

// What can make a set of m0, with the keys k0 and k3, untrue.
var setChanges = map[string]struct {
	change func(l *ledger) event.Event
	want   string
}{
	"a key is revoked":       {func(l *ledger) event.Event { return l.revoke("k0") }, "k3"},
	"a key is deleted":       {func(l *ledger) event.Event { return l.delete("k0") }, "k3"},
	"a key goes to another":  {func(l *ledger) event.Event { return l.put(with(real(0), func(k *Key) { k.OwnerID = "m1" })) }, "k3"},
	"the owner is suspended": {func(l *ledger) event.Event { return l.suspend("m0", true) }, ""},
	"an event that names no owner": {func(l *ledger) event.Event {
		return renamed(l, l.revoke("k0"), "")
	}, "k3"},
	"an event that names its owner otherwise": {func(l *ledger) event.Event {
		return renamed(l, l.revoke("k0"), "merchant 0")
	}, "k3"},
}

// renamed gives the newest event of the log another owner, as the events of a watched
// table can have.
func renamed(l *ledger, e event.Event, owner string) event.Event {
	e.OwnerID = owner
	l.set(func() { l.events[len(l.events)-1] = e })
	return e
}

// The same as TestRevokedKeyEntersByAFillBegunBefore, for sets.
func TestRevokedKeyEntersByASetReadBefore(t *testing.T) {
	for what, c := range setChanges {
		for _, at := range []string{"before the read", "after the read"} {
			for _, by := range []string{"message", "fence"} {
				t.Run(what+" "+at+", by "+by, func(t *testing.T) {
					l := ownersOf(t, 4)
					b := build(t, l, slowFences).warm()
					s := newStep(t)
					l.set(func() {
						if at == "before the read" {
							l.beforeFill = s.stop
						} else {
							l.afterFill = s.stop
						}
					})
					first := make(chan KeySet, 1)
					go func() {
						set, err := b.set("m0", Bounds{})
						if err != nil {
							t.Error(err)
						}
						first <- set
					}()
					<-s.reached
					e := c.change(l)
					if by == "message" {
						b.store.Evict(e)
					} else {
						b.fenced()
					}
					second := make(chan KeySet, 1)
					go func() { // arrives after the change was applied; the first read goes on
						set, err := b.set("m0", Bounds{})
						if err != nil {
							t.Error(err)
						}
						second <- set
					}()
					eventually(t, "a read of its own", func() bool { return len(b.store.setSlots) == 2 })
					s.goOn()
					<-first
					if got := ids(<-second); got != c.want {
						t.Fatalf("a request after the change got %q", got)
					}
					b.expectSet("m0", c.want)
					b.fenced()
					b.cachedSet("m0", c.want)
				})
			}
		}
	}
}

// Nobody else asks meanwhile, so that the read is still the newest when it lands.
func TestKeyOfAReadUnderWayIsRevokedUnderAnotherName(t *testing.T) {
	for what, key := range map[string]string{"a key that it read": "k0", "another": "k1"} {
		t.Run(what, func(t *testing.T) {
			l := ownersOf(t, 4)
			b := build(t, l, slowFences).warm()
			s := newStep(t)
			l.set(func() { l.afterFill = s.stop })
			done := make(chan struct{})
			go func() {
				defer close(done)
				if _, err := b.set("m0", Bounds{}); err != nil {
					t.Error(err)
				}
			}()
			<-s.reached
			e := l.revoke(key)
			e.OwnerID = "merchant 0"
			b.store.Evict(e)
			s.goOn()
			<-done
			n, _ := b.store.mem.Load().sets.size()
			if stays := n == 1; stays != (key == "k1") {
				t.Errorf("what was read stays in memory: %v", stays)
			}
		})
	}
}

// And for sets that are in memory.
func TestSetInMemoryOutlivesAChange(t *testing.T) {
	for what, c := range setChanges {
		for _, by := range []string{"message", "fence"} {
			t.Run(what+", by "+by, func(t *testing.T) {
				l := ownersOf(t, 4)
				b := build(t, l, slowFences).warm()
				b.expectSet("m0", "k0 k3")
				if b.expectSet("m0", "k0 k3").Origin != FromCache {
					t.Fatal("not in memory")
				}
				if e := c.change(l); by == "message" {
					b.store.Evict(e)
				} else {
					b.fenced()
				}
				b.expectSet("m0", c.want)
				b.fenced()
				b.expectSet("m0", c.want)
			})
		}
	}
}

// See TestFillFromALostTailStays.
func TestSetFromALostTailStays(t *testing.T) {
	for what, owner := range map[string]string{"named": "m0", "named otherwise": "merchant 0"} {
		t.Run(what, func(t *testing.T) {
			l := ownersOf(t, 4)
			l.revoke("k0")
			b := build(t, l, slowFences).warm()
			k := real(0)
			renamed(l, l.put(k), owner) // un-revoked, in a tail that is about to be lost
			b.expectSet("m0", "k0 k3")
			l.set(func() {
				l.events = l.events[:len(l.events)-1]
				k.Revoked = true
				l.keys["k0"] = k
			})
			b.fenced()
			b.expectSet("m0", "k3")
		})
	}
}

func TestSetAcrossARewarmEntersTheNewMemory(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, slowFences).warm()
	s := newStep(t)
	l.set(func() { l.afterFill = s.stop })
	first := make(chan KeySet, 1)
	go func() {
		set, err := b.set("m0", Bounds{})
		if err != nil {
			t.Error(err)
		}
		first <- set
	}()
	<-s.reached
	l.set(func() { l.timeline = "00000002" })
	l.revoke("k0")
	b.fenced()
	s.goOn()
	if got := ids(<-first); got != "k3" {
		t.Fatalf("a request that crossed a generation got %q from the old one", got)
	}
	b.expectSet("m0", "k3")
}

func TestSetIsAnsweredAfterItsLease(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, slowFences, func(o *Options) { o.FillTimeout = 50 * time.Millisecond }).warm()
	b.expectSet("m0", "k0 k3")
	b.expectSet("m9", "")
	b.clock.Advance(2500 * time.Millisecond)
	if b.expectSet("m0", "k0 k3").Origin != FromCache {
		t.Error("read within the lease")
	}
	l.set(func() { l.down = errDown })
	b.clock.Advance(time.Second)
	for _, owner := range []string{"m0", "m1", "m9"} { // in memory, not in memory, empty
		b.noSet(owner)
	}
	l.set(func() { l.down = nil })
	b.fenced()
	b.expectSet("m0", "k0 k3")
}

func TestSetReadAnswersLongAfterItsQuestion(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, slowFences).warm()
	var once sync.Once
	l.set(func() {
		l.afterFill = func(string) { once.Do(func() { b.clock.Advance(4 * time.Second) }) } // stopped in mid-read, L = 3 s
	})
	b.noSet("m0")
}

// A read that waited for its turn is as old as its question would have been.
func TestSetsAreReadOneAtATime(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, slowFences, func(o *Options) { o.FillTimeout = time.Second }).warm()
	gate := make(chan struct{})
	var mu sync.Mutex
	reading, most := 0, 0
	l.set(func() {
		l.beforeFill = func(string) {
			mu.Lock()
			reading++
			most = max(most, reading)
			mu.Unlock()
			<-gate
			mu.Lock()
			reading--
			mu.Unlock()
		}
	})
	done := make(chan error, setReads+20)
	for i := range setReads + 20 {
		go func() {
			_, err := b.set(fmt.Sprintf("made up %d", i), Bounds{})
			done <- err
		}()
	}
	var u *UnavailableError
	for range 20 {
		if err := <-done; !errors.As(err, &u) || u.Reason != ReasonFillLimit {
			t.Fatalf("one too many: %v", err)
		}
	}
	b.expect("k1", Active) // keys are still answered, and read
	close(gate)
	for range setReads {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if most != 1 {
		t.Errorf("%d at once", most)
	}
}

// Owners whose keys take long to read must not keep the connection from fills.
func TestSetReadsTakeAllOfTheTime(t *testing.T) {
	const each = 50 * time.Millisecond
	l := ownersOf(t, 4)
	b := build(t, l, slowFences).warm()
	l.set(func() { l.beforeFill = func(string) { time.Sleep(each) } }) // what a slow statement does
	begun := time.Now()
	for i := range 4 {
		b.expectSet(fmt.Sprintf("made up %d", i), "")
	}
	if took := time.Since(begun); took < 7*each {
		t.Errorf("four reads after %v", took)
	}
}

func TestLargeSetIsCut(t *testing.T) {
	l := newLedger(t)
	for i := range MaxSetKeys {
		l.put(with(real(i), func(k *Key) { k.OwnerID = "m" }))
	}
	b := build(t, l, slowFences, func(o *Options) { o.Capacity = 2000 }).warm()
	if s, err := b.set("m", Bounds{}); err != nil || len(s.Keys) != MaxSetKeys {
		t.Fatalf("%d keys: %v", len(s.Keys), err)
	}
	for _, more := range []Key{real(MaxSetKeys), with(real(MaxSetKeys), func(k *Key) { k.PublicKey = []byte("no SPKI") })} {
		more.OwnerID = "m"
		b.store.Evict(l.put(more))
		b.fenced()
		for _, origin := range []Origin{FromDatabase, FromCache} {
			if s, err := b.set("m", Bounds{}); !errors.Is(err, ErrSetTooLarge) || len(s.Keys) != 0 || s.Origin != origin {
				t.Fatalf("%d keys from %v: %v", len(s.Keys), s.Origin, err)
			}
		}
		l.suspend("m", true)
		b.fenced()
		b.expectSet("m", "")
		l.suspend("m", false)
		l.delete(more.ID)
		b.fenced()
		if s, err := b.set("m", Bounds{}); err != nil || len(s.Keys) != MaxSetKeys {
			t.Fatalf("%d keys: %v", len(s.Keys), err)
		}
	}
}

func TestKeyOfAnUnknownKindIsInASet(t *testing.T) {
	l := ownersOf(t, 1)
	x25519 := with(real(3), func(k *Key) {
		k.PublicKey = append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e}, k.PublicKey[9:]...)
	})
	l.put(x25519)
	l.put(key(6)) // whose public key is none
	l.put(with(key(9), func(k *Key) { k.NotBefore = time.Now().Add(time.Hour) }))
	b := build(t, l).warm()
	if s := b.expectSet("m0", "k0"); s.LeftOut != 2 {
		t.Errorf("%d left out, want the two that are valid now", s.LeftOut)
	}
}

func TestKeysLifeBeginsOrEndsUnseenInASet(t *testing.T) {
	l := newLedger(t)
	l.put(with(real(0), func(k *Key) { k.NotBefore = time.Now().Add(time.Second) }))
	l.put(with(real(3), func(k *Key) { k.ExpiresAt = time.Now().Add(1500 * time.Millisecond) }))
	b := build(t, l, slowFences).warm()
	b.expectSet("m0", "k3")
	b.clock.Advance(1200 * time.Millisecond)
	if b.expectSet("m0", "k0 k3").Origin != FromCache {
		t.Error("read again")
	}
	b.clock.Advance(500 * time.Millisecond)
	b.expectSet("m0", "k0")
}

func TestFloodOfOwnersEvictsASet(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, slowFences, func(o *Options) { o.MissRate = 1 << 20 }).warm()
	b.expectSet("m0", "k0 k3")
	for i := range 2 * maxEmptySets {
		b.expectSet(fmt.Sprintf("made up %d", i), "")
	}
	reads := l.reads()
	b.expectSet("m0", "k0 k3")
	if l.reads() != reads {
		t.Error("the set was evicted")
	}
	if n, _ := b.store.mem.Load().sets.size(); n != maxEmptySets+1 {
		t.Errorf("%d sets in memory", n)
	}
}

func TestSetsTakeMoreMemoryThanTheyMay(t *testing.T) {
	c, err := newKeySets()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxSets {
		size := 1000
		if i%2 == 0 {
			size = maxSetBytes
		}
		c.put(&ownerKeys{ownerID: fmt.Sprint(i % (2 * maxSets)), keys: []SetKey{{ID: fmt.Sprint(i)}}, bytes: size})
		if n, bytes := c.size(); n > maxSets || bytes > maxSetsBytes {
			t.Fatalf("%d sets of %d bytes", n, bytes)
		}
	}
	c.apply(&event.Event{Kind: event.Changed, KeyID: fmt.Sprint(3*maxSets - 1), OwnerID: "another"})
	c.apply(&event.Event{Kind: event.Changed, KeyID: "k"})
	if n, bytes := c.size(); n != 0 || bytes != 0 {
		t.Errorf("%d sets of %d bytes are left", n, bytes)
	}
}

func TestOldSetIsNeverReadAgain(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, func(o *Options) { o.MaxTTL = 2 * time.Second }).warm()
	b.cachedSet("m0", "k0 k3")
	l.set(func() { l.keys["k6"] = real(6) }) // which no event tells
	b.clock.Advance(2 * time.Second)
	b.fenced()
	b.expectSet("m0", "k0 k3 k6")
}

func TestSetIgnoresItsCallersBounds(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, slowFences).warm()
	if _, err := b.set("m0", Bounds{OnlyIfCached: true}); !errors.Is(err, ErrNotCached) {
		t.Errorf("not in memory: %v", err)
	}
	b.expectSet("m0", "k0 k3")
	if _, err := b.set("m0", Bounds{OnlyIfCached: true}); err != nil {
		t.Errorf("in memory: %v", err)
	}
	l.revoke("k0") // nobody hears of it yet
	b.expectSet("m0", "k0 k3")
	for _, bounds := range []Bounds{{NoCache: true}, {HasMaxAge: true}} {
		if s, err := b.set("m0", bounds); err != nil || ids(s) != "k3" {
			t.Errorf("%+v: %q %v", bounds, ids(s), err)
		}
	}
	b.clock.Advance(1500 * time.Millisecond)
	if s, err := b.set("m0", Bounds{HasMaxAge: true, MaxAge: time.Second}); err != nil || ids(s) != "k3" || s.AsOf.Age >= time.Second {
		t.Errorf("%q %v", ids(s), err)
	}
}

func TestStaleSetIsServedAgainstThePolicy(t *testing.T) {
	for _, limit := range []time.Duration{0, 10 * time.Second} {
		l := ownersOf(t, 4)
		b := build(t, l, slowFences, func(o *Options) { o.StaleLimit = limit; o.FillTimeout = 50 * time.Millisecond }).warm()
		b.expectSet("m0", "k0 k3")
		b.expectSet("m9", "")
		l.set(func() { l.down = errDown })
		b.clock.Advance(5 * time.Second)
		b.noSet("m9") // a key may have been issued
		if limit == 0 {
			b.noSet("m0")
			continue
		}
		if s := b.expectSet("m0", "k0 k3"); s.Origin != FromStale {
			t.Errorf("from %v", s.Origin)
		}
		if _, err := b.set("m0", Bounds{HasMaxAge: true, MaxAge: time.Hour}); err == nil {
			t.Error("a caller's bound is answered stale")
		}
		b.clock.Advance(6 * time.Second)
		b.noSet("m0")
	}
}

func TestSetsEndWithTheStore(t *testing.T) {
	l := ownersOf(t, 4)
	b := build(t, l, slowFences).warm()
	s := newStep(t)
	l.set(func() { l.beforeFill = s.stop })
	done := make(chan error, 1)
	go func() {
		_, err := b.set("m0", Bounds{})
		done <- err
	}()
	<-s.reached
	go s.goOn()
	b.stop()
	<-done
	var u *UnavailableError
	if _, err := b.set("m1", Bounds{}); !errors.As(err, &u) || len(b.store.mem.Load().sets.flights) != 0 {
		t.Errorf("after the end: %v", err)
	}
}

func TestSetsUnderConcurrentUse(t *testing.T) {
	l := ownersOf(t, 30)
	b := build(t, l, func(o *Options) { o.MissRate = 1 << 20 }).warm()
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
				_, _ = b.store.KeySet(context.Background(), fmt.Sprintf("m%d", i%5), Bounds{})
			}
		})
	}
	for i := range 1000 {
		switch i % 5 {
		case 0:
			b.store.Evict(l.revoke(real(i % 30).ID))
		case 1:
			b.store.Evict(l.put(with(real(i%30), func(k *Key) { k.OwnerID = fmt.Sprintf("m%d", i%4) })))
		case 2:
			b.store.Evict(l.suspend("m1", i%2 == 0))
		case 3:
			l.put(real(i % 30))
		case 4:
			if i%250 == 4 {
				l.set(func() { l.timeline += "x" })
			}
		}
	}
	close(stop)
	wg.Wait()
	b.fenced()
	for _, owner := range []string{"m0", "m1", "m2", "m3"} {
		var want []string
		l.set(func() {
			for id, k := range l.keys {
				if k.OwnerID == owner && !k.Revoked && !l.owners[owner] {
					want = append(want, id)
				}
			}
		})
		slices.Sort(want)
		b.expectSet(owner, strings.Join(want, " "))
	}
}
