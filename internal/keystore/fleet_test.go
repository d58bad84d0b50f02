package keystore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keysidecar/keysidecar/internal/receipt"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
)

// only returns the one registration that the ledger knows, and its report.
func (l *ledger) only() (id uuid.UUID, at Cursor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.registered) != 1 {
		l.t.Fatalf("%d registrations", len(l.registered))
	}
	for id, at = range l.registered {
	}
	return id, at
}

// The ledger fails a test whose questions come before a registration; here the
// registration is held up.
func TestQuestionIsAskedBeforeTheRegistration(t *testing.T) {
	l := filled(t, 3)
	l.set(func() { l.down = errDown })
	b := build(t, l).run()
	eventually(t, "a failed registration", func() bool { return b.store.Status().LastFenceError == "unreachable" })
	_, err := b.store.Lookup(context.Background(), "k0", Bounds{})
	var u *UnavailableError
	if !errors.As(err, &u) || u.Reason != ReasonUnregistered || l.reads() > 0 {
		t.Fatalf("%v, after %d reads", err, l.reads())
	}
	l.set(func() { l.down = nil })
	<-b.store.Warmed()
	b.expect("k0", Active)
}

// heldRegistration registers nobody before it may.
type heldRegistration struct {
	*ledger
	may chan struct{}
}

func (h *heldRegistration) Register(ctx context.Context, i Incarnation) (int, error) {
	select {
	case <-h.may:
		return h.ledger.Register(ctx, i)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// A restarted sidecar is asked before it is registered. It may neither ask then, nor
// should it turn anybody away who would have an answer in a moment.
func TestEarlyRequestIsTurnedAwayOrAnsweredBeforeTheRegistration(t *testing.T) {
	h := &heldRegistration{filled(t, 3), make(chan struct{})}
	b := build(t, h, func(o *Options) { o.FillTimeout = 10 * time.Second }).run()
	answered := make(chan error, 2)
	go func() {
		_, err := b.store.Lookup(context.Background(), "k0", Bounds{})
		answered <- err
	}()
	go func() {
		_, err := b.store.KeySet(context.Background(), "m1", Bounds{})
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("answered before the registration: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := b.store.Lookup(context.Background(), "k0", Bounds{OnlyIfCached: true}); !errors.Is(err, ErrNotCached) {
		t.Errorf("only-if-cached: %v", err)
	}
	if h.reads() > 0 {
		t.Error("asked before the registration")
	}
	close(h.may)
	for range 2 {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

// While the database hangs, a request waits no longer than it would for a key.
func TestEarlyRequestWaitsForTheRegistrationForEver(t *testing.T) {
	b := build(t, &heldRegistration{filled(t, 3), make(chan struct{})}, func(o *Options) { o.FillTimeout = 20 * time.Millisecond }).run()
	_, err := b.store.Lookup(context.Background(), "k0", Bounds{})
	var u *UnavailableError
	if !errors.As(err, &u) || u.Reason != ReasonUnregistered {
		t.Fatal(err)
	}
}

// The warms of a large fleet are spread over a long time, in which every sidecar could
// answer already.
func TestRequestsWaitForTheWarmToBegin(t *testing.T) {
	l := filled(t, 3)
	l.set(func() {
		for range 100_000 {
			l.registered[uuid.New()] = noCursor
		}
	})
	b := build(t, l, func(o *Options) { o.WarmJitter, o.FenceInterval, o.MaxStaleness = time.Hour, time.Hour, 3*time.Hour }).run()
	eventually(t, "the registration", func() bool { _, ok := b.store.membership(); return ok })
	if a := b.expect("k0", Active); a.Origin != FromDatabase {
		t.Errorf("answered from %v", a.Origin)
	}
	b.expect("made-up", UnknownKey)
}

func TestSmallFleetSpreadsItsWarmsLikeALargeOne(t *testing.T) {
	l := filled(t, 3)
	build(t, l, func(o *Options) { o.WarmJitter = time.Hour }).warm()
}

func TestReportSaysMoreThanWasApplied(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	for i := range 5 {
		e := l.revoke([]string{"k0", "k1", "k2", "k0", "k1"}[i])
		b.store.Evict(e)
		eventually(t, "the report", func() bool { _, at := l.only(); return at == Cursor{e.Seq, e.ID} })
		if got := b.store.mem.Load().cursor.Load().Seq; got < e.Seq {
			t.Fatalf("reported %d with a cursor at %d", e.Seq, got)
		}
	}
	// It reported what moved, and did not write at each fence.
	before := l.reports
	for range 5 {
		b.fenced()
	}
	l.set(func() {
		if l.reports > before+1 {
			t.Errorf("%d reports by idle fences", l.reports-before)
		}
	})
}

// The report follows the fence that moved the cursor at once, not at the next
// interval.
func TestReportWaitsForTheNextInterval(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l, func(o *Options) { o.FenceInterval = time.Minute; o.MaxStaleness = 3 * time.Minute }).warm()
	e := l.revoke("k0")
	b.store.Evict(e)
	eventually(t, "the report", func() bool { _, at := l.only(); return at.Seq == e.Seq })
}

// A database that lets nobody write is not asked again and again to.
func TestRefusedReportIsRepeatedWithoutEnd(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	l.set(func() { l.readOnly = true })
	e := l.revoke("k0")
	b.store.Evict(e)
	b.fenced()
	b.fenced()
	if n := testutil.ToFloat64(b.store.metrics.requests[FenceForReport]); n > 0 {
		t.Errorf("%v fences were asked for because a report was refused", n)
	}
	l.set(func() { l.readOnly = false })
	e = l.revoke("k1")
	b.store.Evict(e)
	eventually(t, "the report of the next change", func() bool { _, at := l.only(); return at.Seq == e.Seq })
}

func TestMarkedSidecarRenewsItsLease(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	old, _ := l.only()
	granted := b.store.mem.Load().lease.Load()
	hold := newStep(t)
	l.set(func() { l.marked[old] = true; l.beforeFence = func() { hold.stop("") } })
	b.store.RequestFence(FenceForRequest)
	<-hold.reached
	if b.store.mem.Load().lease.Load().asked.Sub(granted.asked) > 0 && b.store.enrolment.current.Load() == nil {
		t.Error("a void fence renewed the lease")
	}
	// A fill asked under the marked registration is void, too.
	b.cold("k0")
	b.expect("k0", Unavailable)
	l.set(func() { l.beforeFence = func() {} })
	hold.goOn()
	eventually(t, "a new registration", func() bool {
		id := b.store.enrolment.current.Load()
		return id != nil && *id != old
	})
	eventually(t, "answers under it", func() bool {
		a, err := b.store.Lookup(context.Background(), "k0", Bounds{})
		return err == nil && a.Code == Active
	})
}

func TestSignOffComesWhileAnswersAreGiven(t *testing.T) {
	l := filled(t, 3)
	b := build(t, l).warm()
	hold := newStep(t)
	l.set(func() {
		l.afterFill = func(string) {
			hold.stop("")
			l.set(func() {
				if l.signedOff > 0 {
					t.Error("signed off before a read was over whose answer may be given")
				}
			})
		}
	})
	b.cold("k0")
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = b.store.Lookup(context.Background(), "k0", Bounds{})
	}()
	<-hold.reached
	stopped := make(chan struct{})
	go func() { defer close(stopped); b.stop() }()
	<-b.store.life.Done()
	hold.goOn()
	<-asked
	<-stopped
	if l.signedOff != 1 || len(l.registered) != 0 {
		t.Fatalf("%d sign-offs, %d left", l.signedOff, len(l.registered))
	}
	b.expect("k0", Unavailable)
}

func TestSidecarThatDoesNotRegisterIsServedWithoutLeave(t *testing.T) {
	for name, w := range map[string]func(t *testing.T) (Source, func(time.Duration)){
		"ledger": func(t *testing.T) (Source, func(time.Duration)) {
			l := filled(t, 3)
			return l, func(d time.Duration) { l.set(func() { l.allowed = d }) }
		},
		"postgres": func(t *testing.T) (Source, func(time.Duration)) {
			w := newPgWorld(t)
			w.put(real(0))
			return w, func(d time.Duration) { w.exec(`SELECT keysidecar.allow_unreported($1)`, d) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			source, allow := w(t)
			b := build(t, source, func(o *Options) { o.Report = false }).run()
			eventually(t, "a fence refused", func() bool { return b.store.Status().LastFenceError == "unregistered" })
			b.expect("k0", Unavailable)
			allow(2 * time.Second)
			b.fencedBadly()
			b.expect("k0", Unavailable)
			allow(3 * time.Second)
			<-b.store.Warmed()
			b.expect("k0", Active)
			b.cold("k0")
			b.expect("k0", Active)
			allow(0)
			eventually(t, "a fence refused again", func() bool { return b.store.Status().LastFenceError == "unregistered" })
			b.cold("k0")
			b.expect("k0", Unavailable)
		})
	}
}

// fencedBadly waits until a round that began after this call has failed.
func (b *bench) fencedBadly() {
	b.t.Helper()
	for range 2 {
		beat := b.store.pulse.next()
		b.store.RequestFence(FenceForRequest)
		<-beat
	}
	if b.store.Status().LastFenceError == "" {
		b.t.Fatal("the fence succeeded")
	}
}

// What Postgres keeps of a registration and of reports.
func TestReportOfAnotherHistoryIsStored(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	head := w.last()
	at := Cursor{head.Seq, head.ID}
	by := member(t, w)
	reported := func() (seq *int64) {
		if err := w.conn.QueryRow(context.Background(), `SELECT cursor_seq FROM keysidecar.instances WHERE registration = $1`, by.Registration).Scan(&seq); err != nil {
			t.Fatal(err)
		}
		return seq
	}
	ask := func(at Cursor, timeline string) Page {
		p, err := w.Fence(deadline(t), FenceQuestion{At: at, Limit: 10, By: by, Report: true, Timeline: timeline})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := ask(Cursor{at.Seq, uuid.New()}, "00000001"); p.Known || reported() != nil {
		t.Errorf("a cursor that the log does not know: known %v, stored %v", p.Known, reported())
	}
	if ask(at, "00000002"); reported() != nil {
		t.Error("a cursor of another timeline was stored")
	}
	if p := ask(at, "00000001"); !p.Member || !p.Reported || reported() == nil || *reported() != at.Seq {
		t.Errorf("%+v, stored %v", p, reported())
	}
	w.put(real(1))
	next := w.last()
	if p := ask(at, "00000001"); len(p.Events) == 0 || *reported() != at.Seq {
		t.Errorf("asked from %d, told of %d events, and reported %d", at.Seq, len(p.Events), *reported())
	}
	w.exec(`UPDATE keysidecar.instances SET marked_at = now()`)
	if p := ask(Cursor{next.Seq, next.ID}, "00000001"); p.Member || *reported() != at.Seq {
		t.Errorf("a marked member: %+v, stored %v", p, *reported())
	}
	if _, _, err := fillAs(t, w, "k0", at, by); !errors.Is(err, errNotMember) {
		t.Errorf("a marked member's fill: %v", err)
	}
}

func fillAs(t *testing.T, s Source, id string, at Cursor, by Membership) (k Key, found bool, err error) {
	t.Helper()
	err = s.Fill(deadline(t), id, at, by, func(got Filled) {
		if !got.Member {
			return
		}
		found = got.Row != nil
	})
	if err == nil && !found {
		err = errNotMember
	}
	return k, found, err
}

func TestReceiptOfARunningStoreNeverCompletes(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	b := build(t, pgWorldOn(t, w.dsn)).warm()
	waiter := receipt.Waiter{Reader: w, Clock: b.clock, Known: b.store.Known, ReadTimeout: time.Second}
	for range 3 {
		w.exec(`UPDATE keysidecar.public_keys SET revoked_at = NULL`)
		b.fenced()
		b.expect("k0", Active)
		b.store.Evict(w.revoke("k0"))
		r, err := waiter.Wait(context.Background(), receipt.Target{KeyID: "k0"}, 2*time.Second)
		if err != nil || !r.Complete || len(r.Acknowledged) != 1 || len(r.Awaited) != 0 || r.Kind != "revoked" {
			t.Fatalf("%+v, %v", r, err)
		}
		if at, ok := b.store.Known(timelineOf(&r), r.Seq, r.EventID); !ok || at == 0 {
			t.Error("the store does not remember when it learned of the event")
		}
		b.expect("k0", Revoked)
	}
}

func timelineOf(r *receipt.Receipt) string {
	timeline, _, _ := strings.Cut(r.Registry, "/")
	return timeline
}

// The whole of it, for a plain role.
func TestRegistrationNeedsMoreThanTheSidecarsRole(t *testing.T) {
	dsn := schematest.NewDatabase(t, pgServer)
	w := pgWorldOn(t, dsn)
	w.put(real(0))
	o := pgOptions(dsn + "&options=-c%20role%3Dkeysidecar_sidecar")
	p, err := NewPostgres(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	b := build(t, p).warm()
	b.store.Evict(w.revoke("k0"))
	waiter := receipt.Waiter{Reader: p, Clock: b.clock, ReadTimeout: time.Second}
	if r, err := waiter.Wait(context.Background(), receipt.Target{KeyID: "k0"}, 2*time.Second); err != nil || !r.Complete {
		t.Fatalf("%+v, %v", r, err)
	}
	b.stop()
	var left int
	if err := w.conn.QueryRow(context.Background(), `SELECT count(*) FROM keysidecar.instances`).Scan(&left); err != nil || left != 0 {
		t.Fatalf("%d left after the end, %v", left, err)
	}
}
