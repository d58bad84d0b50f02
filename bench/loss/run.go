package loss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keysidecar/keysidecar/bench/peers"
	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
)

// Options say what is done.
type Options struct {
	// Bin is the program, as cluster.Build made it; Self a program that serves
	// SubscriberCommand.
	Bin, Self string
	// Revocations is how many there are for each disturbance, Every the time from one
	// to the next.
	Revocations int
	Every       time.Duration
	// Away is how long a subscriber is gone, Quiet how long is waited after the last
	// revocation before a key that is still accepted counts as missed.
	Away, Quiet time.Duration
	// Ways that are compared.
	Ways     []Way
	Progress io.Writer
}

// Full is what the documents show.
func Full() Options {
	return Options{
		Revocations: 1000, Every: 5 * time.Millisecond, Away: 2 * time.Second, Quiet: 10 * time.Second,
		Ways: []Way{PubSub, Transient, Durable, Sidecar},
	}
}

// Disturbance is what happens to one subscriber of each way.
type Disturbance string

// The disturbances.
const (
	Restarted Disturbance = "restarted"
	CutOff    Disturbance = "cut off from the broker"
)

// run is one disturbance.
type run struct {
	Options
	*cluster.Cluster
	disturbance Disturbance
	redis       *peers.Redis
	dir         string
	subscribers []*subscriber
	closers     []func() error
}

// subscriber is one process that is asked.
type subscriber struct {
	way Way
	// disturbed is the one of its way that is.
	disturbed bool
	prober    *prober
	kill      func() error
	start     func(ctx context.Context) error
	proxy     *testenv.Proxy
	received  string
	outcome   []*revoked
}

// Run starts the servers and makes one run for each disturbance.
func Run(ctx context.Context, o Options) (r *Report, err error) {
	c, err := cluster.Start(ctx, o.Bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	r = &Report{Options: o}
	var redis *peers.Redis
	if slices.Contains(o.Ways, PubSub) {
		if redis, err = peers.StartRedis(ctx); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, redis.Close()) }()
	}
	if r.Machine, err = machine(ctx, c, redis); err != nil {
		return nil, err
	}
	if _, err := c.Exec(ctx, `INSERT INTO keysidecar.owners (owner_id) VALUES ('m_loss')`); err != nil {
		return nil, err
	}
	if _, err := c.Relay("relay"); err != nil {
		return nil, err
	}
	for i, d := range []Disturbance{Restarted, CutOff} {
		fmt.Fprintf(o.Progress, "%s  %d revocations, one subscriber of each way is %s\n", time.Now().Format(time.TimeOnly), o.Revocations, d)
		x := &run{Options: o, Cluster: c, disturbance: d, redis: redis}
		rows, err := x.do(ctx, fmt.Sprintf("loss_%d_", i))
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", d, err, c.Logs())
		}
		r.Rows = append(r.Rows, rows...)
	}
	return r, nil
}

// do makes the run with keys of this prefix.
func (x *run) do(ctx context.Context, prefix string) (rows []Row, err error) {
	if x.dir, err = os.MkdirTemp("", "ksloss"); err != nil {
		return nil, err
	}
	defer func() {
		for _, end := range slices.Backward(x.closers) {
			err = errors.Join(err, end())
		}
		err = errors.Join(err, os.RemoveAll(x.dir))
	}()
	if _, err := x.Exec(ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm)
		SELECT $1 || i, 'm_loss', 'opaque' FROM generate_series(1, $2) i`, prefix, x.Revocations); err != nil {
		return nil, err
	}
	for _, way := range x.Ways {
		for i := range 2 {
			if err := x.subscribe(ctx, way, fmt.Sprintf("%s%s-%d", prefix, slug(way), i), i == 0); err != nil {
				return nil, fmt.Errorf("%s: %w", way, err)
			}
		}
	}
	probing, stop := context.WithCancel(ctx)
	defer stop()
	var probers sync.WaitGroup
	for _, s := range x.subscribers {
		probers.Go(func() { s.outcome = s.prober.run(probing) })
	}
	err = x.revoke(ctx, prefix)
	if err == nil {
		err = cluster.Sleep(ctx, x.Quiet)
	}
	stop()
	probers.Wait()
	if err != nil {
		return nil, err
	}
	for _, s := range x.subscribers {
		row, err := s.row(x)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func slug(way Way) string {
	return strings.NewReplacer(" ", "-", ",", "", "/", "").Replace(strings.ToLower(string(way)))
}

// subscribe starts one subscriber and waits until it hears and answers.
func (x *run) subscribe(ctx context.Context, way Way, name string, disturbed bool) error {
	s := &subscriber{way: way, disturbed: disturbed}
	address, broker := x.MQ.Addr(), x.MQ.URL()
	if way == PubSub {
		address, broker = x.redis.Address, x.redis.Address
	}
	if disturbed && x.disturbance == CutOff {
		proxy, err := testenv.StartProxy(address)
		if err != nil {
			return err
		}
		x.closers = append(x.closers, proxy.Close)
		s.proxy, broker = proxy, strings.Replace(broker, address, proxy.Addr(), 1)
	}
	x.subscribers = append(x.subscribers, s)
	if way == Sidecar {
		return x.sidecar(ctx, s, name, broker)
	}
	return x.process(ctx, s, name, broker)
}

func (x *run) sidecar(ctx context.Context, s *subscriber, name, broker string) error {
	sidecar, err := x.Sidecar(name, "KEYSIDECAR_AMQP_URL="+broker)
	if err != nil {
		return err
	}
	x.closers = append(x.closers, func() error { _, err := sidecar.Stop(); return err })
	s.prober, s.kill = newProber(sidecar.Socket), sidecar.Kill
	s.start = func(context.Context) error { return sidecar.Start() }
	return errors.Join(sidecar.Ready(ctx), sidecar.HearsBroker(ctx))
}

func (x *run) process(ctx context.Context, s *subscriber, name, broker string) error {
	dir := filepath.Join(x.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	of := subscription{way: s.way, socket: filepath.Join(x.dir, name+".sock"), dsn: x.DSN(), broker: broker, received: filepath.Join(x.dir, name+".received")}
	if s.way == Durable {
		of.queue = name
	}
	s.prober, s.received = newProber(of.socket), of.received
	var p *peers.Program
	s.start = func(ctx context.Context) error {
		started, err := peers.StartProgram(ctx, dir, x.Self, of.args(), func() error {
			answer, err := newProber(of.socket).client.Get("http://subscriber" + keyPath)
			if err != nil {
				return err
			}
			return answer.Body.Close()
		})
		if err == nil {
			p = started
		}
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	s.kill = func() error { return p.Kill() }
	x.closers = append(x.closers, func() error { return p.Close() })
	return nil
}

// revoke revokes and publishes one key after another, and disturbs in the middle.
func (x *run) revoke(ctx context.Context, prefix string) (err error) {
	rabbit, err := newRabbitPublisher(x.MQ.URL())
	if err != nil {
		return err
	}
	defer func() { _ = rabbit.conn.Close() }()
	var redis *redisConn
	if x.redis != nil {
		if redis, err = dialRedis(ctx, x.redis.Address); err != nil {
			return err
		}
		defer func() { _ = redis.Close() }()
	}
	disturbed := make(chan error, 1)
	begun := time.Now()
	for i := range x.Revocations {
		if i == x.Revocations*2/5 {
			go func() { disturbed <- x.disturb(ctx) }()
		}
		if err := cluster.Sleep(ctx, time.Until(begun.Add(time.Duration(i)*x.Every))); err != nil {
			return err
		}
		id := fmt.Sprint(prefix, i+1)
		at, err := x.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, id)
		if err != nil {
			return err
		}
		for _, s := range x.subscribers {
			s.prober.add(id, at)
		}
		if redis != nil {
			if err := redis.publish(id); err != nil {
				return fmt.Errorf("publish to redis: %w", err)
			}
		}
		if err := rabbit.publish(ctx, id); err != nil {
			return fmt.Errorf("publish to rabbitmq: %w", err)
		}
	}
	return <-disturbed
}

// disturb disturbs one subscriber of each way, and ends that after Away.
func (x *run) disturb(ctx context.Context) error {
	begin := func(s *subscriber) error { return s.kill() }
	end := func(s *subscriber) error { return s.start(ctx) }
	if x.disturbance == CutOff {
		begin = func(s *subscriber) error {
			err := s.proxy.Refuse(true)
			s.proxy.Cut()
			return err
		}
		end = func(s *subscriber) error { return s.proxy.Refuse(false) }
	}
	if err := x.each(begin); err != nil {
		return err
	}
	if err := cluster.Sleep(ctx, x.Away); err != nil {
		return err
	}
	return x.each(end)
}

// each does something to all disturbed subscribers at once.
func (x *run) each(do func(*subscriber) error) error {
	errs := make([]error, len(x.subscribers))
	var all sync.WaitGroup
	for i, s := range x.subscribers {
		if s.disturbed {
			all.Go(func() { errs[i] = do(s) })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// row sums up what became of the revocations at one subscriber.
func (s *subscriber) row(x *run) (Row, error) {
	r := Row{Way: s.way, Disturbance: x.disturbance, Disturbed: s.disturbed, Unheard: -1}
	if len(s.outcome) != x.Revocations {
		return r, fmt.Errorf("%s was asked for %d of %d keys", s.way, len(s.outcome), x.Revocations)
	}
	for _, k := range s.outcome {
		if k.refused {
			r.Longest = max(r.Longest, k.accepted)
			continue
		}
		r.Missed++
		r.ForEver = max(r.ForEver, k.accepted)
	}
	if s.received == "" {
		return r, nil
	}
	text, err := os.ReadFile(s.received)
	if err != nil {
		return r, err
	}
	heard := map[string]bool{}
	for id := range strings.Lines(string(text)) {
		heard[id] = true
	}
	r.Unheard = x.Revocations - len(heard)
	return r, nil
}

// machine says what ran, a line each.
func machine(ctx context.Context, c *cluster.Cluster, redis *peers.Redis) ([]string, error) {
	lines, err := evidence.Machine(ctx, c.DSN(), c.MQ.URL())
	if err != nil {
		return nil, err
	}
	if redis != nil {
		version, err := peers.RedisVersion(ctx)
		if err != nil {
			return nil, err
		}
		lines = append(lines, version)
	}
	return lines, nil
}
