package keystore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keysidecar/keysidecar/internal/event"
)

func auditOf(t *testing.T, s Source, q AuditQuery) AuditPage {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	page, err := s.(Auditor).Audit(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestAuditorsDisagreeWithTheirContract(t *testing.T) {
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			full := real(0)
			full.NotBefore = time.UnixMicro(1_700_000_000_123_000).UTC()
			full.ExpiresAt = time.UnixMicro(4_000_000_000_456_000).UTC()
			w.put(full)
			for i := 1; i < 6; i++ {
				w.put(real(i))
			}
			h, _ := warmOf(t, w, 100)

			// What an audit reads is what a fill reads.
			page := auditOf(t, w, AuditQuery{Keys: []string{"k0", "k1", "nobody"}, At: h.Cursor})
			if !page.Clean || page.Timeline != h.Timeline || page.CannotList || len(page.Listed) != 0 {
				t.Fatalf("%+v", page)
			}
			for _, id := range []string{"k0", "k1"} {
				var filled Record
				if err := w.Fill(deadline(t), id, h.Cursor, member(t, w), func(f Filled) { filled = f.Row.record() }); err != nil {
					t.Fatal(err)
				}
				if k := page.Keys[id]; k.Later || k.Unusable || k.OwnerSuspended || !filled.sameState(k.Record) {
					t.Fatalf("%s: %+v, a fill reads %+v", id, k.Record.Key(), filled.Key())
				}
			}
			if k := page.Keys["nobody"]; k.Later || !k.Record.IsZero() {
				t.Fatalf("%+v", k)
			}

			for _, unknown := range []Cursor{{h.Cursor.Seq, uuid.New()}, {h.Cursor.Seq + 1000, h.Cursor.ID}, noCursor} {
				if page := auditOf(t, w, AuditQuery{Keys: []string{"k0"}, At: unknown}); page.Clean {
					t.Fatalf("clean for %+v", unknown)
				}
			}

			// All keys, in pages.
			var listed []string
			for from := ""; ; from = listed[len(listed)-1] {
				got := auditOf(t, w, AuditQuery{At: h.Cursor, List: 4, From: from}).Listed
				listed = append(listed, got...)
				if len(got) < 4 {
					break
				}
			}
			if want := []string{"k0", "k1", "k2", "k3", "k4", "k5"}; !slices.Equal(listed, want) {
				t.Fatalf("listed %v, want %v", listed, want)
			}

			w.revoke("k0")
			w.suspend("m2", true) // k2, k5
			w.delete("k3")
			e := w.put(real(9))
			old := auditOf(t, w, AuditQuery{Keys: []string{"k0", "k1", "k2", "k3", "k5", "k9", "nobody"}, At: h.Cursor})
			for id, want := range map[string]bool{"k0": true, "k1": false, "k2": true, "k3": true, "k5": true, "k9": true, "nobody": false} {
				if old.Keys[id].Later != want {
					t.Errorf("%s with an old cursor: later %v, want %v", id, old.Keys[id].Later, want)
				}
			}
			now := auditOf(t, w, AuditQuery{Keys: []string{"k0", "k2", "k3"}, At: Cursor{e.Seq, e.ID}})
			if k := now.Keys["k0"]; k.Later || !k.Record.Revoked() {
				t.Errorf("%+v", k)
			}
			if k := now.Keys["k2"]; k.Later || !k.OwnerSuspended {
				t.Errorf("%+v", k)
			}
			if k := now.Keys["k3"]; k.Later || !k.Record.IsZero() {
				t.Errorf("%+v", k)
			}
		})
	}
}

// audit compares everything and fails the test if that cannot be done.
func (b *bench) audit() *AuditReport {
	b.t.Helper()
	r, err := b.store.Audit(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) audited(want map[Difference]int) *AuditReport {
	b.t.Helper()
	r := b.audit()
	if !maps.Equal(r.Differences, want) {
		b.t.Fatalf("differences %v %v, want %v", r.Differences, r.Keys, want)
	}
	return r
}

var none = map[Difference]int{}

// drifting is a world that can be changed behind the log's back.
type drifting interface {
	world
	plantRevoked(id string)
	plantDeleted(id string)
	plantKey(k Key)
	plantOwner(id, owner string)
	plantScopes(id string, scopes ...string)
	plantSuspended(owner string)
}

func (l *ledger) plantRevoked(id string)      { l.drift(id, func(k *Key) { k.Revoked = true }) }
func (l *ledger) plantDeleted(id string)      { l.set(func() { delete(l.keys, id) }) }
func (l *ledger) plantKey(k Key)              { l.set(func() { l.keys[k.ID] = k }) }
func (l *ledger) plantOwner(id, owner string) { l.drift(id, func(k *Key) { k.OwnerID = owner }) }
func (l *ledger) plantScopes(id string, scopes ...string) {
	l.drift(id, func(k *Key) { k.Scopes = scopes })
}
func (l *ledger) plantSuspended(owner string) { l.set(func() { l.owners[owner] = true }) }

// uncaptured runs SQL while no trigger sees it, and puts the triggers back in the
// same transaction, so that no check of capture can notice.
func (w *pgWorld) uncaptured(sql string) {
	w.t.Helper()
	w.exec(uncaptured(sql))
}

func uncaptured(sql string) string {
	return `BEGIN; ALTER TABLE keysidecar.public_keys DISABLE TRIGGER USER; ALTER TABLE keysidecar.owners DISABLE TRIGGER USER; ` + sql + `;
		DO $$ DECLARE w record; BEGIN FOR w IN SELECT relation, trigger_name FROM keysidecar.watched LOOP
			EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', w.relation, w.trigger_name);
		END LOOP; END $$; COMMIT`
}

// quoted writes a literal; the tests' names hold nothing to escape.
func quoted(s string) string { return "'" + s + "'" }

func (w *pgWorld) plantRevoked(id string) {
	w.uncaptured(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = ` + quoted(id))
}

func (w *pgWorld) plantDeleted(id string) {
	w.uncaptured(`DELETE FROM keysidecar.public_keys WHERE key_id = ` + quoted(id))
}

func (w *pgWorld) plantKey(k Key) {
	w.uncaptured(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES (` + quoted(k.ID) + `,` + quoted(k.OwnerID) + `, 'opaque')`)
}

func (w *pgWorld) plantOwner(id, owner string) {
	w.uncaptured(`UPDATE keysidecar.public_keys SET owner_id = ` + quoted(owner) + ` WHERE key_id = ` + quoted(id))
}

func (w *pgWorld) plantScopes(id string, scopes ...string) {
	w.uncaptured(`UPDATE keysidecar.public_keys SET scopes = '{` + strings.Join(scopes, ",") + `}' WHERE key_id = ` + quoted(id))
}

func (w *pgWorld) plantSuspended(owner string) {
	w.uncaptured(`UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = ` + quoted(owner))
}

var driftWorlds = map[string]func(t *testing.T) drifting{
	"ledger":   func(t *testing.T) drifting { return newLedger(t) },
	"postgres": func(t *testing.T) drifting { return newPgWorld(t) },
}

func TestDriftGoesUnnoticed(t *testing.T) {
	for name, make := range driftWorlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			for i := range 12 {
				w.put(real(i))
			}
			b := build(t, w).warm()
			if r := b.audited(none); r.Compared != 12 || r.Listed != 12 || !r.Complete || r.CannotList || r.Newer != 0 {
				t.Fatalf("%+v", r)
			}
			w.plantRevoked("k0")
			w.plantDeleted("k1")
			w.plantKey(real(20))
			w.plantOwner("k3", "m1")
			w.plantScopes("k4", "other")
			w.plantSuspended("m2") // k2, k5, k8, k11
			b.fenced()
			b.expect("k0", Active)
			b.expect("k20", UnknownKey) // no event said anything
			b.audited(map[Difference]int{DiffRevoked: 1, DiffExtra: 1, DiffMissing: 1, DiffOwner: 1, DiffChanged: 1, DiffSuspended: 1})
			b.expect("k0", Revoked)
			b.expect("k1", UnknownKey)
			b.expect("k20", OwnerSuspended)
			b.expect("k8", OwnerSuspended)
			if a := b.expect("k3", Active); a.Record.OwnerID() != "m1" {
				t.Fatalf("%+v", a.Record.Key())
			}
			if a := b.expect("k4", Active); !a.Record.HasScope("other") || a.Record.HasScope("pay") {
				t.Fatalf("%+v", a.Record.Key())
			}
			b.audited(none)
			if st := b.store.Status().Audit; st.Differences != 6 || st.LastDifferences != 0 || !st.Done {
				t.Fatalf("%+v", st)
			}
		})
	}
}

// forge puts into memory what the source never said.
func (b *bench) forge(k Key) {
	m := b.store.mem.Load()
	sh := m.shard(k.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.put(m, k.ID, entry{rec: NewRecord(&k), owner: m.owners.acquire(k.OwnerID, stateOf(k.OwnerSuspended))})
}

func TestWrongEntryStaysInMemory(t *testing.T) {
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			for i := range 3 {
				w.put(real(i))
			}
			w.revoke("k0")
			b := build(t, w).warm()
			b.forge(real(0)) // not revoked
			b.forge(real(7)) // does not exist
			b.expect("k0", Active)
			b.expect("k7", Active)
			b.audited(map[Difference]int{DiffRevoked: 1, DiffExtra: 1})
			b.expect("k0", Revoked)
			b.expect("k7", UnknownKey)
			b.audited(none)
		})
	}
}

func TestWrongUnknownKeyStaysInMemory(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.NegativeTTL = time.Hour }).warm()
	b.store.mem.Load().complete.Store(false)
	b.expect("k9", UnknownKey)
	l.plantKey(key(9))
	b.expect("k9", UnknownKey)
	if r := b.audited(map[Difference]int{DiffMissing: 1}); r.Complete || r.Listed != 0 {
		t.Fatalf("%+v", r)
	}
	b.expect("k9", Active)
}

// What the log says and the sidecar has not read yet is lag, which the promise
// allows for.
func TestLagIsCalledDrift(t *testing.T) {
	for name, make := range driftWorlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			for i := range 12 {
				w.put(real(i))
			}
			// No fence but those of the start.
			b := build(t, w, func(o *Options) { o.FenceInterval, o.MaxStaleness = time.Hour, 3*time.Hour }).warm()
			w.revoke("k0")
			w.delete("k1")
			k := real(3)
			k.OwnerID = "m1"
			w.put(k)
			w.suspend("m2", true) // k2, k5, k8, k11
			w.put(real(20))
			if r := b.audited(none); r.Newer != 8 || r.Compared != 5 {
				t.Fatalf("%+v, want 8 newer (k20 among them)", r)
			}
			b.fenced()
			b.expect("k0", Revoked)
			b.audited(none)
		})
	}
}

// At each step of a comparison something happens to the very key, and memory has
// heard of it before the next: none of that is drift.
func TestRaceIsCalledDrift(t *testing.T) {
	changes := map[string]func(l *ledger) event.Event{
		"revoked":      func(l *ledger) event.Event { return l.revoke("k0") },
		"deleted":      func(l *ledger) event.Event { return l.delete("k0") },
		"changed":      func(l *ledger) event.Event { k := key(0); k.Scopes = nil; return l.put(k) },
		"suspended":    func(l *ledger) event.Event { return l.suspend("m0", true) },
		"issued":       func(l *ledger) event.Event { return l.put(key(9)) },
		"other key":    func(l *ledger) event.Event { return l.revoke("k1") },
		"reset":        func(l *ledger) event.Event { return l.truncate() },
		"new timeline": func(l *ledger) event.Event { l.set(func() { l.timeline = "00000002" }); return l.revoke("k0") },
	}
	hear := map[string]func(b *bench, e event.Event){
		"not heard of": func(*bench, event.Event) {},
		"by message":   func(b *bench, e event.Event) { b.store.Evict(e) },
		"by fence":     func(b *bench, _ event.Event) { b.fenced() },
		"by fence and read again": func(b *bench, _ event.Event) {
			b.fenced()
			for _, id := range []string{"k0", "k1", "k9"} {
				_, _ = b.store.Lookup(context.Background(), id, Bounds{})
			}
		},
	}
	for _, at := range []auditStep{stepCursor, stepClaims, stepAnswer} {
		for changeName, change := range changes {
			for hearName, heard := range hear {
				t.Run(fmt.Sprintf("step %d, %s, %s", at, changeName, hearName), func(t *testing.T) {
					t.Parallel()
					l := filled(t, 3)
					b := build(t, l, func(o *Options) { o.FenceInterval, o.MaxStaleness = time.Hour, 3*time.Hour })
					var once sync.Once
					b.store.audit.at = func(s auditStep) {
						if s == at {
							once.Do(func() { heard(b, change(l)) })
						}
					}
					b.warm()
					m := b.store.mem.Load()
					got, err := b.store.compare(context.Background(), m, []string{"k0", "k1", "k9"}, "", 0)
					if err != nil && !errors.Is(err, errAuditVoid) && !errors.Is(err, errNoLease) {
						t.Fatal(err)
					}
					if len(got.findings) != 0 {
						t.Fatalf("called drift: %+v", got.findings)
					}
				})
			}
		}
	}
}

// Something happens to a key and is undone, so that memory says at the end what it
// said at the beginning, while the answer shows what was in between.
func TestChangeThatIsUndoneIsCalledDrift(t *testing.T) {
	for name, tt := range map[string]struct{ do, undo func(l *ledger) event.Event }{
		"issued and deleted":   {func(l *ledger) event.Event { return l.put(key(9)) }, func(l *ledger) event.Event { return l.delete("k9") }},
		"revoked and restored": {func(l *ledger) event.Event { return l.revoke("k0") }, func(l *ledger) event.Event { return l.put(key(0)) }},
		"suspended and not":    {func(l *ledger) event.Event { return l.suspend("m0", true) }, func(l *ledger) event.Event { return l.suspend("m0", false) }},
	} {
		t.Run(name, func(t *testing.T) {
			l := filled(t, 3)
			b := build(t, l, func(o *Options) { o.FenceInterval, o.MaxStaleness = time.Hour, 3*time.Hour })
			hear := func() {
				b.fenced()
				for _, id := range []string{"k0", "k9"} {
					_, _ = b.store.Lookup(context.Background(), id, Bounds{})
				}
			}
			b.store.audit.at = func(s auditStep) {
				switch s {
				case stepClaims:
					tt.do(l)
					hear()
				case stepAnswer:
					tt.undo(l)
					hear()
				case stepCursor:
				}
			}
			b.warm()
			got, err := b.store.compare(context.Background(), b.store.mem.Load(), []string{"k0", "k9"}, "", 0)
			if err != nil || len(got.findings) != 0 || got.newer == 0 {
				t.Fatalf("%v, %+v", err, got)
			}
		})
	}
}

// Memory has read a tail of the log that is lost in a failover before the answer:
// the cursor, read before that, is still known.
func TestLostTailIsCalledDrift(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval, o.MaxStaleness = time.Hour, 3*time.Hour })
	b.store.audit.at = func(s auditStep) {
		switch s {
		case stepCursor:
			l.revoke("k0")
			b.fenced()
			b.expect("k0", Revoked)
		case stepClaims:
			l.set(func() {
				l.events, l.timeline = l.events[:len(l.events)-1], "00000002"
				l.keys["k0"] = key(0)
			})
		case stepAnswer:
		}
	}
	b.warm()
	got, err := b.store.compare(context.Background(), b.store.mem.Load(), []string{"k0"}, "", 0)
	if !errors.Is(err, errAuditVoid) || len(got.findings) != 0 {
		t.Fatalf("%v, %+v", err, got)
	}
}

// A key is listed, and deleted before memory is looked at.
func TestKeyDeletedSinceItWasListedIsCalledMissing(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval, o.MaxStaleness = time.Hour, 3*time.Hour }).warm()
	var once sync.Once
	l.set(func() {
		l.afterAudit = func() {
			once.Do(func() {
				l.delete("k1")
				b.fenced()
				b.expect("k1", UnknownKey)
			})
		}
	})
	w := &wholeAudit{store: b.store, memory: b.store.mem.Load(), report: AuditReport{Differences: map[Difference]int{}}}
	if err := w.absences(context.Background()); err != nil || w.report.Total() != 0 {
		t.Fatalf("%v, %+v", err, w.report)
	}
}

// Everything at once, as far as chance finds it: with every change in the log,
// nothing may ever be called drift.
func TestBusySidecarIsCalledDrifting(t *testing.T) {
	for name, make := range worlds {
		if name == "file" {
			continue // its world is too slow to be busy
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := make(t)
			for i := range 30 {
				w.put(real(i))
			}
			b := build(t, w, func(o *Options) {
				o.FenceInterval, o.NegativeTTL, o.MissRate, o.MaxFills = 10*time.Millisecond, 100*time.Millisecond, 1<<20, 64
				o.Audit = AuditOptions{Interval: 2 * time.Millisecond, Sample: 7}
			}).warm()
			stop := time.Now().Add(2 * time.Second)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					tick := time.NewTicker(200 * time.Microsecond)
					defer tick.Stop()
					for time.Now().Before(stop) {
						<-tick.C
						_, _ = b.store.Lookup(context.Background(), key(rand.IntN(40)).ID, Bounds{})
					}
				})
			}
			wg.Go(func() {
				for time.Now().Before(stop) {
					if _, err := b.store.Audit(context.Background()); err != nil && !errors.Is(err, ErrAuditRunning) {
						t.Error(err)
					}
				}
			})
			tick := time.NewTicker(3 * time.Millisecond)
			defer tick.Stop()
			for time.Now().Before(stop) {
				<-tick.C
				i := rand.IntN(40)
				var e event.Event
				switch k := real(i); rand.IntN(12) {
				default:
					e = w.put(k)
				case 1:
					k.Revoked = true
					e = w.put(k)
				case 2:
					e = w.delete(k.ID)
				case 3:
					e = w.suspend(k.OwnerID, i%2 == 0)
				case 4:
					k.OwnerID = real(i + 1).OwnerID
					e = w.put(k)
				}
				if i%3 == 0 {
					b.store.Evict(e)
				}
			}
			wg.Wait()
			st := b.store.Status().Audit
			if st.Differences != 0 {
				t.Fatalf("%+v", st)
			}
			if st.Compared < 500 {
				t.Fatalf("only %d comparisons", st.Compared)
			}
		})
	}
}

// sampled is a store that audits itself very often.
func sampled(o *Options) { o.Audit = AuditOptions{Interval: time.Millisecond, Sample: 5} }

func TestSamplesNeverReachSomeKeys(t *testing.T) {
	l := filled(t, 200)
	b := build(t, l, sampled).warm()
	eventually(t, "every key was compared", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		seen := map[string]bool{}
		for _, id := range l.audited {
			seen[id] = true
		}
		return len(seen) == 200
	})
	// Fair: nobody's second turn comes before everybody's first.
	l.set(func() {
		times := map[string]int{}
		for _, id := range l.audited {
			times[id]++
		}
		if low, high := slices.Min(slices.Collect(maps.Values(times))), slices.Max(slices.Collect(maps.Values(times))); high-low > 1 {
			t.Errorf("some keys were compared %d times, others %d", high, low)
		}
	})
	l.plantRevoked("k77")
	eventually(t, "drift was found", func() bool { return b.store.Status().Audit.Differences == 1 })
	b.expect("k77", Revoked)
	l.plantKey(key(500))
	eventually(t, "the missing key was found", func() bool { return b.store.Status().Audit.Differences == 2 })
	b.expect("k500", Active)
}

func TestSamplesComeMoreOftenThanConfigured(t *testing.T) {
	l := filled(t, 50)
	const interval = 40 * time.Millisecond
	begun := time.Now()
	b := build(t, l, func(o *Options) { o.Audit = AuditOptions{Interval: interval, Sample: 5} }).warm()
	eventually(t, "some audits", func() bool { return l.count() >= 10 })
	b.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	// Never sooner than half an interval after the one before.
	if most := int(time.Since(begun)/(interval/2)) + 1; l.audits > most || len(l.audited) > 5*l.audits {
		t.Fatalf("%d audits of %d keys, at most %d were due", l.audits, len(l.audited), most)
	}
}

func TestAuditIsOffAndAsksNevertheless(t *testing.T) {
	l := filled(t, 5)
	b := build(t, l).warm()
	b.fenced()
	b.fenced()
	if n := l.count(); n != 0 {
		t.Fatalf("%d audits", n)
	}
}

func TestSampleOfAnEmptyMemoryIsCutShort(t *testing.T) {
	m, err := newMemory(100, "x")
	if err != nil {
		t.Fatal(err)
	}
	p := newSampler(m)
	if got := p.next(m, 10); len(got) != 0 {
		t.Fatal(got)
	}
	for i := range 20 {
		k := key(i)
		m.load(k.row(), NewRecord(&k))
	}
	for range 10 {
		got := p.next(m, 50) // more than there are
		slices.Sort(got)
		if len(slices.Compact(got)) != len(got) || len(got) != 20 {
			t.Fatalf("%d keys: %v", len(got), got)
		}
		if one := p.next(m, 3); len(one) != 3 {
			t.Fatal(one)
		}
		if rest := p.next(m, 17); len(rest) != 17 {
			t.Fatal(rest)
		}
	}
}

func TestAuditWithoutALeaseComparesNothing(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.set(func() { l.down = errDown })
	b.lapse("unreachable")
	if _, err := b.store.compare(context.Background(), b.store.mem.Load(), []string{"k0"}, "", 0); !errors.Is(err, errNoLease) {
		t.Fatal(err)
	}
	if n := l.count(); n != 0 {
		t.Fatalf("asked %d times", n)
	}
}

func TestTwoAuditsAtOnce(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FillTimeout = 10 * time.Second; sampled(o); o.Audit.Interval = time.Hour }).warm()
	s := newStep(t)
	l.set(func() { l.beforeAudit = func() { s.stop("") } })
	done := make(chan error, 1)
	go func() { _, err := b.store.Audit(context.Background()); done <- err }()
	<-s.reached
	if _, err := b.store.Audit(context.Background()); !errors.Is(err, ErrAuditRunning) {
		t.Fatal(err)
	}
	s.goOn()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.audited(none)
}

func TestAuditOutlivesItsCaller(t *testing.T) {
	l := filled(t, 2000)
	b := build(t, l, func(o *Options) { o.Capacity = 5000 }).warm()
	ctx, cancel := context.WithCancel(context.Background())
	l.set(func() { l.afterAudit = cancel })
	if _, err := b.store.Audit(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := l.count(); n != 1 {
		t.Fatalf("%d questions after the caller had gone", n)
	}
	l.set(func() { l.afterAudit = nil })
	b.stop()
	if _, err := b.store.Audit(context.Background()); !errors.Is(err, ErrAuditUnavailable) {
		t.Fatal(err)
	}
}

func TestAuditAcrossARewarmIsCounted(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.set(func() { l.beforeAudit = func() { l.set(func() { l.timeline, l.beforeAudit = "00000002", nil }) } })
	if _, err := b.store.Audit(context.Background()); !errors.Is(err, ErrAuditUnavailable) {
		t.Fatal(err)
	}
	b.fenced()
	b.audited(none)
}

func TestDifferenceIsNotLogged(t *testing.T) {
	l := filled(t, 3)
	core, logs := observer.New(zap.DebugLevel)
	reg := prometheus.NewRegistry()
	b := build(t, l, func(o *Options) { o.Logger, o.Registerer = zap.New(core), reg }).warm()
	l.plantRevoked("k1")
	b.audited(map[Difference]int{DiffRevoked: 1})
	loud := 0
	for _, e := range logs.All() {
		if e.Level > zap.DebugLevel && strings.Contains(fmt.Sprint(e.Message, e.ContextMap()), "k1") {
			t.Errorf("a key id above debug: %+v", e)
		}
		if e.Level == zap.ErrorLevel {
			loud++
		}
	}
	if loud != 1 {
		t.Errorf("%d errors logged", loud)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := 0.0
	for _, f := range families {
		if f.GetName() == "keysidecar_audit_differences_total" {
			for _, m := range f.GetMetric() {
				found += m.GetCounter().GetValue()
			}
		}
	}
	if found != 1 {
		t.Errorf("counted %v", found)
	}
}

func TestAuditTakesTheLastConnectionFromFills(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	h, _ := warmOf(t, w, 10)
	var taken []*pgxpool.Conn
	for range w.opts.MaxConns - 1 {
		c, err := w.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, c)
	}
	if _, err := w.Audit(t.Context(), AuditQuery{Keys: []string{"k0"}, At: h.Cursor}); !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
	for _, c := range taken {
		c.Release()
	}
	auditOf(t, w, AuditQuery{Keys: []string{"k0"}, At: h.Cursor})
}

// Relations that an operator may have: the owner's state in the row, no order to
// list key ids in, rows that cannot be used.
func TestAuditOfAView(t *testing.T) {
	w := newPgWorld(t)
	for i := range 3 {
		w.put(real(i))
	}
	w.exec(`CREATE TABLE public.ids (n int, id varchar(40) PRIMARY KEY DEFAULT gen_random_uuid());
		INSERT INTO public.ids (n) SELECT generate_series(0, 2);
		CREATE VIEW public.joined AS SELECT i.id AS key_id, k.owner_id, k.algorithm, k.public_key, k.scopes, k.not_before, k.expires_at, k.revoked_at, k.attributes,
			i.n = 2 AS owner_suspended FROM public.ids i JOIN keysidecar.public_keys k ON k.key_id = 'k' || i.n;
		CREATE TABLE public.many AS SELECT 'x' || n AS key_id FROM generate_series(1, 100000) n; ANALYZE public.many;
		CREATE VIEW public.unsorted AS SELECT DISTINCT m.key_id, k.owner_id, k.algorithm, k.public_key, k.scopes, k.not_before, k.expires_at, k.revoked_at, k.attributes
			FROM public.many m, keysidecar.public_keys k WHERE k.key_id = 'k0';
		CREATE VIEW public.bad AS SELECT key_id, owner_id, algorithm, public_key, array_fill('a'::text, ARRAY[CASE key_id WHEN 'k1' THEN 65 ELSE 1 END]) AS scopes,
			not_before, expires_at, revoked_at, attributes FROM keysidecar.public_keys UNION ALL
			SELECT key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes FROM keysidecar.public_keys WHERE key_id = 'k2'`)
	t.Run("owner state of its own", func(t *testing.T) {
		v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.joined" })
		b := build(t, v).warm()
		if r := b.audited(none); r.Compared != 3 || r.Listed != 3 {
			t.Fatalf("%+v", r)
		}
		w.exec(`UPDATE public.ids SET n = 2 WHERE n = 0`) // now its owner is suspended, and nobody watches
		b.audited(map[Difference]int{DiffOwner: 1})
		b.audited(none)
	})
	t.Run("no order", func(t *testing.T) {
		v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.unsorted" })
		b := build(t, v, func(o *Options) { o.Capacity = 5 }).warm()
		b.store.mem.Load().complete.Store(true)
		if r := b.audit(); !r.CannotList || r.Listed != 0 {
			t.Fatalf("%+v", r)
		}
	})
	t.Run("unusable rows", func(t *testing.T) {
		v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.bad" })
		b := build(t, v).warm()
		b.forge(real(1))
		b.forge(real(2))
		b.audited(map[Difference]int{DiffUnusable: 2})
		b.expect("k1", Unavailable)
		b.expect("k2", Unavailable)
	})
}
