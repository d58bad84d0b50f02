package subscriber

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

const patience = 20 * time.Second

// broker is shared by the tests that do not harm it.
var broker *testenv.RabbitMQ

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if broker, err = testenv.StartRabbitMQMain(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	result := m.Run()
	if err := broker.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := goleak.Find(); err != nil && result == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return result
}

// recorder is a Store that remembers what it was told.
type recorder struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	events  []event.Event
	fences  map[string]int
	onEvict func(event.Event)
	onFence func(string)
}

func newRecorder() *recorder {
	return &recorder{changed: make(chan struct{}), fences: map[string]int{}}
}

func (r *recorder) Evict(e event.Event) {
	if r.onEvict != nil {
		r.onEvict(e)
	}
	r.note(func() { r.events = append(r.events, e) })
}

func (r *recorder) RequestFence(why string) {
	if r.onFence != nil {
		r.onFence(why)
	}
	r.note(func() { r.fences[why]++ })
}

func (r *recorder) note(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

// until waits for a condition on what was recorded.
func (r *recorder) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		ok, changed := holds(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("%s: not within %v; %d events %v, fences %v", what, patience, len(r.events), tail(r.seqs()), r.fences)
		}
	}
}

func tail(s []int64) []int64 { return s[max(0, len(s)-10):] }

func (r *recorder) seqs() []int64 {
	var seqs []int64
	for _, e := range r.events {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

func (r *recorder) untilSeq(t *testing.T, seq int64) {
	t.Helper()
	r.until(t, fmt.Sprintf("event %d", seq), func() bool { return slices.Contains(r.seqs(), seq) })
}

func (r *recorder) untilFence(t *testing.T, why string, n int) {
	t.Helper()
	r.until(t, fmt.Sprintf("%d fences for %s", n, why), func() bool { return r.fences[why] >= n })
}

func (r *recorder) fencesFor(why string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fences[why]
}

// fixture is a running subscriber.
type fixture struct {
	*Subscriber
	store   *recorder
	logs    *observer.ObservedLogs
	metrics *prometheus.Registry
	stop    func()
}

// start runs a subscriber with test timing until the end of the test.
func start(t *testing.T, change func(*Options), urls ...string) *fixture {
	t.Helper()
	f := prepare(t, change, urls...)
	f.run(t)
	return f
}

// prepare makes a subscriber with test timing.
func prepare(t *testing.T, change func(*Options), urls ...string) *fixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	f := &fixture{store: newRecorder(), logs: logs, metrics: prometheus.NewRegistry()}
	opts := Options{
		URLs: func() ([]string, error) { return urls, nil }, Instance: "pod-1", Exchange: "keysidecar.events", QueuePrefix: "keysidecar.q.",
		QueueExpires: time.Minute, QueueMaxLength: 10000, Store: f.store, Logger: zap.New(core), Registerer: f.metrics,
	}
	if change != nil {
		change(&opts)
	}
	if r, ok := opts.Store.(*recorder); ok {
		f.store = r
	}
	var err error
	if f.Subscriber, err = New(opts); err != nil {
		t.Fatal(err)
	}
	f.dial.Heartbeat = time.Second
	f.dial.RPCTimeout = time.Second
	f.dial.DialTimeout = time.Second
	f.pauses.Max = 300 * time.Millisecond
	f.rebind = time.Hour
	return f
}

func (f *fixture) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run returned %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not return")
		}
	})
	t.Cleanup(func() {
		f.stop()
		for _, entry := range f.logs.All() {
			if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "guest") {
				t.Errorf("a log line shows credentials: %s", text)
			}
		}
	})
}

// eventually polls a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(time.Millisecond):
		}
	}
}

func (f *fixture) untilConnected(t *testing.T) {
	t.Helper()
	f.store.untilFence(t, "reconnect", 1)
}

// value returns a metric's value, summed over its labels unless some are named.
func (f *fixture) value(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != "keysidecar_subscriber_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			if len(labels) > 0 && m.GetLabel()[0].GetValue() != labels[0] {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// admin is a test's own connection to a vhost.
type admin struct {
	t    *testing.T
	conn *amqp.Connection
	ch   *amqp.Channel
}

func dialAdmin(t *testing.T, vhost string) *admin {
	t.Helper()
	conn, err := amqp.Dial(vhost)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	a := &admin{t: t, conn: conn}
	a.reopen()
	return a
}

func (a *admin) reopen() {
	var err error
	if a.ch, err = a.conn.Channel(); err != nil {
		a.t.Fatal(err)
	}
}

func (a *admin) publish(body []byte) {
	a.t.Helper()
	err := a.ch.Publish("keysidecar.events", "", false, false, amqp.Publishing{ContentType: event.ContentType, DeliveryMode: amqp.Persistent, Body: body})
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *admin) send(events ...event.Event) {
	a.t.Helper()
	for _, e := range events {
		body, err := event.Encode(e)
		if err != nil {
			a.t.Fatal(err)
		}
		a.publish(body)
	}
}

// numbered makes the events from to to, each naming the one before.
func numbered(from, to int64) (events []event.Event) {
	for seq := from; seq <= to; seq++ {
		events = append(events, event.Event{Seq: seq, Prev: seq - 1, ID: uuid.New(), Kind: event.Revoked, KeyID: fmt.Sprintf("pk_%d", seq), OwnerID: "m_1", OccurredAt: time.Now().UTC().Truncate(time.Millisecond)})
	}
	return events
}

func vhostName(t *testing.T, vhost string) string {
	u, err := url.Parse(vhost)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path[1:]
}
