package relay

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

const (
	patience = 30 * time.Second
	exchange = "keysidecar.events"
	password = "s3cret"
)

// Servers shared by the tests that do not harm them.
var (
	pg     *testenv.Postgres
	broker *testenv.RabbitMQ
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childDSN); dsn != "" {
		os.Exit(child(dsn, os.Getenv(childURL)))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if pg, err = testenv.StartPostgresMain(); err == nil {
		broker, err = testenv.StartRabbitMQMain()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	result := m.Run()
	if err := errors.Join(pg.Close(), broker.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := goleak.Find(); err != nil && result == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return result
}

// site is a database and a vhost with a queue bound to the exchange.
type site struct {
	dsn, url string
	db       *pgxpool.Pool
	seen     *audience
}

func newSite(t *testing.T) *site {
	t.Helper()
	return siteOn(t, pg, broker.NewVhost(t))
}

func siteOn(t *testing.T, server *testenv.Postgres, brokerURL string) *site {
	t.Helper()
	s := &site{dsn: schematest.NewDatabase(t, server), url: brokerURL}
	var err error
	if s.db, err = pgxpool.New(t.Context(), s.dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.db.Close)
	s.exec(t, "INSERT INTO keysidecar.owners (owner_id) VALUES ('m_1')")
	s.seen = listenTo(t, s.url, "audience")
	return s
}

func (s *site) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.db.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// issue makes n keys in one transaction: n events.
func (s *site) issue(t *testing.T, n int) {
	t.Helper()
	s.exec(t, "INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT gen_random_uuid()::text, 'm_1', 'opaque' FROM generate_series(1, $1)", n)
}

func (s *site) int(t *testing.T, sql string, args ...any) (n int64) {
	t.Helper()
	if err := s.db.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (s *site) head(t *testing.T) int64 { return s.int(t, "SELECT max(seq) FROM keysidecar.events") }

func (s *site) published(t *testing.T) int64 {
	return s.int(t, "SELECT published_seq FROM keysidecar.relay")
}

// untilPublished waits until every event is marked as published and was seen.
func (s *site) untilPublished(t *testing.T) {
	t.Helper()
	head := s.head(t)
	s.seen.until(t, fmt.Sprintf("event %d", head), func() bool { return s.seen.count[head] > 0 })
	eventually(t, fmt.Sprintf("the mark at %d", head), func() bool { return s.published(t) >= head })
}

// allSeen checks that every event after seq was seen, and once if exactly.
func (s *site) allSeen(t *testing.T, after int64, exactly bool) {
	t.Helper()
	rows, err := s.db.Query(context.Background(), "SELECT seq FROM keysidecar.events WHERE seq > $1 ORDER BY seq", after)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			t.Fatal(err)
		}
		if n := s.seen.count[seq]; n == 0 || exactly && n != 1 {
			t.Fatalf("event %d was seen %d times", seq, n)
		}
	}
}

// eventually polls a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// audience remembers every event that reached its queue. It connects again when
// the broker went away.
type audience struct {
	mu      sync.Mutex
	changed chan struct{}
	count   map[int64]int
	modes   map[int64]uint8 // how each was kept: amqp.Transient or amqp.Persistent
	order   []event.Event
	arrived []time.Time
}

func listenTo(t *testing.T, brokerURL, queue string) *audience {
	t.Helper()
	a := &audience{changed: make(chan struct{}), count: map[int64]int{}, modes: map[int64]uint8{}}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		once := sync.OnceFunc(func() { close(ready) })
		for ctx.Err() == nil {
			_ = a.session(ctx, brokerURL, queue, once) // the broker may be away on purpose
			pause(ctx, 20*time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("no queue to listen to")
	}
	return a
}

func (a *audience) session(ctx context.Context, brokerURL, queue string, ready func()) error {
	conn, err := amqp.DialConfig(brokerURL, amqp.Config{Dial: amqp.DefaultDial(time.Second), Heartbeat: time.Second})
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return err
	}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		return err
	}
	if err := ch.QueueBind(queue, "", exchange, false, nil); err != nil {
		return err
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case d, ok := <-deliveries:
			if !ok {
				return amqp.ErrClosed
			}
			e, err := event.Decode(d.Body)
			if err != nil || d.ContentType != event.ContentType {
				panic(fmt.Sprintf("published %q: %v", d.Body, err))
			}
			a.mu.Lock()
			a.count[e.Seq]++
			a.modes[e.Seq] = d.DeliveryMode
			a.order = append(a.order, e)
			a.arrived = append(a.arrived, time.Now())
			close(a.changed)
			a.changed = make(chan struct{})
			a.mu.Unlock()
			if err := d.Ack(false); err != nil {
				return err
			}
		}
	}
}

func (a *audience) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		a.mu.Lock()
		ok, changed := holds(), a.changed
		a.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func (a *audience) repeats() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.count {
		n += c - 1
	}
	return n
}

// fixture is a relay under test.
type fixture struct {
	*Relay
	logs    *observer.ObservedLogs
	metrics *prometheus.Registry
	stop    func()
}

// prepare makes a relay for s with default limits.
func prepare(t *testing.T, s *site, change func(*Options)) *fixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	f := &fixture{logs: logs, metrics: prometheus.NewRegistry()}
	opts := Options{
		DSN: func() (string, error) { return s.dsn, nil }, URLs: func() ([]string, error) { return []string{s.url}, nil }, Exchange: exchange,
		PollInterval: 20 * time.Millisecond, Batch: 500, Retention: time.Hour, Wakeup: WakeupNotify, Logger: zap.New(core), Registerer: f.metrics,
	}
	if change != nil {
		change(&opts)
	}
	var err error
	if f.Relay, err = New(opts); err != nil {
		t.Fatal(err)
	}
	return f
}

// start runs a relay until the end of the test.
func start(t *testing.T, s *site, change func(*Options)) *fixture {
	t.Helper()
	f := prepare(t, s, change)
	f.run(t)
	return f
}

func (f *fixture) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		begin := time.Now()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run returned %v", err)
			}
			if took := time.Since(begin); took > 6*time.Second {
				t.Errorf("it took %v to stop", took)
			}
		case <-time.After(patience):
			t.Error("Run did not return")
		}
	})
	t.Cleanup(func() {
		f.stop()
		for _, entry := range f.logs.All() {
			if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "guest") || strings.Contains(text, password) || strings.Contains(text, "://") {
				t.Errorf("a log line shows credentials: %s", text)
			}
		}
	})
}

func (f *fixture) untilLeader(t *testing.T) {
	t.Helper()
	eventually(t, "the lead", func() bool { return f.Status().Leader })
}

// value returns a metric's value, summed over its labels unless one is named.
func (f *fixture) value(t *testing.T, name string, label ...string) float64 {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum, found := 0.0, false
	for _, family := range families {
		if family.GetName() != "keysidecar_relay_"+name {
			continue
		}
		found = true
		for _, m := range family.GetMetric() {
			if len(label) == 0 || m.GetLabel()[0].GetValue() == label[0] {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	if !found {
		t.Fatalf("no metric %s", name)
	}
	return sum
}

func channel(t *testing.T, brokerURL string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(brokerURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// as returns the URL of a server with other credentials.
func as(serverURL, user string) string {
	u, err := url.Parse(serverURL)
	if err != nil {
		panic(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}
