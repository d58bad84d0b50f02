package relay

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/prometheus/client_golang/prometheus"
)

// keeper is a relay that does nothing but the registry's chores, when it is told.
type keeper struct {
	*Relay
	t *testing.T
	k *registryKeeper
}

func newKeeper(t *testing.T, s *site) *keeper {
	t.Helper()
	r, err := New(Options{
		DSN: func() (string, error) { return s.dsn, nil }, URLs: func() ([]string, error) { return nil, nil },
		Exchange: exchange, PollInterval: time.Second, Batch: 1, Retention: time.Hour, Wakeup: WakeupPoll,
		Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{r, t, r.keeper}
}

func (k *keeper) once() {
	k.t.Helper()
	if err := k.registryOnce(context.Background(), k.k); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeper) pass(d time.Duration) { k.clock.Advance(d) }

func (s *site) registered(t *testing.T) int64 {
	t.Helper()
	return s.int(t, "SELECT count(*) FROM keysidecar.instances")
}

func TestSidecarIsPrunedWhileItMayAnswer(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	s.exec(t, `SELECT keysidecar.register(gen_random_uuid(), 'a', 3000, 0, 'fail_closed', 'test'), keysidecar.register(gen_random_uuid(), 'b', 2000, 60000, 'serve_stale', 'test')`)
	k.once()
	if n := s.int(t, "SELECT count(*) FROM keysidecar.instances WHERE marked_at IS NOT NULL"); n != 0 || s.int(t, "SELECT size FROM keysidecar.registry") != 2 {
		t.Fatalf("%d were marked at once", n)
	}
	for range 4 { // a minute or so each: whoever does not look for longer has seen nothing
		k.pass(k.limits.silent / 4)
		k.once()
	}
	if n := s.int(t, "SELECT count(*) FROM keysidecar.instances WHERE marked_at IS NOT NULL"); n != 2 {
		t.Fatalf("%d were marked", n)
	}
	k.pass(2900 * time.Millisecond)
	k.once()
	if n := s.registered(t); n != 2 {
		t.Fatalf("%d are left before the bound", n)
	}
	other := newKeeper(t, s) // a new leader has seen nothing yet
	other.once()
	if n := s.registered(t); n != 2 {
		t.Fatalf("%d are left after a change of leaders", n)
	}
	k.pass(100 * time.Millisecond)
	k.once()
	if n := s.registered(t); n != 1 {
		t.Fatalf("%d are left after the first one's bound", n)
	}
	k.pass(56 * time.Second)
	k.once()
	if n := s.registered(t); n != 1 {
		t.Fatalf("%d are left within the stale limit", n)
	}
	k.pass(2 * time.Second)
	k.once()
	if n := s.registered(t); n != 0 {
		t.Fatalf("%d are left", n)
	}
}

// While the database is away nobody can report, and nobody is gone.
func TestOutageMarksTheWholeFleet(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	s.exec(t, `SELECT keysidecar.register(gen_random_uuid(), 'a', 3000, 0, 'fail_closed', 'test')`)
	k.once()
	k.pass(time.Hour)
	k.once()
	k.pass(k.limits.silent / 4)
	k.once()
	if n := s.int(t, "SELECT count(*) FROM keysidecar.instances WHERE marked_at IS NOT NULL"); n != 0 {
		t.Fatalf("%d were marked after an hour without a look", n)
	}
	// A report begins it anew.
	for range 20 {
		k.pass(k.limits.silent / 4)
		s.exec(t, `UPDATE keysidecar.instances SET reported_at = clock_timestamp()`)
		k.once()
	}
	if n := s.int(t, "SELECT count(*) FROM keysidecar.instances WHERE marked_at IS NOT NULL"); n != 0 {
		t.Fatalf("%d were marked that report", n)
	}
}

func TestNewMarkCountsFromAnOldOne(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	s.exec(t, `SELECT keysidecar.register(gen_random_uuid(), 'a', 3000, 0, 'fail_closed', 'test')`)
	s.exec(t, `UPDATE keysidecar.instances SET marked_at = now()`)
	k.once()
	k.pass(2 * time.Second)
	s.exec(t, `UPDATE keysidecar.instances SET marked_at = clock_timestamp()`)
	k.once()
	k.pass(2 * time.Second)
	k.once()
	if n := s.registered(t); n != 1 {
		t.Fatal("pruned two seconds after its mark")
	}
}

func TestLostRegistryIsTrustedBeforeTheLongestBound(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	s.exec(t, `SELECT keysidecar.register(gen_random_uuid(), 'a', 5000, 0, 'fail_closed', 'test')`)
	trusted := func() bool {
		return s.int(t, "SELECT count(*) FROM keysidecar.registry WHERE identity = keysidecar.registry_identity()") == 1
	}
	s.exec(t, `TRUNCATE keysidecar.instances`)
	k.once()
	k.pass(4900 * time.Millisecond)
	k.once()
	if trusted() {
		t.Fatal("trusted before the longest bound")
	}
	s.exec(t, `SELECT keysidecar.reset()`) // lost once more, meanwhile
	k.pass(time.Second)
	k.once()
	if trusted() {
		t.Fatal("trusted too soon after the second loss")
	}
	k.pass(5 * time.Second)
	k.once()
	if !trusted() {
		t.Fatal("never trusted again")
	}
}

func TestLessForUnregisteredSidecarsCountsAtOnce(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	wait := func() int64 { return s.int(t, "SELECT unreported_ms FROM keysidecar.registry") }
	s.exec(t, `SELECT keysidecar.allow_unreported('5 s')`)
	s.exec(t, `SELECT keysidecar.allow_unreported('1 s')`)
	k.once()
	k.pass(4 * time.Second)
	s.exec(t, `SELECT keysidecar.allow_unreported('5 s')`) // somebody may have used it
	s.exec(t, `SELECT keysidecar.allow_unreported('1 s')`)
	k.once()
	k.pass(2 * time.Second)
	k.once()
	if wait() != 5000 {
		t.Fatalf("receipts wait %d ms", wait())
	}
	k.pass(3 * time.Second)
	k.once()
	if wait() != 1000 {
		t.Fatalf("receipts wait %d ms", wait())
	}
}
