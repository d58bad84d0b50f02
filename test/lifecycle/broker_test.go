package lifecycle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// A broker that is stopped for an update, and even comes back with nothing, must cost
// speed only. (One that comes back as it was: test/system.)
func TestANewOrEmptiedBrokerFailsARequestOrStaysSlow(t *testing.T) {
	ctx := begin(t)
	for _, id := range []string{"k_broker", "k_broker_1", "k_broker_2"} {
		issue(t, ctx, owner, id, world.sidecars...)
	}
	all := ask(ctx, "k_broker", valid, world.sidecars...)
	must(t, world.MQ.Stop())
	revoke(t, ctx, "k_broker_1", world.sidecars...) // by fences
	// It comes back with nothing: no users, exchange, queues, bindings. What the runbook
	// has to put back is the user; the rest the programs make again.
	must(t, os.RemoveAll(filepath.Join(world.MQ.Dir(), "data")))
	must(t, world.MQ.Start())
	must(t, wait(ctx, "a sidecar to say what is wrong", func() (bool, error) {
		return strings.Contains(world.sidecars[0].Log(), `"auth"`), nil
	}))
	must(t, addUser(world.user))
	must(t, atWork(ctx, world.sidecars...))
	fast(t, ctx, "k_broker_2")
	all.end(t, "while the broker was away")
}

// fast revokes a key and checks that the message came by the queue.
func fast(t *testing.T, ctx context.Context, id string) {
	t.Helper()
	const byQueue = `keysidecar_events_applied_total{path="queue"}`
	var before []float64
	for _, s := range world.sidecars {
		before = append(before, metric(t, ctx, s, byQueue))
	}
	revoke(t, ctx, id, world.sidecars...)
	for i, s := range world.sidecars {
		must(t, wait(ctx, s.Name+" to hear of it from the queue", func() (bool, error) {
			return metric(t, ctx, s, byQueue) > before[i], nil
		}))
	}
}

// A consumer that lost messages gets them again from a number on, and is told when
// the log does not reach back so far; a sidecar that was away for longer than the log
// is kept starts over, and says so.
func TestAPrunedLogIsReplayedAsIfItWereWhole(t *testing.T) {
	ctx := begin(t)
	issue(t, ctx, owner, "k_log", world.sidecars...)
	from := number(t, ctx, `SELECT max(seq) + 1 FROM keysidecar.events`)
	for _, id := range []string{"k_log_1", "k_log_2", "k_log_3"} {
		issue(t, ctx, owner, id, world.sidecars...)
	}
	published := func() (bool, error) {
		return number(t, ctx, `SELECT published_seq - (SELECT max(seq) FROM keysidecar.events) FROM keysidecar.relay`) == 0, nil
	}
	must(t, wait(ctx, "everything to be published", published))

	messages := consume(t)
	out, err := command(t, ctx, world.oldBin, "relay", "--replay-from", fmt.Sprint(from))
	must(t, err)
	if !strings.Contains(out, "publishes 3 events again") || strings.Contains(out, "warning") {
		t.Errorf("replay said %s", out)
	}
	for _, id := range []string{"k_log_1", "k_log_2", "k_log_3"} {
		select {
		case m := <-messages:
			if !strings.Contains(string(m.Body), `"`+id+`"`) {
				t.Errorf("want %s, have %s", id, m.Body)
			}
		case <-ctx.Done():
			t.Fatal("nothing came")
		}
	}
	must(t, wait(ctx, "everything to be published again", published))

	// The log is pruned while a sidecar stands still, and a key is revoked whose event
	// it will never see.
	slow, other := world.sidecars[0], world.sidecars[1]
	must(t, slow.Pause())
	revoked := time.Now()
	revoke(t, ctx, "k_log_1", other)
	issue(t, ctx, owner, "k_log_4", other)
	oldest := number(t, ctx, `DELETE FROM keysidecar.events WHERE seq < (SELECT max(seq) FROM keysidecar.events) RETURNING (SELECT max(seq) FROM keysidecar.events)`)
	before := metric(t, ctx, other, "keysidecar_log_rewritten_total")
	must(t, slow.Resume())
	v, err := slow.Until(ctx, "k_log_1", cluster.Code("revoked")) // within its lease it may say otherwise first
	must(t, err)
	if late := v.SentAt.Sub(revoked); late > maxStaleness {
		t.Errorf("refused %v after its revocation", late)
	}
	must(t, atWork(ctx, slow))
	says(t, ctx, slow.Process, "", "the log lacks an event that was read from it")
	if n := metric(t, ctx, slow, "keysidecar_log_rewritten_total"); n != 1 {
		t.Errorf("the sidecar that was away counts %v", n)
	}
	if n := metric(t, ctx, other, "keysidecar_log_rewritten_total"); n != before {
		t.Errorf("the other one counts %v", n)
	}
	out, err = command(t, ctx, world.oldBin, "relay", "--replay-from", fmt.Sprint(from))
	must(t, err)
	if !strings.Contains(out, fmt.Sprintf("warning: the log begins with number %d", oldest)) {
		t.Errorf("replay said %s", out)
	}
}

// consume binds a queue of a consumer's own, as other services do.
func consume(t *testing.T) <-chan amqp.Delivery {
	t.Helper()
	url, err := os.ReadFile(filepath.Join(world.dir, "amqp.url"))
	must(t, err)
	conn, err := amqp.Dial(strings.TrimSpace(string(url)))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	must(t, err)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	must(t, err)
	must(t, ch.QueueBind(q.Name, "", "keysidecar.events", false, nil))
	messages, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	must(t, err)
	return messages
}
