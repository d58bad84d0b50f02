package relay

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/rabbit"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

func TestSixteenWritersAreHeardOnceAndInCommitOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := start(t, s, nil)
	f.untilLeader(t)
	const writers, transactions, keys = 16, 250, 5
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range transactions {
				_, err := s.db.Exec(context.Background(), `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm)
					SELECT format('pk_%s_%s_%s', $1::int, $2::int, n), 'm_1', 'opaque' FROM generate_series(1, $3) n`, w, i, keys)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.untilPublished(t)
	s.allSeen(t, 0, true)
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	if n := len(s.seen.order); n != writers*transactions*keys {
		t.Fatalf("%d events", n)
	}
	prev := int64(0)
	for _, e := range s.seen.order {
		if e.Seq <= prev || e.Prev != prev {
			t.Fatalf("after %d came %d, which names %d", prev, e.Seq, e.Prev)
		}
		prev = e.Seq
	}
	if f.value(t, "published_total") != writers*transactions*keys || f.value(t, "publish_lag_seconds") != writers*transactions*keys {
		t.Errorf("published %v, lag of %v", f.value(t, "published_total"), f.value(t, "publish_lag_seconds"))
	}
	if f.value(t, "backlog") != 0 || f.value(t, "leader") != 1 || f.value(t, "connected") != 1 {
		t.Errorf("backlog %v", f.value(t, "backlog"))
	}
}

func TestHoleInTheNumberingIsNamedByItsPredecessor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.issue(t, 1)
	if _, err := s.db.Exec(t.Context(), "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO keysidecar.owners (owner_id, suspended_at) VALUES ('m_2', now()); ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	s.issue(t, 1)
	f := start(t, s, nil)
	s.untilPublished(t)
	f.stop()
	if len(s.seen.order) != 2 || s.seen.order[1].Seq != 3 || s.seen.order[1].Prev != 1 {
		t.Fatalf("%+v", s.seen.order)
	}
}

func TestPollingPublishesWithoutNotifications(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := start(t, s, func(o *Options) { o.Wakeup = WakeupPoll })
	f.untilLeader(t)
	for range 5 {
		s.issue(t, 3)
		s.untilPublished(t)
	}
	if n := s.int(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'keysidecar-relay-listen'"); n != 0 {
		t.Error("it listens all the same")
	}
}

func TestLostListenConnectionIsReplacedByPollingAndMadeAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := start(t, s, nil)
	f.untilLeader(t)
	listeners := "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'keysidecar-relay-listen'"
	eventually(t, "a LISTEN connection", func() bool { return s.int(t, listeners) == 1 })
	s.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'keysidecar-relay-listen'")
	s.issue(t, 1)
	s.untilPublished(t)
	eventually(t, "another LISTEN connection", func() bool { return s.int(t, listeners) == 1 })
	s.issue(t, 1)
	s.untilPublished(t)
	if !f.Status().Leader || f.logs.FilterMessage("no longer leading").Len() > 0 {
		t.Error("it cost the lead")
	}
}

// The event is with the broker and the mark is not written: the moment in which
// a crash costs duplicates, and must not cost events.
func TestDeathBetweenPublishingAndMarkingLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := prepare(t, s, nil)
	var deaths atomic.Int32
	f.hooks.beforeMark = func(seq int64) error {
		if deaths.Add(1) <= 5 {
			return fmt.Errorf("failpoint before the mark at %d", seq)
		}
		return nil
	}
	f.run(t)
	for range 10 {
		s.issue(t, 20)
	}
	s.untilPublished(t)
	s.allSeen(t, 0, false)
	if n := s.seen.repeats(); n == 0 || deaths.Load() < 5 {
		t.Errorf("%d duplicates after %d deaths: the failpoint did not bite", n, deaths.Load())
	}
}

func TestOrderlyStopLeavesNothingToRepeat(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for i := range 5 {
		f := start(t, s, nil)
		f.untilLeader(t)
		s.issue(t, 200)
		if i%2 == 0 {
			s.untilPublished(t)
		}
		f.stop()
		if st := f.Status(); st.Leader || st.Connected {
			t.Fatalf("after the end: %+v", st)
		}
	}
	start(t, s, nil)
	s.untilPublished(t)
	s.allSeen(t, 0, true)
}

func TestAnotherRelayLeadsWhenTheLeaderIsKilledOrPaused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	leader := startChild(t, s)
	leader.until(t, "leader true")
	other := startChild(t, s)
	s.issue(t, 10)
	s.untilPublished(t)

	begin := time.Now()
	if err := leader.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.issue(t, 10)
	other.until(t, "leader true")
	t.Logf("after a pause: %v", time.Since(begin).Round(time.Millisecond))
	s.untilPublished(t)
	if err := leader.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	leader.until(t, "leader false")

	begin = time.Now()
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.issue(t, 10)
	leader.until(t, "leader true")
	t.Logf("after a kill: %v", time.Since(begin).Round(time.Millisecond))
	s.untilPublished(t)
	s.allSeen(t, 0, false)
}

func TestLeaderCutOffFromPostgresStepsDownAndAnotherTakesOver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	proxy := testenv.NewProxy(t, pg.Addr())
	f := start(t, s, func(o *Options) { o.DSN = func() (string, error) { return testenv.Via(s.dsn, proxy.Addr()), nil } })
	f.untilLeader(t)
	other := start(t, s, nil)
	s.issue(t, 5)
	s.untilPublished(t)
	begin := time.Now()
	proxy.Freeze()
	s.issue(t, 5)
	eventually(t, "the other's lead", func() bool { return other.Status().Leader })
	took := time.Since(begin)
	eventually(t, "stepping down", func() bool { return !f.Status().Leader })
	if down := time.Since(begin); down > 6*time.Second {
		t.Errorf("it stepped down after %v", down)
	}
	t.Logf("taken over after %v", took.Round(time.Millisecond))
	s.untilPublished(t)
	proxy.Thaw()
	s.issue(t, 5)
	s.untilPublished(t)
	s.allSeen(t, 0, false)
}

func TestPostgresStoppedKilledPausedAndBack(t *testing.T) {
	t.Parallel()
	own := testenv.StartPostgres(t, testenv.WithFsync())
	s := siteOn(t, own, broker.NewVhost(t))
	f := start(t, s, nil)
	for _, c := range []struct {
		name     string
		do, undo func() error
	}{{"stop", own.Stop, own.Start}, {"kill", own.Kill, own.Start}, {"pause", own.Pause, own.Resume}} {
		f.untilLeader(t)
		s.issue(t, 5)
		s.untilPublished(t)
		begin := time.Now()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		eventually(t, "stepping down after "+c.name, func() bool { return !f.Status().Leader })
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("%s: it stepped down after %v", c.name, took)
		}
		eventually(t, "an error to show after "+c.name, func() bool { return f.Status().DatabaseError != "" })
		if err := c.undo(); err != nil {
			t.Fatalf("after %s: %v", c.name, err)
		}
		begin = time.Now()
		s.db.Reset() // the test's own connections are lost, too
		f.untilLeader(t)
		t.Logf("%s: leading again %v after the server was back", c.name, time.Since(begin).Round(time.Millisecond))
	}
	s.issue(t, 5)
	s.untilPublished(t)
	s.allSeen(t, 0, false)

	// The address may come to mean a standby, where advisory locks can be had, too.
	signal := filepath.Join(own.SocketDir(), "data", "standby.signal")
	if err := errors.Join(own.Stop(), os.WriteFile(signal, nil, 0o644), own.Start()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby to be refused", func() bool { return f.Status().DatabaseError == "standby" })
	if err := errors.Join(own.Stop(), os.Remove(signal), own.Start()); err != nil {
		t.Fatal(err)
	}
	f.untilLeader(t)
	s.db.Reset()
}

func TestBrokerAlarmedStoppedKilledPausedAndBackLosesNothing(t *testing.T) {
	t.Parallel()
	own := testenv.StartRabbitMQ(t)
	s := siteOn(t, pg, own.URL())
	f := prepare(t, s, func(o *Options) { o.Persistent = true })
	f.limits.confirm = 200 * time.Millisecond
	f.run(t)
	s.issue(t, 10)
	s.untilPublished(t)
	if _, err := own.Ctl("set_vm_memory_high_watermark", "0.00001"); err != nil {
		t.Fatal(err)
	}
	s.issue(t, 3000)
	mark := s.published(t)
	// Longer than confirms may take when nothing is wrong.
	pause(t.Context(), 5*f.limits.confirm)
	if n := s.published(t); n > mark+1000 {
		t.Errorf("%d events were published during the alarm", n-mark)
	}
	if _, err := own.Ctl("set_vm_memory_high_watermark", "0.4"); err != nil {
		t.Fatal(err)
	}
	s.untilPublished(t)
	for _, c := range []struct {
		name     string
		do, undo func() error
	}{{"stop", own.Stop, own.Start}, {"kill", own.Kill, own.Start}, {"pause", own.Pause, own.Resume}} {
		s.issue(t, 50)
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		s.issue(t, 1000)
		if err := c.undo(); err != nil {
			t.Fatalf("after %s: %v", c.name, err)
		}
		begin := time.Now()
		s.untilPublished(t)
		t.Logf("%s: all published %v after the broker was back", c.name, time.Since(begin).Round(time.Millisecond))
	}
	s.allSeen(t, 0, false)
	f.noneRefused(t)
	if f.logs.FilterMessage("leading").Len() != 1 {
		t.Error("the broker's faults cost the lead, though nobody else waited for it")
	}
}

// What is kept on disk takes the broker twice the processor time for each queue.
func TestMessagesAreKeptOnDiskOnlyIfAskedFor(t *testing.T) {
	t.Parallel()
	for persistent, want := range map[bool]uint8{false: amqp.Transient, true: amqp.Persistent} {
		s := newSite(t)
		start(t, s, func(o *Options) { o.Persistent = persistent })
		s.issue(t, 3)
		s.untilPublished(t)
		s.allSeen(t, 0, true)
		s.seen.mu.Lock()
		for seq, mode := range s.seen.modes {
			if mode != want {
				t.Errorf("Persistent %v: event %d has delivery mode %d", persistent, seq, mode)
			}
		}
		s.seen.mu.Unlock()
	}
}

func TestHalfOpenBrokerConnectionIsLeftForAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	proxy := testenv.NewProxy(t, broker.Addr())
	f := prepare(t, s, func(o *Options) {
		o.URLs = func() ([]string, error) { return []string{testenv.Via(s.url, proxy.Addr()), s.url}, nil }
	})
	f.limits.confirm = 500 * time.Millisecond
	f.dial.Heartbeat = time.Hour
	f.dial.DialTimeout = 500 * time.Millisecond
	f.run(t)
	s.issue(t, 10)
	s.untilPublished(t)
	proxy.Freeze()
	s.issue(t, 2000) // more than a batch
	s.untilPublished(t)
	if st := f.Status(); st.Host != broker.Addr() {
		t.Errorf("status %+v", st)
	}
	s.allSeen(t, 0, false)
	if f.value(t, "republished_total", "unknown") == 0 {
		t.Error("no publication was repeated")
	}
	f.noneRefused(t)
	// What the lost connection left open goes before what is newer.
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	newest := int64(0)
	for _, e := range s.seen.order {
		if e.Seq > newest+1 {
			t.Fatalf("%d came before %d", e.Seq, newest+1)
		}
		newest = max(newest, e.Seq)
	}
}

func TestDeletedExchangeIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := start(t, s, nil)
	s.issue(t, 1)
	s.untilPublished(t)
	ch := channel(t, s.url)
	if err := ch.ExchangeDelete(exchange, false, false); err != nil {
		t.Fatal(err)
	}
	s.issue(t, 5)
	head := s.head(t)
	eventually(t, "the mark", func() bool { return s.published(t) == head })
	if err := ch.ExchangeDeclarePassive(exchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		t.Error(err)
	}
	if f.value(t, "reconnects_total", string(rabbit.NotFound)) != 1 {
		t.Error("the reason is not counted")
	}
	f.noneRefused(t)
}

// noneRefused checks that a lost connection was not taken for a refusal, which is
// not repeated for ever.
func (f *fixture) noneRefused(t *testing.T) {
	t.Helper()
	if f.value(t, "republished_total", "refused") != 0 || f.value(t, "given_up_total") != 0 {
		t.Error("a lost connection was taken for a refusal")
	}
}

func TestQueueThatRefusesHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ch := channel(t, s.url)
	if _, err := ch.QueueDeclare("full", true, false, false, false, amqp.Table{"x-max-length": int64(1), "x-overflow": "reject-publish"}); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("full", "", exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	f := prepare(t, s, func(o *Options) { o.Batch = 10 })
	f.limits.retryMin, f.limits.attempts = 10*time.Millisecond, 3
	f.run(t)
	s.issue(t, 300)
	// Each event is refused by the full queue and reaches the other one; events
	// beyond the batch do not wait for the repetitions.
	s.untilPublished(t)
	s.allSeen(t, 0, false)
	if n := f.value(t, "given_up_total", "refused"); n < 290 || n > 300 {
		t.Errorf("%v events given up", n)
	}
	if n := f.value(t, "republished_total", "refused"); n < 2*290 {
		t.Errorf("%v repetitions", n)
	}
	if _, err := ch.QueueDelete("full", false, false, false); err != nil {
		t.Fatal(err)
	}
	before := f.value(t, "given_up_total")
	s.issue(t, 10)
	s.untilPublished(t)
	if f.value(t, "given_up_total") != before {
		t.Error("events are given up though every queue takes them")
	}
}

func TestLeaderWithoutABrokerLetsAnotherTry(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	nowhere := testenv.NewProxy(t, broker.Addr())
	if err := nowhere.Refuse(true); err != nil {
		t.Fatal(err)
	}
	f := prepare(t, s, func(o *Options) {
		o.URLs = func() ([]string, error) { return []string{testenv.Via(s.url, nowhere.Addr())}, nil }
	})
	f.limits.brokerless = 300 * time.Millisecond
	f.run(t)
	f.untilLeader(t)
	eventually(t, "a reason to show", func() bool { return f.Status().LastError == rabbit.Unreachable })
	s.issue(t, 5)
	other := start(t, s, nil)
	s.untilPublished(t)
	if !other.Status().Leader || other.Status().Host != broker.Addr() {
		t.Errorf("status %+v", other.Status())
	}
	if f.logs.FilterMessage("no broker reached, letting another relay lead").Len() != 1 {
		t.Error("it did not say why")
	}
}

func TestWithoutABrokerTheHouseIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := start(t, s, func(o *Options) { o.URLs = func() ([]string, error) { return nil, nil } })
	f.untilLeader(t)
	eventually(t, "housekeeping", func() bool { return f.value(t, "capture_intact") == 1 })
	eventually(t, "a reason to show", func() bool { return f.Status().LastError == rabbit.NotSet })
}

func TestReplayPublishesAgainFromThere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := start(t, s, nil)
	s.issue(t, 100)
	s.untilPublished(t)
	for _, c := range []struct{ from, want int64 }{{51, 50}, {100, 1}, {101, 0}, {5000, 0}, {0, 101}} {
		s.seen.mu.Lock()
		before := len(s.seen.order)
		s.seen.mu.Unlock()
		n, _, err := f.Replay(t.Context(), c.from)
		if err != nil || n != c.want {
			t.Fatalf("from %d: %d events, %v; want %d", c.from, n, err, c.want)
		}
		s.seen.until(t, fmt.Sprintf("the replay from %d", c.from), func() bool { return len(s.seen.order) >= before+int(n) })
		s.seen.mu.Lock()
		for i, e := range s.seen.order[before:] {
			if e.Seq != c.from+int64(i) || e.Prev != e.Seq-1 {
				t.Errorf("from %d: event %d names %d", c.from, e.Seq, e.Prev)
			}
		}
		s.seen.mu.Unlock()
		eventually(t, "the mark", func() bool { return s.published(t) == 100 })
	}
	if _, _, err := f.Replay(t.Context(), -1); err == nil {
		t.Error("a negative seq is accepted")
	}
	if _, _, err := Replay(t.Context(), "host=/nowhere password="+password+" port=x", 1); err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("a bad connection string: %v", err)
	}
}

func TestMarkBeyondTheLogIsRewound(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.issue(t, 100)
	s.exec(t, "UPDATE keysidecar.relay SET published_seq = 5000")
	f := prepare(t, s, nil)
	f.limits.keepNewest = 40
	f.run(t)
	s.untilPublished(t)
	eventually(t, "the mark", func() bool { return s.published(t) == 100 })
	s.allSeen(t, 60, true)
	if n := f.logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
		t.Errorf("%d errors logged", n)
	}
	// The same while it leads.
	s.exec(t, "UPDATE keysidecar.relay SET published_seq = 7000")
	s.issue(t, 1)
	s.untilPublished(t)
	eventually(t, "the mark", func() bool { return s.published(t) == 101 })
	s.allSeen(t, 60, false)
}

func TestEventThatNoMessageCanHoldIsPassedOver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := start(t, s, nil)
	s.exec(t, "INSERT INTO keysidecar.events (seq, kind, key_id, owner_id, actor) VALUES (nextval('keysidecar.seq'), 'revoked', repeat('k', 300), 'm_1', 'test')")
	s.issue(t, 1)
	s.untilPublished(t)
	if f.value(t, "given_up_total", "unsendable") != 1 || f.logs.FilterLevelExact(zap.ErrorLevel).Len() != 1 {
		t.Errorf("given up %v", f.value(t, "given_up_total"))
	}
}

func TestHousekeepingPrunesAndSeesBrokenCapture(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.issue(t, 300)
	s.exec(t, "UPDATE keysidecar.events SET occurred_at = now() - interval '2 hours' WHERE seq <= 250")
	f := prepare(t, s, nil)
	f.limits.keepNewest, f.limits.prunePage, f.limits.housekeeping = 100, 30, 50*time.Millisecond
	f.run(t)
	remaining := func() int64 { return s.int(t, "SELECT min(seq) FROM keysidecar.events") }
	// 250 are past their retention, but the newest 100 of 301 stay: 201 to 300.
	eventually(t, "pruning", func() bool { return remaining() == 201 })
	s.issue(t, 100)
	eventually(t, "pruning to the retention", func() bool { return remaining() == 251 })
	s.issue(t, 100)
	s.untilPublished(t)
	eventually(t, "a whole capture", func() bool { return f.value(t, "capture_intact") == 1 })
	if n := s.int(t, "SELECT count(*) FROM keysidecar.events"); n != 250 {
		t.Errorf("%d events are left", n)
	}
	if n := f.value(t, "pruned_total"); n != 251 {
		t.Errorf("%v pruned", n)
	}
	s.exec(t, "ALTER TABLE keysidecar.public_keys DISABLE TRIGGER ALL")
	eventually(t, "the missing triggers", func() bool { return f.value(t, "capture_intact") == 0 })
	if f.logs.FilterMessage("changes are not captured, sidecars will refuse to answer from memory").Len() == 0 {
		t.Error("nothing logged")
	}
	const unnumbered = "changes were noted and never numbered while capture was broken, SELECT keysidecar.reset() makes sidecars forget what they hold"
	if f.logs.FilterMessage(unnumbered).Len() > 0 {
		t.Error("staging was not empty while capture was whole")
	}
	s.exec(t, "ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_row; ALTER TABLE keysidecar.pending DISABLE TRIGGER ALL")
	s.issue(t, 1)
	eventually(t, "changes without a number", func() bool { return f.logs.FilterMessage(unnumbered).Len() > 0 })
	if f.value(t, "housekeeping_failures_total") != 0 {
		t.Error(f.logs.FilterMessage("housekeeping failed").All())
	}
}

func TestTwoLeadersAtOnceAreHarmless(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	relays := []*fixture{prepare(t, s, nil), prepare(t, s, nil)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, f := range relays {
		wg.Go(func() {
			for ctx.Err() == nil {
				db, err := f.connect(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				// Without asking for the lock.
				if err := f.lead(ctx, db); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				db.close()
			}
		})
	}
	for range 50 {
		s.issue(t, 20)
	}
	s.untilPublished(t)
	cancel()
	wg.Wait()
	s.allSeen(t, 0, false)
	if s.published(t) != s.head(t) {
		t.Errorf("the mark is at %d of %d", s.published(t), s.head(t))
	}
}

func TestLeastPrivilegeIsEnough(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	vhost, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	user := "relay_" + vhost.Path[1:] // roles and users belong to the whole server
	s.exec(t, "CREATE ROLE "+user+" LOGIN PASSWORD '"+password+"' IN ROLE keysidecar_relay")
	t.Cleanup(func() { s.exec(t, "DROP ROLE "+user) })
	ch := channel(t, s.url)
	if err := ch.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"add_user", user, password},
		{"set_permissions", "--vhost", vhost.Path[1:], user, "^$", "^keysidecar\\.events$", "^$"},
	} {
		if _, err := broker.Ctl(args...); err != nil {
			t.Fatal(err)
		}
	}
	f := start(t, s, func(o *Options) {
		o.DSN = func() (string, error) { return as(s.dsn, user), nil }
		o.URLs = func() ([]string, error) { return []string{as(s.url, user)}, nil }
	})
	s.issue(t, 10)
	s.untilPublished(t)
	eventually(t, "housekeeping", func() bool { return f.value(t, "capture_intact") == 1 })
	// What is done last of the registry's chores; not a number before.
	eventually(t, "a look at the gate", func() bool { return f.value(t, "gate_wait_seconds") == 0 })
	if n := f.value(t, "housekeeping_failures_total"); n != 0 {
		t.Error(f.logs.All())
	}
	f.stop()
}

func TestDatabaseThatCannotBeUsedIsNamedAndTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	empty := pg.NewDatabase(t)
	dsn := atomic.Pointer[string]{}
	set := func(s string) { dsn.Store(&s) }
	set(empty)
	f := start(t, s, func(o *Options) {
		o.DSN = func() (string, error) {
			if *dsn.Load() == "" {
				return "", errors.New("no file")
			}
			return *dsn.Load(), nil
		}
	})
	for _, c := range []struct{ dsn, want string }{
		{empty, "sqlstate_42P01"},
		{"host=127.0.0.1 port=x password=" + password, "bad_dsn"},
		{"", "connection"},
		{as(s.dsn, "nobody_at_all"), "sqlstate_28000"},
	} {
		set(c.dsn)
		eventually(t, c.want, func() bool { return f.Status().DatabaseError == c.want })
	}
	set(s.dsn)
	f.untilLeader(t)
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, harm := range map[string]func(*Options){
		"no DSN":            func(o *Options) { o.DSN = nil },
		"no exchange":       func(o *Options) { o.Exchange = "" },
		"reserved exchange": func(o *Options) { o.Exchange = "amq.fanout" },
		"no poll interval":  func(o *Options) { o.PollInterval = 0 },
		"no batch":          func(o *Options) { o.Batch = 0 },
		"large batch":       func(o *Options) { o.Batch = 10001 },
		"no retention":      func(o *Options) { o.Retention = 0 },
		"other wakeup":      func(o *Options) { o.Wakeup = "alarm" },
	} {
		none := func() ([]string, error) { return nil, nil }
		opts := Options{
			DSN: func() (string, error) { return "", nil }, URLs: none, Exchange: exchange, PollInterval: time.Second,
			Batch: 1, Retention: time.Hour, Wakeup: WakeupPoll, Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		}
		if _, err := New(opts); err != nil {
			t.Fatalf("the sound options: %v", err)
		}
		opts.Registerer = prometheus.NewRegistry()
		harm(&opts)
		if _, err := New(opts); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Not a promise, but worth a line in the log of a test run.
func TestCommitToDelivery(t *testing.T) {
	s := newSite(t)
	f := start(t, s, nil)
	f.untilLeader(t)
	s.issue(t, 1)
	s.untilPublished(t)
	var took []time.Duration
	for range 200 {
		s.issue(t, 1)
		committed := time.Now()
		head := s.head(t)
		s.seen.until(t, "delivery", func() bool { return s.seen.count[head] > 0 })
		s.seen.mu.Lock()
		took = append(took, s.seen.arrived[len(s.seen.arrived)-1].Sub(committed))
		s.seen.mu.Unlock()
	}
	slices.Sort(took)
	t.Logf("commit to delivery: p50 %v, p99 %v", took[100], took[198])
}
