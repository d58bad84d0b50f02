package receipt

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

var pgServer *testenv.Postgres

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if pgServer, err = testenv.StartPostgresMain(); err != nil {
		println("start postgres:", err.Error())
		return 1
	}
	code := m.Run()
	if err := pgServer.Close(); err != nil {
		println("close postgres:", err.Error())
		return 1
	}
	if err := goleak.Find(); code == 0 && err != nil {
		println(err.Error())
		return 1
	}
	return code
}

// fakeReader answers as it is told.
type fakeReader struct {
	mu    sync.Mutex
	state State
	err   error
	reads int
	asked []Target
	each  func()
}

func (f *fakeReader) Receipt(ctx context.Context, t Target) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	f.asked = append(f.asked, t)
	if f.each != nil {
		f.each()
	}
	return f.state, errors.Join(f.err, ctx.Err())
}

func (f *fakeReader) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

const bound = 3 * time.Second

func awaiting(names ...string) State {
	s := State{Seq: 7, EventID: uuid.UUID{1}, Kind: "revoked", Acknowledged: []string{"quick"}, Registry: "00000001/5/16000", Trusted: "00000001/5/16000"}
	for _, n := range names {
		s.Awaited = append(s.Awaited, Awaited{n, bound})
	}
	return s
}

func TestReceiptCompletesBeforeTheBound(t *testing.T) {
	c := clock.New()
	f := &fakeReader{state: awaiting("gone")}
	w := &Waiter{Reader: f, Clock: c, ReadTimeout: time.Second}
	begun := c.Sync()
	f.each = func() { c.Advance(50 * time.Millisecond) }
	r, err := w.Wait(context.Background(), Target{KeyID: "k"}, time.Minute)
	if took := c.Sync().Sub(begun); err != nil || !r.Complete || took < bound || r.Elapsed < bound {
		t.Fatalf("complete %v after %v: %v", r.Complete, took, err)
	}
	if !slices.Equal(r.Expired, []string{"gone"}) || len(r.Missing) != 0 || r.Left != 0 {
		t.Errorf("%+v", r)
	}
}

// What has passed while nobody waited counts only if this process can prove it.
func TestWaiterCountsTimeItDidNotSee(t *testing.T) {
	c := clock.New()
	f := &fakeReader{state: awaiting("gone")}
	w := &Waiter{Reader: f, Clock: c, ReadTimeout: time.Second}
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || r.Complete || r.Left <= 2*time.Second || !slices.Equal(r.Missing, []string{"gone"}) {
		t.Fatalf("%+v %v", r, err)
	}
	knew := c.Sync()
	c.Advance(bound)
	w.Known = func(timeline string, seq int64, id uuid.UUID) (clock.Instant, bool) {
		return knew, timeline == "00000001" && seq == 7 && id == uuid.UUID{1}
	}
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || !r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
	f.set(func() { f.state.EventID = uuid.UUID{2} }) // another event under the number
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
}

// A promotion can lose the re-issue that a sidecar has read after the revocation:
// it then answers by that for its bound from the promotion on.
func TestTimeBeforeAPromotionCounts(t *testing.T) {
	c := clock.New()
	f := &fakeReader{state: awaiting("gone")}
	w := &Waiter{Reader: f, Clock: c, ReadTimeout: time.Second}
	n := 0
	var promoted clock.Instant
	f.each = func() {
		c.Advance(20 * time.Millisecond)
		if n++; n == 3 {
			f.state.Registry, promoted = "00000002/5/16000", c.Sync()
		}
	}
	r, err := w.Wait(context.Background(), Target{KeyID: "k"}, time.Minute)
	if err != nil || !r.Complete || promoted == 0 || c.Sync().Sub(promoted) < bound {
		t.Fatalf("%+v %v, %v after the promotion", r, err, c.Sync().Sub(promoted))
	}
	w.Known = func(timeline string, _ int64, _ uuid.UUID) (clock.Instant, bool) { return 1, timeline == "00000001" }
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
}

// A restored backup keeps the timeline; reset() says that it happened.
func TestTimeBeforeARestoreCounts(t *testing.T) {
	c := clock.New()
	s := awaiting()
	s.Wait, s.Trusted = bound, "lost/1"
	f := &fakeReader{state: s}
	w := &Waiter{Reader: f, Clock: c, ReadTimeout: time.Second}
	w.Known = func(string, int64, uuid.UUID) (clock.Instant, bool) { return 1, true }
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
	n := 0
	var again clock.Instant
	f.each = func() {
		c.Advance(20 * time.Millisecond)
		if n++; n == 3 {
			f.state.Trusted, again = "lost/2", c.Sync()
		}
	}
	r, err := w.Wait(context.Background(), Target{KeyID: "k"}, time.Minute)
	if err != nil || !r.Complete || again == 0 || c.Sync().Sub(again) < bound {
		t.Fatalf("%+v %v, %v after the second restore", r, err, c.Sync().Sub(again))
	}
	// The relay's word that the registry is complete again starts nothing anew.
	f.each, f.state.Wait, f.state.Trusted = nil, 0, f.state.Registry
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || !r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
}

// Whoever asks again and again, each time for a moment, must get an answer in the
// end.
func TestEachQuestionBeginsTheWaitAnew(t *testing.T) {
	c := clock.New()
	f := &fakeReader{state: awaiting("gone")}
	var at clock.Instant
	w := &Waiter{Reader: f, Clock: c, ReadTimeout: time.Second}
	w.Known = func(string, int64, uuid.UUID) (clock.Instant, bool) { return at, at != 0 }
	w.Learned = func(_ string, _ int64, _ uuid.UUID, now clock.Instant) { at = now }
	for range 2 {
		r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0)
		if err != nil || r.Complete {
			t.Fatalf("%+v %v", r, err)
		}
	}
	c.Advance(bound)
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || !r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestReceiptIgnoresWhoDoesNotReport(t *testing.T) {
	c := clock.New()
	s := awaiting()
	s.Wait = bound
	f := &fakeReader{state: s}
	w := &Waiter{Reader: f, Clock: c, ReadTimeout: time.Second}
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, 0); err != nil || r.Complete || r.Left <= 0 {
		t.Fatalf("%+v %v", r, err)
	}
	f.each = func() { c.Advance(50 * time.Millisecond) }
	begun := c.Sync()
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, time.Minute); err != nil || !r.Complete || c.Sync().Sub(begun) < bound {
		t.Fatalf("%+v %v", r, err)
	}
}

// The first read fixes the event: a key that is changed again and again must not
// be waited for for ever, and an event that vanishes is not another's receipt.
func TestWaiterFollowsTheKeyInsteadOfTheEvent(t *testing.T) {
	f := &fakeReader{state: awaiting("b")}
	w := &Waiter{Reader: f, Clock: clock.New(), ReadTimeout: time.Second}
	n := 0
	f.each = func() {
		if n++; n == 3 {
			f.state = awaiting()
		}
	}
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, time.Minute); err != nil || !r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
	for _, at := range f.asked[1:] {
		if at != (Target{Seq: 7, HasSeq: true}) {
			t.Fatalf("asked for %+v", at)
		}
	}
	for name, vanish := range map[string]func(){
		"another event under the number": func() { f.state.EventID = uuid.UUID{9} },
		"no event under the number":      func() { f.err = ErrNoEvent },
	} {
		f.state, f.err, n = awaiting("b"), nil, 0
		f.each = func() {
			if n++; n == 2 {
				vanish()
			}
		}
		if _, err := w.Wait(context.Background(), Target{KeyID: "k"}, time.Minute); !errors.Is(err, ErrLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWaiterGivesUpAtAFailedRead(t *testing.T) {
	down := errors.New("connection refused")
	f := &fakeReader{err: down}
	w := &Waiter{Reader: f, Clock: clock.New(), ReadTimeout: time.Second}
	if _, err := w.Wait(context.Background(), Target{KeyID: "k"}, 20*time.Millisecond); !errors.Is(err, down) || f.reads < 2 {
		t.Fatalf("%v after %d reads", err, f.reads)
	}
	n := 0
	f.each = func() {
		if n++; n > 3 {
			f.err, f.state = nil, awaiting()
		}
	}
	if r, err := w.Wait(context.Background(), Target{KeyID: "k"}, time.Minute); err != nil || !r.Complete {
		t.Fatalf("%+v %v", r, err)
	}
	f.each, f.state = nil, awaiting("b")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Wait(ctx, Target{KeyID: "k"}, time.Minute); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestNamesOfALargeFleetFillTheAnswer(t *testing.T) {
	s := awaiting()
	for range 1000 {
		s.Acknowledged = append(s.Acknowledged, "x")
	}
	r := s.judge(0)
	if a := r.Answer(); a.Acknowledged.Count != 1001 || len(a.Acknowledged.Names) != 100 || a.Awaited.Names == nil {
		t.Errorf("%d of %d", len(a.Acknowledged.Names), a.Acknowledged.Count)
	}
}

// registry is a database with a registry to play with.
type registry struct {
	t *testing.T
	*pgx.Conn
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), schematest.NewDatabase(t, pgServer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	r := &registry{t, conn}
	r.do(`INSERT INTO keysidecar.owners VALUES ('m')`)
	r.do(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('k', 'm', 'opaque'), ('l', 'm', 'opaque')`)
	return r
}

func (r *registry) do(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.Exec(context.Background(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *registry) register(name string, boundMS, staleMS int64) (id uuid.UUID) {
	r.t.Helper()
	id = uuid.New()
	policy := "fail_closed"
	if staleMS > 0 {
		policy = "serve_stale"
	}
	r.do(`SELECT keysidecar.register($1, $2, $3, $4, $5, 'test')`, id, name, boundMS, staleMS, policy)
	return id
}

// report puts down the head as the cursor of id.
func (r *registry) report(id uuid.UUID, timeline string) {
	r.t.Helper()
	r.do(`UPDATE keysidecar.instances SET (cursor_seq, cursor_event) = (SELECT seq, event_id FROM keysidecar.events ORDER BY seq DESC LIMIT 1), timeline = $2 WHERE registration = $1`, id, timeline)
}

func (r *registry) read(t Target) State {
	r.t.Helper()
	s, err := Read(context.Background(), r.Conn, t)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *registry) sqlComplete(key string) (complete bool) {
	r.t.Helper()
	if err := r.QueryRow(context.Background(), `SELECT complete FROM keysidecar.receipt($1::text)`, key).Scan(&complete); err != nil {
		r.t.Fatal(err)
	}
	return complete
}

const timeline = "00000001"

func TestUnacknowledgedRevocationHasAReceipt(t *testing.T) {
	r := newRegistry(t)
	a, b := r.register("a", 3000, 0), r.register("b", 2000, 60_000)
	r.do(`SELECT keysidecar.revoke_key('k')`)
	k := Target{KeyID: "k"}
	s := r.read(k)
	if s.Kind != "revoked" || s.KeyID != "k" || s.OwnerID != "m" || s.Actor == "" || len(s.Acknowledged) != 0 || s.Wait != 0 ||
		!slices.Equal(s.Awaited, []Awaited{{"a", 3 * time.Second}, {"b", time.Minute}}) {
		t.Fatalf("%+v", s)
	}
	r.report(a, timeline)
	if s = r.read(k); !slices.Equal(s.Acknowledged, []string{"a"}) || len(s.Awaited) != 1 || r.sqlComplete("k") {
		t.Fatalf("%+v", s)
	}
	r.report(b, "00000002") // of another history
	if s = r.read(k); len(s.Awaited) != 1 {
		t.Fatalf("%+v", s)
	}
	r.report(b, timeline)
	if s = r.read(k); len(s.Awaited) != 0 || !r.sqlComplete("k") {
		t.Fatalf("%+v", s)
	}
	// A marked row counts until it is deleted.
	late := r.register("late", 3000, 0)
	r.do(`UPDATE keysidecar.instances SET marked_at = now() WHERE registration = $1`, late)
	if s = r.read(k); len(s.Awaited) != 1 {
		t.Fatalf("%+v", s)
	}
	r.do(`SELECT keysidecar.sign_off($1)`, late)
	if s = r.read(k); len(s.Awaited) != 0 {
		t.Fatalf("%+v", s)
	}
	late = r.register("late", 3000, 0)
	r.do(`SELECT keysidecar.register($1, 'late', 3000, 0, 'fail_closed', 'test', ARRAY[$2::uuid])`, uuid.New(), late)
	if s = r.read(k); len(s.Awaited) != 1 {
		t.Fatalf("a failed registration was kept: %+v", s)
	}
	// One of the same name that starts marks what it left behind; one that lives does
	// not.
	marked := func() (n int) {
		if err := r.QueryRow(context.Background(), `SELECT count(*) FROM keysidecar.instances WHERE instance = 'late' AND marked_at IS NOT NULL`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	r.register("late", 3000, 0)
	if marked() != 0 {
		t.Error("marked by a process that was registered before")
	}
	r.do(`SELECT keysidecar.register($1, 'late', 3000, 0, 'fail_closed', 'test', '{}', true)`, uuid.New())
	if marked() != 2 {
		t.Errorf("%d marked by a process that starts", marked())
	}
	r.do(`SELECT keysidecar.forget_instance('late')`)
	if s = r.read(k); len(s.Awaited) != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestReceiptIsForAnotherEvent(t *testing.T) {
	r := newRegistry(t)
	r.do(`SELECT keysidecar.suspend_owner('m'), keysidecar.reactivate_owner('m')`)
	r.do(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('n', 'm', 'opaque')`)
	if s, err := Read(context.Background(), r.Conn, Target{KeyID: "n"}); !errors.Is(err, ErrNoEvent) {
		t.Errorf("an active key, issued after its owner changed: %+v %v", s, err)
	}
	r.do(`UPDATE keysidecar.public_keys SET expires_at = now() WHERE key_id = 'n'`)
	if s := r.read(Target{KeyID: "n"}); s.Kind != "changed" {
		t.Errorf("changed after its owner: %+v", s)
	}
	r.do(`SELECT keysidecar.revoke_key('k')`)
	revoked := r.read(Target{KeyID: "k"})
	r.do(`UPDATE keysidecar.public_keys SET scopes = '{pay}' WHERE key_id = 'k'`)
	if s := r.read(Target{KeyID: "k"}); s.Seq != revoked.Seq || s.Superseded {
		t.Errorf("changed after its revocation: %+v", s)
	}
	r.do(`UPDATE keysidecar.public_keys SET revoked_at = NULL WHERE key_id = 'k'`)
	if s := r.read(Target{KeyID: "k"}); s.Seq != revoked.Seq || !s.Superseded {
		t.Errorf("undone: %+v", s)
	}
	r.do(`DELETE FROM keysidecar.public_keys WHERE key_id = 'k'`)
	if s := r.read(Target{KeyID: "k"}); s.Kind != "deleted" || s.Superseded {
		t.Errorf("deleted: %+v", s)
	}
	r.do(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('k', 'm', 'opaque')`)
	if s := r.read(Target{KeyID: "k"}); s.Kind != "deleted" || !s.Superseded {
		t.Errorf("issued again: %+v", s)
	}
	r.do(`SELECT keysidecar.suspend_owner('m')`)
	suspended := r.read(Target{OwnerID: "m"})
	if suspended.Kind != "owner_changed" || suspended.OwnerID != "m" || suspended.Superseded {
		t.Errorf("owner: %+v", suspended)
	}
	for _, key := range []string{"k", "l"} { // issued again after its deletion; never changed
		if s := r.read(Target{KeyID: key}); s.Seq != suspended.Seq {
			t.Errorf("%s, whose owner was suspended: %+v", key, s)
		}
	}
	r.do(`SELECT keysidecar.revoke_key('k')`)
	if s := r.read(Target{KeyID: "k"}); s.Kind != "revoked" {
		t.Errorf("revoked while its owner is suspended: %+v", s)
	}
	r.do(`SELECT keysidecar.reactivate_owner('m')`)
	if s := r.read(Target{KeyID: "l"}); s.Kind != "owner_changed" || !s.Superseded {
		t.Errorf("owner reactivated: %+v", s)
	}
	r.do(`TRUNCATE keysidecar.public_keys`)
	truncated := r.read(Target{KeyID: "l"})
	if truncated.Kind != "reset" {
		t.Errorf("truncated: %+v", truncated)
	}
	if s := r.read(Target{Seq: truncated.Seq, HasSeq: true}); s.EventID != truncated.EventID {
		t.Errorf("by seq: %+v", s)
	}
	for _, none := range []Target{{KeyID: "never"}, {OwnerID: "never"}, {Seq: 999, HasSeq: true}} {
		if _, err := Read(context.Background(), r.Conn, none); !errors.Is(err, ErrNoEvent) {
			t.Errorf("%+v: %v", none, err)
		}
	}
	if _, err := Read(context.Background(), r.Conn, Target{}); err == nil {
		t.Error("a receipt for nothing")
	}
}

// Lowering what unregistered sidecars may use must not shorten a receipt before the
// relay has waited for them.
func TestUnregisteredSidecarsAreNotWaitedFor(t *testing.T) {
	r := newRegistry(t)
	r.do(`SELECT keysidecar.revoke_key('k')`)
	wait := func() time.Duration { return r.read(Target{KeyID: "k"}).Wait }
	if wait() != 0 {
		t.Fatal(wait())
	}
	r.do(`SELECT keysidecar.allow_unreported('5 s')`)
	if wait() != 5*time.Second || r.sqlComplete("k") {
		t.Error(wait())
	}
	r.do(`SELECT keysidecar.allow_unreported('2 s')`)
	if wait() != 5*time.Second {
		t.Error(wait())
	}
	r.do(`SELECT keysidecar.allow_unreported(NULL)`)
	if wait() != 5*time.Second {
		t.Error(wait())
	}
	r.do(`INSERT INTO keysidecar.settings VALUES ('fleet.unreported_ms', '7000')`)
	if wait() != 7*time.Second {
		t.Error(wait())
	}
	if _, err := r.Exec(context.Background(), `UPDATE keysidecar.settings SET value = '5s' WHERE name = 'fleet.unreported_ms'`); err == nil {
		t.Error("a time that no sidecar can read was taken")
	}
}

func TestLostRegistryIsTrusted(t *testing.T) {
	r := newRegistry(t)
	r.do(`SELECT keysidecar.revoke_key('k')`)
	id := r.register("a", 4000, 0)
	r.report(id, timeline)
	r.do(`SELECT keysidecar.sign_off($1)`, id)
	for _, lost := range []string{`TRUNCATE keysidecar.instances`, `SELECT keysidecar.reset()`, `UPDATE keysidecar.registry SET identity = '00000000/1/1'`} {
		r.do(lost)
		if s := r.read(Target{KeyID: "k"}); s.Wait != 4*time.Second {
			t.Errorf("after %s: %v", lost, s.Wait)
		}
		r.do(`UPDATE keysidecar.registry SET identity = keysidecar.registry_identity()`)
		if s := r.read(Target{KeyID: "k"}); s.Wait != 0 {
			t.Errorf("trusted again after %s: %v", lost, s.Wait)
		}
	}
}

func TestStandbyGivesReceipts(t *testing.T) {
	primary := testenv.StartPostgres(t)
	dsn := schematest.NewDatabase(t, primary)
	standby := primary.StartStandby(t)
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(context.Background(), standby.DSN(cfg.Database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if s, err := Read(context.Background(), conn, Target{HasSeq: true}); err == nil || errors.Is(err, ErrNoEvent) {
		t.Fatalf("%+v %v", s, err)
	}
}

// TRUNCATE empties a table for older snapshots as well. One that waited for its lock
// sees no sidecar, and a registry that is still trusted.
func TestARegistryLostWhileItIsReadCompletesAReceipt(t *testing.T) {
	t.Parallel()
	dsn := schematest.NewDatabase(t, pgServer)
	connect := func() *pgx.Conn {
		c, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return c
	}
	loser, reader, watcher := connect(), connect(), connect()
	for _, sql := range []string{
		`SELECT keysidecar.register(gen_random_uuid(), 'a', 3000, 3000, 'fail_closed', 'test')`,
		`BEGIN`, `TRUNCATE keysidecar.instances`,
	} {
		if _, err := loser.Exec(t.Context(), sql); err != nil {
			t.Fatal(sql, err)
		}
	}
	read := make(chan State, 1)
	failed := make(chan error, 1)
	go func() {
		s, err := Read(t.Context(), reader, Target{Seq: 0, HasSeq: true})
		failed <- err
		read <- s
	}()
	for waits := false; !waits; {
		if err := watcher.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = $1)`,
			reader.PgConn().PID()).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := loser.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if s := <-read; len(s.Awaited) == 0 && s.Wait == 0 {
		t.Errorf("nothing is waited for: %+v", s)
	}
}
