package faults

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// Promise is what the fleet is configured to keep.
type Promise struct {
	// MaxStaleness is L, StaleLimit that of a sidecar that serves stale answers.
	MaxStaleness, StaleLimit time.Duration
	FenceInterval            time.Duration
}

// DefaultPromise is the program's own, with a stale_limit.
func DefaultPromise() Promise {
	return Promise{MaxStaleness: 3 * time.Second, StaleLimit: 6 * time.Second, FenceInterval: time.Second}
}

const (
	exchange    = "keysidecar.events"
	queuePrefix = "keysidecar.q."
	// appName marks the application's connections to Postgres.
	appName = "revoking application"
	// faultOwner owns the keys that faults make and change by themselves.
	faultOwner = "m_faults"
	// thrashKeys is how many keys there are for the sidecar with a tiny memory.
	thrashKeys = 600
)

// World is everything that can be broken.
type World struct {
	Promise Promise
	Cluster *cluster.Cluster
	MQ      *testenv.RabbitMQ
	// App is the application's way to the primary.
	App      *testenv.Proxy
	Relays   []*Relay
	Sidecars []*Sidecar

	// Started and Ended are called at each start and end of a sidecar's process, if
	// they are set.
	Started, Ended func(*Sidecar)

	direct bool // there are no proxies

	mu      sync.Mutex
	primary *testenv.Postgres
	run     int // names of what faults make
}

// Node is a process with its own ways to the servers.
type Node struct {
	PG, MQ *testenv.Proxy
}

// Relay is a relay and its ways.
type Relay struct {
	*cluster.Relay
	Node
}

// Sidecar is a sidecar and its ways.
type Sidecar struct {
	*cluster.Sidecar
	Node
	Spec Spec

	world *World
}

// Spec is what sets a sidecar apart.
type Spec struct {
	Name string
	// Instance is its name in the fleet; Name if empty.
	Instance string
	// Stale: it serves stale answers, and is held to its stale_limit.
	Stale bool
	Env   []string
	// Clock: its clock can be stepped by signals.
	Clock bool
}

// Fleet is the fleet of a long run: sidecars in the configurations that are asked
// for, also in those that hurt.
func Fleet() []Spec {
	return []Spec{
		{Name: "plain-0"},
		{Name: "plain-1"},
		{Name: "tiny", Env: []string{"KEYSIDECAR_CACHE_CAPACITY=200"}},
		{Name: "brief", Env: []string{"KEYSIDECAR_AMQP_QUEUE_MAX_LENGTH=16", "KEYSIDECAR_AMQP_QUEUE_EXPIRES=1s"}},
		{Name: "twin-0", Instance: "twin"},
		{Name: "twin-1", Instance: "twin"},
		{Name: "stale", Stale: true},
		{Name: "clocked", Clock: true},
	}
}

// Plain is a fleet of n sidecars in the default configuration.
func Plain(n int) []Spec {
	specs := make([]Spec, n)
	for i := range specs {
		specs[i].Name = fmt.Sprintf("sidecar-%02d", i)
	}
	return specs
}

// servers is a World as test/cluster sees it.
type servers struct{ *World }

func (s servers) DSN() string {
	dsn, err := url.Parse(s.Primary().DSNVia(s.App.Addr(), cluster.Database))
	if err != nil {
		return "" // the servers made it
	}
	q := dsn.Query()
	q.Set("application_name", appName)
	dsn.RawQuery = q.Encode()
	return dsn.String()
}
func (s servers) AMQP() string                      { return s.MQ.URL() }
func (s servers) StopBroker(context.Context) error  { return s.MQ.Stop() }
func (s servers) StartBroker(context.Context) error { return s.MQ.Start() }
func (s servers) Close() error                      { return s.closeServers() }

// Start starts servers, two relays and the fleet, and waits until all is well.
// race builds the program with the race detector.
func Start(ctx context.Context, dir string, race bool, promise Promise, specs []Spec) (*World, error) {
	return startWorld(ctx, dir, race, promise, specs, false)
}

// startWorld is Start; direct leaves the proxies of the sidecars and relays out, where
// nothing is broken and times are measured.
func startWorld(ctx context.Context, dir string, race bool, promise Promise, specs []Spec, direct bool) (*World, error) {
	bin, err := cluster.Build(ctx, dir, race)
	if err != nil {
		return nil, err
	}
	clocked := bin
	for _, s := range specs {
		if s.Clock && clocked == bin {
			if clocked, err = cluster.Build(ctx, dir, race, "faultclock"); err != nil {
				return nil, err
			}
		}
	}
	w := &World{Promise: promise, direct: direct}
	if err := w.start(ctx, bin, clocked, specs); err != nil {
		return nil, errors.Join(err, w.logs(), w.Close())
	}
	return w, nil
}

func (w *World) logs() error {
	if w.Cluster == nil {
		return nil
	}
	return errors.New(w.Cluster.Logs())
}

func (w *World) start(ctx context.Context, bin, clocked string, specs []Spec) error {
	// Enough for the fleet and the application; "out of connections" fills the rest.
	conns := 60 + 4*len(specs)
	private, err := cluster.StartPrivate(testenv.WithMaxConnections(conns))
	if err != nil {
		return err
	}
	w.primary, w.MQ = private.PG, private.MQ
	if w.App, err = testenv.StartProxy(w.primary.Addr()); err != nil {
		return err
	}
	if w.Cluster, err = cluster.StartOn(ctx, bin, servers{w}); err != nil {
		return err
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	for i := range 2 {
		if err := w.startRelay(fmt.Sprintf("relay-%d", i)); err != nil {
			return err
		}
	}
	for _, spec := range specs {
		program := bin
		if spec.Clock {
			program = clocked
		}
		if err := w.startSidecar(program, spec); err != nil {
			return err
		}
	}
	_, err = w.Back(ctx)
	return err
}

// prepare makes the keys that faults use.
func (w *World) prepare(ctx context.Context) error {
	return w.Exec(ctx,
		`INSERT INTO keysidecar.owners (owner_id) VALUES ('`+faultOwner+`')`,
		fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'thrash_' || i, '%s', 'opaque' FROM generate_series(1, %d) i`, faultOwner, thrashKeys))
}

func (w *World) node() (Node, error) {
	if w.direct {
		return Node{}, nil
	}
	pg, err := testenv.StartProxy(w.Primary().Addr())
	if err != nil {
		return Node{}, err
	}
	mq, err := testenv.StartProxy(w.MQ.Addr())
	if err != nil {
		return Node{}, errors.Join(err, pg.Close())
	}
	return Node{pg, mq}, nil
}

func (w *World) environment(n Node, more ...string) []string {
	if w.direct {
		return append([]string{"KEYSIDECAR_STORE_POSTGRES_DSN=" + w.Primary().DSN(cluster.Database), "KEYSIDECAR_AMQP_URL=" + w.MQ.URL()}, more...)
	}
	return append([]string{
		"KEYSIDECAR_STORE_POSTGRES_DSN=" + w.Primary().DSNVia(n.PG.Addr(), cluster.Database),
		"KEYSIDECAR_AMQP_URL=" + testenv.Via(w.MQ.URL(), n.MQ.Addr()),
	}, more...)
}

func (w *World) startRelay(name string) error {
	n, err := w.node()
	if err != nil {
		return err
	}
	r, err := w.Cluster.Relay(name, w.environment(n)...)
	w.Relays = append(w.Relays, &Relay{r, n})
	return err
}

func (w *World) startSidecar(program string, spec Spec) error {
	n, err := w.node()
	if err != nil {
		return err
	}
	env := w.environment(n,
		"KEYSIDECAR_FRESHNESS_MAX_STALENESS="+w.Promise.MaxStaleness.String(),
		"KEYSIDECAR_FRESHNESS_FENCE_INTERVAL="+w.Promise.FenceInterval.String(),
		"FAULTCLOCK_STEP=10s")
	if spec.Stale {
		env = append(env, "KEYSIDECAR_FRESHNESS_ON_STALE=serve_stale", "KEYSIDECAR_FRESHNESS_STALE_LIMIT="+w.Promise.StaleLimit.String())
	}
	if spec.Instance != "" {
		env = append(env, "KEYSIDECAR_INSTANCE="+spec.Instance)
	}
	s, err := w.Cluster.SidecarOf(program, spec.Name, append(env, spec.Env...)...)
	w.Sidecars = append(w.Sidecars, &Sidecar{Sidecar: s, Node: n, Spec: spec, world: w})
	return err
}

// Bound is the L that this sidecar is held to.
func (s *Sidecar) Bound() time.Duration {
	if s.Spec.Stale {
		return s.world.Promise.StaleLimit
	}
	return s.world.Promise.MaxStaleness
}

// Kill ends the process without warning.
func (s *Sidecar) Kill() error {
	err := s.Sidecar.Kill()
	if s.world.Ended != nil {
		s.world.Ended(s)
	}
	return err
}

// Restart starts the process again after Kill.
func (s *Sidecar) Restart() error {
	if s.world.Started != nil {
		s.world.Started(s)
	}
	return s.Start()
}

// Primary is the server that acknowledges commits now, or the last one that did.
func (w *World) Primary() *testenv.Postgres {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.primary
}

func (w *World) setPrimary(p *testenv.Postgres) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.primary = p
}

// ways are the ways to Postgres of all processes of keysidecar.
func (w *World) ways() []*testenv.Proxy {
	var all []*testenv.Proxy
	for _, r := range w.Relays {
		all = append(all, r.PG)
	}
	for _, s := range w.Sidecars {
		all = append(all, s.PG)
	}
	return all
}

// lead leads the ways to Postgres to the present primary.
func (w *World) lead(ways ...*testenv.Proxy) {
	for _, p := range ways {
		p.Retarget(w.Primary().Addr())
		p.Cut()
	}
}

// DSN is the application's way to the database.
func (w *World) DSN() string { return servers{w}.DSN() }

// Exec runs statements past every proxy, one transaction each.
func (w *World) Exec(ctx context.Context, statements ...string) error {
	return w.onPrimary(ctx, func(conn *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

// Number asks for one number past every proxy.
func (w *World) Number(ctx context.Context, sql string) (n int64, err error) {
	err = w.onPrimary(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, sql).Scan(&n) })
	return n, err
}

func (w *World) onPrimary(ctx context.Context, f func(*pgx.Conn) error) error {
	return onServer(ctx, w.Primary(), f)
}

func onServer(ctx context.Context, p *testenv.Postgres, f func(*pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.DSN(cluster.Database))
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close(context.WithoutCancel(ctx)))
}

// name makes a name that no other fault of the run has used.
func (w *World) name(prefix string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.run++
	return fmt.Sprintf("%s_%d", prefix, w.run)
}

// quiet keeps the application out of the database, and returns when none of its
// transactions runs any more. What was not acknowledged by then never is.
func (w *World) quiet(ctx context.Context) error {
	if err := w.App.Refuse(true); err != nil {
		return err
	}
	w.App.Cut()
	return w.poll(ctx, 10*time.Second, "the application to be gone", func() (bool, error) {
		n, err := w.Number(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '`+appName+`'`)
		return n == 0, err
	})
}

// open lets the application in again.
func (w *World) open() error { return w.App.Refuse(false) }

// poll waits until met returns true, an error that lasts to the end of limit is
// part of what is returned.
func (w *World) poll(ctx context.Context, limit time.Duration, what string, met func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := met()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited %v for %s: %w", limit, what, ctx.Err()), err)
		case <-tick.C:
		}
	}
}

// Close ends everything.
func (w *World) Close() error {
	if w.Cluster != nil {
		return w.Cluster.Close()
	}
	return w.closeServers()
}

func (w *World) closeServers() error {
	var errs []error
	nodes := make([]Node, 0, len(w.Relays)+len(w.Sidecars))
	for _, r := range w.Relays {
		nodes = append(nodes, r.Node)
	}
	for _, s := range w.Sidecars {
		nodes = append(nodes, s.Node)
	}
	for _, n := range append(nodes, Node{PG: w.App}) {
		for _, p := range []*testenv.Proxy{n.PG, n.MQ} {
			if p != nil {
				errs = append(errs, p.Close())
			}
		}
	}
	return errors.Join(append(errs, (&cluster.Private{PG: w.Primary(), MQ: w.MQ}).Close())...)
}
