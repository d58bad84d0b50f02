package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/relay"
	"github.com/keysidecar/keysidecar/internal/schema"
	"github.com/keysidecar/keysidecar/internal/server"
	"github.com/keysidecar/keysidecar/internal/subscriber"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

const (
	// queues is how many sidecars, or bare consumers, there are.
	queues = 10
	// perRound revocations are made by each contender before it is the other's turn.
	perRound = 100
)

// BenchmarkRevocation measures from the acknowledged commit of a revocation to
// the last of 10 sidecars' refusal, and beside it the least that could be done at
// all: commit with NOTIFY, one confirmed publish, delivery to 10 queues.
//
// A sidecar refuses from the moment its keystore has evicted the key: the stamp is
// taken there, in process. For one revocation in a hundred every sidecar is then
// asked over its socket, and must refuse.
func BenchmarkRevocation(b *testing.B) {
	pg := testenv.StartPostgres(b, testenv.WithFsync(), testenv.WithMaxConnections(100))
	mq := testenv.StartRabbitMQ(b)
	full := newFull(b, pg.NewDatabase(b), mq.NewVhost(b))
	bare := newBare(b, pg.NewDatabase(b), mq.NewVhost(b))
	// One round each that does not count: connections, caches, plans.
	full.round(b, 0)
	bare.round(b, 0)
	var fullTook, bareTook []time.Duration
	n := 1
	for b.Loop() {
		fullTook = append(fullTook, full.round(b, n)...)
		bareTook = append(bareTook, bare.round(b, n)...)
		n++
	}
	b.ReportMetric(ms(fullTook, 50), "p50-ms")
	b.ReportMetric(ms(fullTook, 99), "p99-ms")
	b.ReportMetric(ms(bareTook, 50), "bare-p50-ms")
	b.ReportMetric(ms(bareTook, 99), "bare-p99-ms")

	b.ReportMetric(ms(fullTook, 50)/ms(bareTook, 50), "p50-ratio")
	b.ReportMetric(ms(fullTook, 99)/ms(bareTook, 99), "p99-ratio")
	b.ReportMetric(0, "ns/op") // a round of both: says nothing
}

func ms(took []time.Duration, percentile int) float64 {
	slices.Sort(took)
	return took[len(took)*percentile/100].Seconds() * 1000
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// arrivals collects, for one key at a time, when each receiver had it.
type arrivals struct {
	mu   sync.Mutex
	key  string
	left int
	done chan time.Time
}

func newArrivals() *arrivals { return &arrivals{done: make(chan time.Time, 1)} }

func (a *arrivals) expect(key string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key, a.left = key, n
}

func (a *arrivals) arrived(key string) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if key != a.key || a.left == 0 {
		return
	}
	if a.left--; a.left == 0 {
		a.done <- now
	}
}

func (a *arrivals) wait(tb testing.TB) time.Time {
	tb.Helper()
	select {
	case at := <-a.done:
		return at
	case <-time.After(10 * time.Second):
		tb.Fatal("nothing arrived within 10 s")
		return time.Time{}
	}
}

// stamped is a sidecar's keystore that notes when it has evicted a key.
type stamped struct {
	*keystore.Store
	at *arrivals
}

// Evict implements subscriber.Store.
func (s *stamped) Evict(e event.Event) {
	s.Store.Evict(e)
	s.at.arrived(string(e.Kind) + " " + e.KeyID)
}

// full is keysidecar: capture, relay, broker, sidecars.
type full struct {
	conn    *pgx.Conn
	at      *arrivals
	clients []*http.Client
}

// background runs f until the benchmark ends.
func background(b *testing.B, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

func newFull(b *testing.B, dsn, url string) *full {
	ctx := context.Background()
	must(b, schema.Migrate(ctx, dsn, schema.Options{}))
	conn, err := pgx.Connect(ctx, dsn)
	must(b, err)
	b.Cleanup(func() { _ = conn.Close(ctx) })
	_, err = conn.Exec(ctx, `INSERT INTO keysidecar.owners VALUES ('m')`)
	must(b, err)
	f := &full{conn: conn, at: newArrivals()}
	urls := func() ([]string, error) { return []string{url}, nil }
	r, err := relay.New(relay.Options{
		DSN: func() (string, error) { return dsn, nil }, URLs: urls, Exchange: "keysidecar.events", PollInterval: 20 * time.Millisecond,
		Batch: 500, Retention: time.Hour, Wakeup: relay.WakeupNotify, Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	must(b, err)
	background(b, r.Run)
	dir := b.TempDir()
	for i := range queues {
		f.sidecar(b, dsn, urls, fmt.Sprintf("s%d", i), filepath.Join(dir, fmt.Sprintf("s%d.sock", i)))
	}
	return f
}

// sidecar starts one with the default freshness settings.
func (f *full) sidecar(b *testing.B, dsn string, urls func() ([]string, error), name, socket string) {
	source, err := keystore.NewPostgres(keystore.PostgresOptions{
		DSN: func() (string, error) { return dsn, nil }, Relation: "keysidecar.public_keys", MaxConns: 2,
		ExecMode: pgx.QueryExecModeCacheStatement, ConnectTimeout: 2 * time.Second, ApplicationName: name, Logger: zap.NewNop(),
	})
	must(b, err)
	b.Cleanup(source.Close)
	reg := prometheus.NewRegistry()
	store, err := keystore.New(keystore.Options{
		Clock: clock.New(), Source: source, Logger: zap.NewNop(), Registerer: reg, Capacity: 100_000,
		NegativeTTL: 5 * time.Second, FillTimeout: 500 * time.Millisecond, MaxFills: 16, MissRate: 200,
		MaxStaleness: 3 * time.Second, FenceInterval: time.Second, MinFenceGap: 100 * time.Millisecond,
		Instance: name, Version: "bench", Report: true,
	})
	must(b, err)
	background(b, store.Run)
	sub, err := subscriber.New(subscriber.Options{
		URLs: urls, Instance: name, Exchange: "keysidecar.events", QueuePrefix: "keysidecar.q.", QueueExpires: 10 * time.Minute, QueueMaxLength: 10_000,
		Store: &stamped{Store: store, at: f.at}, Logger: zap.NewNop(), Registerer: reg,
	})
	must(b, err)
	store.OnQueueBehind(sub.QueueBehind)
	background(b, sub.Run)
	data, err := server.NewData(server.DataOptions{
		Keys: store, Socket: server.Socket{Path: socket, Mode: 0o600}, Instance: name, Logger: zap.NewNop(), Registerer: reg,
	})
	must(b, err)
	must(b, data.Listen())
	background(b, data.Run)
	select {
	case <-store.Warmed():
	case <-time.After(10 * time.Second):
		b.Fatal("not warm after 10 s")
	}
	f.clients = append(f.clients, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}})
}

func (f *full) round(b *testing.B, n int) []time.Duration {
	ctx := context.Background()
	ids := make([]string, perRound)
	for i := range ids {
		ids[i] = fmt.Sprintf("k-%d-%d", n, i)
	}
	// The keys are there, and every sidecar has heard of them, before the first is
	// revoked: what is timed is a revocation, not the queue behind an import.
	f.at.expect("issued "+ids[perRound-1], queues)
	_, err := f.conn.Exec(ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT unnest($1::text[]), 'm', 'opaque'`, ids)
	must(b, err)
	f.at.wait(b)
	var took []time.Duration
	for i, id := range ids {
		f.at.expect("revoked "+id, queues)
		_, err := f.conn.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, id)
		committed := time.Now()
		must(b, err)
		took = append(took, max(0, f.at.wait(b).Sub(committed)))
		if i%100 == 99 {
			f.confirm(b, id)
		}
	}
	return took
}

// confirm asks every sidecar over its socket.
func (f *full) confirm(b *testing.B, id string) {
	for i, c := range f.clients {
		resp, err := c.Get("http://keysidecar/v1/keys/" + id)
		must(b, err)
		must(b, resp.Body.Close())
		if resp.StatusCode == http.StatusOK {
			b.Fatalf("sidecar %d answers %d for a key it has evicted", i, resp.StatusCode)
		}
	}
}

// bare is the same chain with nothing in it: one table, one trigger with NOTIFY,
// one listener that publishes, and consumers that only note the time.
type bare struct {
	conn, listener *pgx.Conn
	at             *arrivals
}

func newBare(b *testing.B, dsn, url string) *bare {
	ctx := context.Background()
	c := &bare{at: newArrivals()}
	var err error
	c.conn, err = pgx.Connect(ctx, dsn)
	must(b, err)
	c.listener, err = pgx.Connect(ctx, dsn)
	must(b, err)
	_, err = c.conn.Exec(ctx, `CREATE TABLE k (id text PRIMARY KEY, revoked_at timestamptz);
		CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('bare', NEW.id); RETURN NULL; END $$;
		CREATE TRIGGER tell AFTER UPDATE ON k FOR EACH ROW EXECUTE FUNCTION tell()`)
	must(b, err)
	_, err = c.listener.Exec(ctx, `LISTEN bare`)
	must(b, err)
	mq, err := amqp.Dial(url)
	must(b, err)
	b.Cleanup(func() { _ = mq.Close(); _ = c.conn.Close(ctx) })
	for i := range queues {
		ch, err := mq.Channel()
		must(b, err)
		must(b, ch.ExchangeDeclare("bare", amqp.ExchangeFanout, true, false, false, false, nil))
		q, err := ch.QueueDeclare(fmt.Sprintf("bare.%d", i), true, false, false, false, nil)
		must(b, err)
		must(b, ch.QueueBind(q.Name, "", "bare", false, nil))
		must(b, ch.Qos(256, 0, false))
		deliveries, err := ch.Consume(q.Name, "", false, true, false, false, nil)
		must(b, err)
		go func() {
			for d := range deliveries {
				c.at.arrived(string(d.Body))
				_ = d.Ack(false)
			}
		}()
	}
	pub, err := amqp.Dial(url)
	must(b, err)
	b.Cleanup(func() { _ = pub.Close() })
	out, err := pub.Channel()
	must(b, err)
	must(b, out.Confirm(false))
	background(b, func(ctx context.Context) error {
		defer func() { _ = c.listener.Close(context.Background()) }()
		for {
			n, err := c.listener.WaitForNotification(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			confirm, err := out.PublishWithDeferredConfirmWithContext(ctx, "bare", "", false, false,
				amqp.Publishing{DeliveryMode: amqp.Transient, Body: []byte(n.Payload)})
			if err != nil {
				return err
			}
			if _, err := confirm.WaitContext(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	})
	return c
}

func (c *bare) round(b *testing.B, n int) []time.Duration {
	ctx := context.Background()
	ids := make([]string, perRound)
	for i := range ids {
		ids[i] = fmt.Sprintf("k-%d-%d", n, i)
	}
	_, err := c.conn.Exec(ctx, `INSERT INTO k SELECT unnest($1::text[])`, ids)
	must(b, err)
	var took []time.Duration
	for _, id := range ids {
		c.at.expect(id, queues)
		_, err := c.conn.Exec(ctx, `UPDATE k SET revoked_at = now() WHERE id = $1`, id)
		committed := time.Now()
		must(b, err)
		took = append(took, max(0, c.at.wait(b).Sub(committed)))
	}
	return took
}
