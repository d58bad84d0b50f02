package system

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/test/cluster"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// revoke is the change that most tests make.
func revoke(t *testing.T, ctx context.Context, id string) func() time.Time {
	return func() time.Time {
		t.Helper()
		return exec(t, ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, id)
	}
}

// steady asks each sidecar for an active key, over and over, until the returned
// function is called, which reports how many answers were not "active" and one
// of them.
func steady(t *testing.T, ctx context.Context, id string) func() (asked, refused int, example cluster.Verdict) {
	t.Helper()
	var (
		mu             sync.Mutex
		asked, refused int
		example        cluster.Verdict
		wg             sync.WaitGroup
	)
	stop := make(chan struct{})
	for _, s := range world.sidecars {
		wg.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for {
				v, err := s.Get(ctx, id)
				mu.Lock()
				asked++
				if err != nil || !v.Valid {
					refused++
					example = v
				}
				mu.Unlock()
				select {
				case <-stop:
					return
				case <-tick.C:
				}
			}
		})
	}
	return func() (int, int, cluster.Verdict) {
		close(stop)
		wg.Wait()
		return asked, refused, example
	}
}

// The broker may be away for any time: nothing fails for it, and revocations come
// by the fence.
func TestBrokerFaultFailsARequestOrHidesARevocation(t *testing.T) {
	ctx := healthy(t)
	mq := world.MQ
	for i, fault := range []struct {
		name       string
		hit, cure  func() error
		queueStays bool
	}{
		{"stopped", mq.Stop, mq.Start, false},
		{"killed", mq.Kill, mq.Start, false},
		{"paused", mq.Pause, mq.Resume, false},
		{"queues deleted", func() error {
			return onQueues(t, func(ch *amqp.Channel, q string) error { _, err := ch.QueueDelete(q, false, false, false); return err })
		}, nil, false},
		{"bindings removed", func() error {
			return onQueues(t, func(ch *amqp.Channel, q string) error { return ch.QueueUnbind(q, "", "keysidecar.events", nil) })
		}, nil, true},
		{"queues purged", func() error {
			return onQueues(t, func(ch *amqp.Channel, q string) error { _, err := ch.QueuePurge(q, false); return err })
		}, nil, true},
		{"exchange deleted", func() error {
			return onChannel(t, func(ch *amqp.Channel) error { return ch.ExchangeDelete("keysidecar.events", false, false) })
		}, nil, true},
	} {
		t.Run(fault.name, func(t *testing.T) {
			id, witness := fmt.Sprintf("b_%d", i), fmt.Sprintf("b_witness_%d", i)
			issue(t, ctx, "m_broker", id, witness)
			done := steady(t, ctx, witness)
			must(t, fault.hit())
			took := refusedBy(t, ctx, maxStaleness, id, []string{"revoked"}, revoke(t, ctx, id))
			if took > fenceInterval+slack {
				t.Errorf("refused everywhere only after %v", took)
			}
			if fault.cure != nil {
				must(t, fault.cure())
			}
			must(t, ready(ctx))
			if asked, refused, example := done(); refused > 0 {
				t.Errorf("%d of %d requests failed for the broker: %+v", refused, asked, example)
			}
			t.Logf("refused everywhere after %v", took)
		})
	}
	// The queues work again, not only the fences: with bindings gone this needs the
	// subscriber to bind again by itself, which it does once a fence has told it that
	// its queue lacks events. What is published before that reaches no queue, hence
	// a change at each look.
	issue(t, ctx, "m_broker", "b_last")
	for _, s := range world.sidecars {
		byQueue := func() (float64, error) { return s.Metric(ctx, `keysidecar_events_applied_total{path="queue"}`) }
		before, err := byQueue()
		must(t, err)
		must(t, atLeast(ctx, before+1, func() (float64, error) {
			exec(t, ctx, `UPDATE keysidecar.public_keys SET scopes = scopes || 'again'::text WHERE key_id = 'b_last'`)
			return byQueue()
		}))
	}
}

func onChannel(t *testing.T, f func(*amqp.Channel) error) error {
	t.Helper()
	conn, err := amqp.Dial(world.MQ.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	return f(ch)
}

func onQueues(t *testing.T, f func(*amqp.Channel, string) error) error {
	t.Helper()
	return onChannel(t, func(ch *amqp.Channel) error {
		for _, s := range world.sidecars {
			if err := f(ch, "keysidecar.q."+s.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

// A genuine message altered to name another key, its original removed: no queue
// ever names the key, and the fence tells all the same.
func TestAlteredMessageHidesARevocation(t *testing.T) {
	ctx := healthy(t)
	issue(t, ctx, "m_forge", "f_victim", "f_other")
	for _, r := range world.relays { // nobody publishes the original
		must(t, r.Pause())
		defer func() { must(t, r.Resume()) }()
	}
	took := refusedBy(t, ctx, maxStaleness, "f_victim", []string{"revoked"}, func() time.Time {
		at := revoke(t, ctx, "f_victim")()
		var e event.Event
		must(t, world.SQL.QueryRow(ctx, `SELECT seq, event_id, occurred_at FROM keysidecar.events WHERE key_id = 'f_victim' ORDER BY seq DESC LIMIT 1`).
			Scan(&e.Seq, &e.ID, &e.OccurredAt))
		e.Prev, e.Kind, e.KeyID, e.OwnerID = e.Seq-1, event.Revoked, "f_other", "m_forge"
		body, err := event.Encode(e)
		must(t, err)
		must(t, onChannel(t, func(ch *amqp.Channel) error {
			return ch.PublishWithContext(ctx, "keysidecar.events", "", false, false, amqp.Publishing{ContentType: event.ContentType, Body: body})
		}))
		return at
	})
	t.Logf("refused everywhere after %v", took)
	for _, s := range world.sidecars {
		if _, err := s.Until(ctx, "f_other", cluster.Code("active")); err != nil {
			t.Fatal(err)
		}
	}
}

// With Postgres gone, cached keys are served for at most L, then refused quickly;
// service resumes within 2 s of its return.
func TestPostgresFaultBreaksTheBoundOrLastsLonger(t *testing.T) {
	ctx := healthy(t)
	pg := world.PG
	issue(t, ctx, "m_pg", "pg_key")
	for _, fault := range []struct {
		name      string
		hit, cure func() error
		lasts     time.Duration
	}{
		{"stopped", pg.Stop, pg.Start, 0},
		{"killed", pg.Kill, pg.Start, 0},
		{"paused for 10 s under load", pg.Pause, pg.Resume, 10 * time.Second},
	} {
		t.Run(fault.name, func(t *testing.T) {
			for _, s := range world.sidecars {
				if _, err := s.Until(ctx, "pg_key", func(v cluster.Verdict) bool { return v.Valid && v.Source == "cache" }); err != nil {
					t.Fatal(err)
				}
			}
			must(t, fault.hit())
			gone := time.Now()
			var wg sync.WaitGroup
			for _, s := range world.sidecars {
				wg.Go(func() { servesThenRefuses(t, ctx, s, "pg_key", gone, fault.lasts) })
			}
			wg.Wait()
			must(t, fault.cure())
			back := time.Now()
			var slowest time.Duration
			for _, s := range world.sidecars {
				v, err := s.Until(ctx, "pg_key", cluster.Code("active"))
				if err != nil {
					t.Fatal(err)
				}
				slowest = max(slowest, v.SentAt.Add(v.Took).Sub(back))
			}
			t.Logf("served again everywhere %v after Postgres was back", slowest)
			if slowest > 2*time.Second {
				t.Errorf("served again only %v after Postgres was back", slowest)
			}
		})
	}
}

// servesThenRefuses asks a sidecar without pause while Postgres is away.
func servesThenRefuses(t *testing.T, ctx context.Context, s *cluster.Sidecar, id string, gone time.Time, lasts time.Duration) {
	var served, refused int
	var slowest []time.Duration
	until := gone.Add(max(lasts, maxStaleness+time.Second))
	for time.Now().Before(until) {
		v, err := s.Get(ctx, id)
		switch {
		case err != nil:
			t.Errorf("%s: %v", s.Name, err)
			return
		case v.Valid && v.SentAt.Sub(gone) > maxStaleness:
			t.Errorf("%s: valid %v after Postgres was gone", s.Name, v.SentAt.Sub(gone))
		case v.Valid:
			served++
		case v.Status != 503 || v.Code != "unavailable":
			t.Errorf("%s: %+v", s.Name, v)
		default:
			refused++
			slowest = append(slowest, v.Took)
		}
	}
	if served == 0 || refused == 0 {
		t.Errorf("%s: %d served, %d refused", s.Name, served, refused)
	}
	// A few milliseconds each, and no waiting for a time-out; the scheduler of a machine
	// with fewer cores than processes may delay a few.
	late := 0
	for _, d := range slowest {
		if d > 50*time.Millisecond {
			late++
		}
	}
	if late*20 > len(slowest) {
		t.Errorf("%s: %d of %d refusals took longer than 50 ms", s.Name, late, len(slowest))
	}
}

// kill -9 and restart of each part, under changes.
func TestKilledPartLosesAnEvent(t *testing.T) {
	ctx := healthy(t)
	ids := make([]string, 40)
	for i := range ids {
		ids[i] = fmt.Sprintf("kill_%d", i)
	}
	issue(t, ctx, "m_kill", ids...)
	parts := []*cluster.Process{world.relays[0].Process, world.relays[1].Process, world.sidecars[0].Process, world.sidecars[1].Process}
	for i, id := range ids {
		if i%5 == 4 {
			p := parts[(i/5)%len(parts)]
			must(t, p.Kill())
			revoke(t, ctx, id)()
			must(t, p.Start())
			continue
		}
		revoke(t, ctx, id)()
	}
	committed := time.Now()
	for _, s := range world.sidecars {
		for _, id := range ids {
			if _, err := s.Until(ctx, id, cluster.Code("revoked")); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("all refused everywhere %v after the last commit", time.Since(committed))
	must(t, ready(ctx))
	// And the relay has told the queues everything, in spite of the kills.
	var head int64
	must(t, world.SQL.QueryRow(ctx, `SELECT max(seq) FROM keysidecar.events`).Scan(&head))
	must(t, atLeast(ctx, float64(head), func() (float64, error) {
		var published int64
		err := world.SQL.QueryRow(ctx, `SELECT published_seq FROM keysidecar.relay`).Scan(&published)
		return float64(published), err
	}))
}

// A sidecar that was stopped for longer than its lease does not answer from it
// when it goes on.
func TestPausedSidecarAnswersFromItsOldLease(t *testing.T) {
	ctx := healthy(t)
	issue(t, ctx, "m_pause", "pause_key")
	s := world.sidecars[0]
	must(t, s.Pause())
	revoke(t, ctx, "pause_key")()
	answer := make(chan cluster.Verdict, 1)
	wait := time.NewTimer(maxStaleness + 500*time.Millisecond)
	defer wait.Stop()
	<-wait.C
	go func() {
		v, err := s.Get(ctx, "pause_key") // sent while it stands still
		if err != nil {
			t.Error(err)
		}
		answer <- v
	}()
	must(t, s.Resume())
	if v := <-answer; v.Valid {
		t.Fatalf("%+v", v)
	}
}

// A minute of made-up keys costs no lease and no cached answer.
func TestFloodOfUnknownKeysCostsTheLease(t *testing.T) {
	ctx := healthy(t)
	issue(t, ctx, "m_flood", "flood_key")
	const lasts = time.Minute
	done := steady(t, ctx, "flood_key")
	var wg sync.WaitGroup
	until := time.Now().Add(lasts)
	var asked [2]int
	for i, s := range world.sidecars[:2] {
		wg.Go(func() {
			for n := 0; time.Now().Before(until); n++ {
				v, err := s.Get(ctx, fmt.Sprintf("made-up-%d-%d", i, n))
				if err != nil || v.Valid || (v.Code != "unknown_key" && v.Code != "unavailable") {
					t.Errorf("%+v %v", v, err)
					return
				}
				asked[i]++
			}
		})
	}
	wg.Wait()
	total, refused, example := done()
	if refused > 0 {
		t.Errorf("%d of %d requests for a cached key were refused: %+v", refused, total, example)
	}
	t.Logf("%d requests for made-up keys, %d for the cached one", asked[0]+asked[1], total)
}

func TestSecretsReachALog(t *testing.T) {
	healthy(t)
	if logs := world.Logs(); strings.Contains(logs, "guest:guest") || strings.Contains(logs, world.DSN()) {
		t.Fatal("a log holds credentials")
	}
}
