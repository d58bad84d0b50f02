package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/proc"
)

// Options say how much is measured.
type Options struct {
	// Bin is the program, as cluster.Build made it; Self a program that serves
	// BareCommand.
	Bin, Self string
	// Rounds is how often each contender has its turn in each cell, Span how long a
	// turn counts, after Warm.
	Rounds     int
	Span, Warm time.Duration
	Keys       int
	// Conns are the numbers of connections, Misses the shares of misses, in percent.
	Conns, Misses []int
	// Without names contenders that are left out, with their servers.
	Without []string
	// Progress is told what is going on.
	Progress io.Writer
	Seed     uint64
}

// Full is what the documents show.
func Full() Options {
	return Options{Rounds: 5, Span: 3 * time.Second, Warm: 500 * time.Millisecond, Keys: 100_000, Conns: []int{1, 16, 64}, Misses: []int{0, 5}}
}

// Quick shows that everything works. Its figures say little.
func Quick() Options {
	o := Full()
	o.Rounds, o.Span, o.Warm, o.Keys = 1, 300*time.Millisecond, 100*time.Millisecond, 2000
	return o
}

// Sample is one turn of a contender.
type Sample struct {
	Contender string
	Cell
	Round int
	// Rate is requests a second.
	Rate           float64
	P50, P99, P999 time.Duration
	// Server and Client are the processor time of each request.
	Server, Client time.Duration
	// Busy is how many cores the client's process used.
	Busy float64
}

// bench is everything that runs.
type bench struct {
	Options
	contenders []contender
	closers    []func() error
}

// Run starts the contenders, measures them and ends them.
func Run(ctx context.Context, o Options) (r *Report, err error) {
	b := &bench{Options: o}
	defer func() { err = errors.Join(err, b.close()) }()
	r = &Report{Options: o}
	if err := b.start(ctx, r); err != nil {
		return nil, err
	}
	order := rand.New(rand.NewPCG(o.Seed, 0))
	var cells []Cell
	for _, conns := range o.Conns {
		for _, misses := range o.Misses {
			cells = append(cells, Cell{conns, misses})
		}
	}
	for round := range o.Rounds {
		fmt.Fprintf(o.Progress, "%s  round %d of %d\n", time.Now().Format(time.TimeOnly), round+1, o.Rounds)
		shuffle(order, cells)
		for _, cell := range cells {
			turns := slices.Clone(b.contenders)
			shuffle(order, turns)
			for _, c := range turns {
				if !c.takes(cell) {
					continue
				}
				s, err := b.turn(ctx, c, cell, order.Uint64())
				if err != nil {
					return nil, fmt.Errorf("%s, %d connections, %d %% misses: %w", c.Name, cell.Conns, cell.Misses, err)
				}
				s.Round = round
				r.Samples = append(r.Samples, s)
			}
		}
	}
	return r, nil
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// turn measures one contender in one cell.
func (b *bench) turn(ctx context.Context, c contender, cell Cell, seed uint64) (s Sample, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now().Add(b.Warm)
	w := window{begin: begin, end: begin.Add(b.Span)}
	type result struct {
		latency *histogram
		err     error
	}
	done := make(chan result, 1)
	go func() {
		latency, err := c.run(ctx, cell, seed, w)
		done <- result{latency, err}
	}()
	meter, err := c.meter(ctx, w)
	if err != nil {
		cancel()
		r := <-done
		return s, errors.Join(err, r.err)
	}
	r := <-done
	if r.err != nil {
		return s, r.err
	}
	if r.latency.n == 0 {
		return s, errors.New("nothing was answered")
	}
	rate := float64(r.latency.n) / b.Span.Seconds()
	return Sample{
		Contender: c.Name, Cell: cell, Rate: rate,
		P50: r.latency.quantile(0.5), P99: r.latency.quantile(0.99), P999: r.latency.quantile(0.999),
		Server: time.Duration(meter.server / rate * 1e9), Client: time.Duration(meter.client / rate * 1e9), Busy: meter.client,
	}, nil
}

// used is how many cores the server and the client used.
type used struct{ server, client float64 }

// meter watches the processes while w lasts.
func (c *contender) meter(ctx context.Context, w window) (u used, err error) {
	if err := cluster.Sleep(ctx, time.Until(w.begin)); err != nil {
		return u, err
	}
	// Looked up late: a server may start processes for the connections.
	pids, err := c.pids(ctx)
	if err != nil {
		return u, err
	}
	begun := time.Now()
	server, err1 := proc.CPU(pids...)
	client, err2 := proc.CPU(os.Getpid())
	if err := errors.Join(err1, err2, cluster.Sleep(ctx, time.Until(w.end))); err != nil {
		return u, err
	}
	span := time.Since(begun).Seconds()
	serverLater, err1 := proc.CPU(pids...)
	clientLater, err2 := proc.CPU(os.Getpid())
	return used{server: (serverLater - server).Seconds() / span, client: (clientLater - client).Seconds() / span}, errors.Join(err1, err2)
}

// start starts every contender that is wanted.
func (b *bench) start(ctx context.Context, r *Report) error {
	fmt.Fprintf(b.Progress, "%s  starting, %d keys\n", time.Now().Format(time.TimeOnly), b.Keys)
	s, err := startSystem(ctx, b.Bin, b.Keys)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, s.Close)
	if err := s.startSidecars(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, s.Logs())
	}
	hit, err := ask(ctx, "unix", s.whole.Socket, http, httpGet(keyID(0)))
	if err != nil {
		return err
	}
	miss, err := ask(ctx, "unix", s.whole.Socket, http, httpGet(unknownID(0)))
	if err != nil {
		return err
	}
	_, body, _ := strings.Cut(string(hit), string(headEnd))
	r.Answer, r.Body = len(hit), len(body)

	gets := newRequests(b.Keys, httpGet)
	b.contenders = s.contenders(gets)
	for _, start := range []func() error{
		func() error { return b.startBare(ctx, gets, hit, miss) },
		func() error { return b.startNginx(ctx, gets, body) },
		func() error { return b.startRedis(ctx, body) },
		func() error { return b.startPools(ctx, s) },
	} {
		if err := start(); err != nil {
			return err
		}
	}
	r.Machine, err = b.machine(ctx, s)
	return err
}

// wants reports whether a contender is not left out.
func (b *bench) wants(name string) bool { return !slices.Contains(b.Without, name) }

func (b *bench) startBare(ctx context.Context, gets *requests, hit, miss []byte) error {
	p, socket, err := startBare(ctx, b.Self, b.Keys, hit, miss)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, p.Close)
	b.contenders = append(b.contenders, contender{Name: Bare, takes: everyCell, run: drivenRun("unix", socket, http, gets.pick), pids: p.fixed()})
	return nil
}

func (b *bench) startNginx(ctx context.Context, gets *requests, body string) error {
	if !b.wants(Nginx) {
		return nil
	}
	p, socket, err := startNginx(ctx, []byte(body))
	if err != nil {
		return err
	}
	b.closers = append(b.closers, p.Close)
	same := &requests{hits: gets.hits, misses: gets.misses, miss: found} // it knows no keys
	b.contenders = append(b.contenders, contender{Name: Nginx, takes: everyCell, run: drivenRun("unix", socket, http, same.pick), pids: p.fixed()})
	return nil
}

func (b *bench) startRedis(ctx context.Context, body string) error {
	if !b.wants(RedisTCP) {
		return nil
	}
	r, err := StartRedis(ctx)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, r.Close)
	if err := r.fill(ctx, b.Keys, []byte(body)); err != nil {
		return err
	}
	gets := newRequests(b.Keys, func(id string) []byte { return respCommand("GET", id) })
	b.contenders = append(b.contenders,
		contender{Name: RedisSocket, takes: everyCell, run: drivenRun("unix", r.Socket, resp, gets.pick), pids: r.fixed()},
		contender{Name: RedisTCP, takes: everyCell, run: drivenRun("tcp", r.Address, resp, gets.pick), pids: r.fixed()})
	return nil
}

func (b *bench) startPools(ctx context.Context, s *system) error {
	for name, dsn := range map[string]string{SelectSocket: s.pg.SocketDSN("keys"), SelectTCP: s.pg.DSN("keys")} {
		if !b.wants(name) {
			continue
		}
		p, err := newPool(ctx, dsn, name, slices.Max(b.Conns), b.Keys)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, func() error { p.Close(); return nil })
		b.contenders = append(b.contenders, s.selecting(name, name, p))
	}
	return nil
}

// fixed are the pids of a program whose processes are all there.
func (p *Program) fixed() func(context.Context) ([]int, error) {
	return func(context.Context) ([]int, error) { return p.pids() }
}

// close ends everything, what was started last first.
func (b *bench) close() error {
	var errs []error
	for _, end := range slices.Backward(b.closers) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// machine says what ran, a line each.
func (b *bench) machine(ctx context.Context, s *system) ([]string, error) {
	lines, err := evidence.Machine(ctx, s.DSN(), "")
	if err != nil {
		return nil, err
	}
	if b.wants(Nginx) {
		line, err := version(ctx, "nginx", "-v")
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	if b.wants(RedisTCP) {
		line, err := RedisVersion(ctx)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// version is what a program says of itself.
func version(ctx context.Context, name, arg string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, arg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, arg, err)
	}
	return strings.TrimSpace(string(out)), nil
}
