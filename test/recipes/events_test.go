package recipes

import (
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

const (
	fromHere    = "yes, from here"
	fromSidecar = "yes, from the sidecar"
	ttl         = 3 * time.Second
)

// subscribe starts examples/events, which hears the broker through a proxy.
func subscribe(t *testing.T) (*session, *testenv.Proxy) {
	t.Helper()
	proxy := testenv.NewProxy(t, world.MQ.Addr())
	p := program{name: "events", argv: []string{world.subscriber, "-amqp", testenv.Via(world.MQ.URL(), proxy.Addr()), "-ttl", ttl.String(), "-socket"}}
	return p.open(t, world.at), proxy
}

// cached waits until the program answers for a key from its own cache.
func cached(t *testing.T, s *session, keyID string) {
	t.Helper()
	if err := until(t.Context(), keyID+" is cached", func() bool { return s.ask(t, keyID) == fromHere }); err != nil {
		t.Fatal(err)
	}
}

// refusedWithin asks for a key until it is refused, and returns how long after
// since that was.
func refusedWithin(t *testing.T, s *session, keyID string, since time.Time, limit time.Duration) time.Duration {
	t.Helper()
	for {
		line := s.ask(t, keyID)
		took := time.Since(since)
		if strings.HasPrefix(line, "no ") {
			return took
		}
		if took > limit {
			t.Fatalf("%s, %v after it was turned off: %s", keyID, took, line)
		}
	}
}

func TestASubscribersCacheForgetsARevokedKeyAtOnce(t *testing.T) {
	s, _ := subscribe(t)
	if took := revokeAndAsk(t, s, "pk_heard", fromHere); took[len(took)/2] > ttl/4 {
		t.Errorf("%v: not because of the message", took)
	}

	issue(t, "pk_heard_owner")
	cached(t, s, "pk_heard_owner")
	at := execute(t, `SELECT keysidecar.suspend_owner($1)`, owner)
	if took := refusedWithin(t, s, "pk_heard_owner", at, maxStaleness+ttl); took > ttl/2 {
		t.Errorf("suspended, and refused after %v", took)
	}
	execute(t, `SELECT keysidecar.reactivate_owner($1)`, owner)
	if _, err := world.sidecar.Until(t.Context(), "pk_heard_owner", cluster.Code("active")); err != nil {
		t.Fatal(err)
	}
}

// A message that never comes is not noticed. The time that keys are kept for bounds
// what that costs.
func TestASubscribersCacheIsBoundedWithoutMessages(t *testing.T) {
	s, proxy := subscribe(t)
	issue(t, "pk_unheard")
	cached(t, s, "pk_unheard")
	proxy.Freeze()
	at := revoke(t, "pk_unheard")
	took := refusedWithin(t, s, "pk_unheard", at, maxStaleness+ttl)
	t.Logf("without its message: after %v", took)
	proxy.Thaw()
}

// Without a connection the cache is not used at all, and afterwards it is again.
func TestASubscriberThatHearsNothingAsks(t *testing.T) {
	s, proxy := subscribe(t)
	issue(t, "pk_cut")
	cached(t, s, "pk_cut")
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	if err := until(t.Context(), "it asks", func() bool { return s.ask(t, "pk_cut") == fromSidecar }); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if line := s.ask(t, "pk_cut"); line != fromSidecar {
			t.Fatal(line)
		}
	}
	refusedWithin(t, s, "pk_cut", revoke(t, "pk_cut"), maxStaleness)
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	issue(t, "pk_cut_after")
	cached(t, s, "pk_cut_after")
}

// What cannot be read may have been about any key, and so may a message that is
// missing before one that came.
func TestASubscriberForgetsEverythingWhenItMissedSomething(t *testing.T) {
	s, _ := subscribe(t)
	conn, err := amqp.Dial(world.MQ.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"unreadable": `not JSON`,
		"a gap": `{"specversion":"1.0","id":"6f2c6f0e-3f3b-4b58-9a5e-0d3c3f1f2a11","source":"keysidecar","type":"io.keysidecar.key.revoked.v1",
			"subject":"pk_other","time":"2026-11-21T10:00:00.000Z","data":{"seq":1000000,"prev":999999,"kind":"revoked","occurred_at":"2026-11-21T10:00:00.000Z"}}`,
	} {
		issue(t, "pk_missed")
		cached(t, s, "pk_missed")
		if err := ch.PublishWithContext(t.Context(), "keysidecar.events", "", false, false, amqp.Publishing{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
		// Before it would be too old.
		forgotten := time.Now().Add(ttl / 2)
		for s.ask(t, "pk_missed") == fromHere {
			if time.Now().After(forgotten) {
				t.Errorf("%s: still cached", name)
				break
			}
		}
	}
}

func TestTheJavaCacheKeepsTheRules(t *testing.T) {
	dir := t.TempDir()
	if err := run(t.Context(), "", "javac", "-Xlint:all", "-Werror", "--release", "17", "-d", dir, examples+"/spring/KeyCache.java", "testdata/KeyCacheTest.java"); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), "", "java", "-cp", dir, "KeyCacheTest"); err != nil {
		t.Fatal(err)
	}
}

// The page's example has the members of a real message, and no others; and a real
// message has the properties that the page names.
func TestAMessageIsAsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```json\n")
	example, _, found := strings.Cut(example, "```\n")
	if !found {
		t.Fatal("the page has no example")
	}
	e, err := event.Decode([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := event.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	if squeezed := strings.NewReplacer("\n ", "", "\n", "").Replace(example); squeezed != string(encoded) {
		t.Errorf("the page says\n%s\nand a relay would send\n%s", squeezed, encoded)
	}

	conn, err := amqp.Dial(world.MQ.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(q.Name, "any", "keysidecar.events", false, nil); err != nil {
		t.Fatal(err)
	}
	messages, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	issue(t, "pk_message")
	select {
	case m := <-messages:
		e, err := event.Decode(m.Body)
		if err != nil || e.KeyID != "pk_message" || e.Kind != event.Issued {
			t.Errorf("%s: %+v, %v", m.Body, e, err)
		}
		if m.ContentType != "application/cloudevents+json" || m.MessageId != e.ID.String() || m.DeliveryMode == amqp.Persistent ||
			m.RoutingKey != "" || len(m.Headers) > 0 || !m.Timestamp.Equal(e.OccurredAt.Truncate(time.Second)) {
			t.Errorf("properties: %+v", m)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no message")
	}
}
