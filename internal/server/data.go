package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// Keys is what the data plane asks. *keystore.Store is one.
type Keys interface {
	// Lookup says whether the key may be used. It does not keep keyID. The error
	// is nil, keystore.ErrNotCached or a *keystore.UnavailableError.
	Lookup(ctx context.Context, keyID string, b keystore.Bounds) (keystore.Answer, error)
	// Read begins the look-ups of a batch; what it cannot recall is asked of Lookup.
	Read(b keystore.Bounds) keystore.Reading
	// KeySet returns an owner's keys that may be used now. It does not keep ownerID. The
	// error is nil, keystore.ErrNotCached, keystore.ErrSetTooLarge or a
	// *keystore.UnavailableError.
	KeySet(ctx context.Context, ownerID string, b keystore.Bounds) (keystore.KeySet, error)
	Status() keystore.Status
	// Audit compares all of memory with the store. The error is
	// keystore.ErrAuditRunning, or wraps keystore.ErrAuditUnavailable or ctx's.
	Audit(ctx context.Context) (*keystore.AuditReport, error)
}

// Uses is told which keys are in use. *usage.Recorder is one.
type Uses interface {
	// Note must neither wait nor allocate. It may keep keyID, which never changes.
	Note(keyID string)
}

// TCP says where the data plane listens besides its socket.
type TCP struct {
	// Address is a loopback address and a port; empty for none.
	Address string
	// Token, if not nil, returns the bearer token that every request must present.
	// It is called again and again, so that the token can be changed in place;
	// when it fails the last good one stays in force.
	Token func() (string, error)
}

// DataOptions configure a data plane. Keys, Registerer and at least one of
// Socket.Path and TCP.Address are required.
type DataOptions struct {
	Keys Keys
	// Receipts is nil where there is no registry of sidecars.
	Receipts Receipts
	Socket   Socket
	TCP      TCP
	// Uses hears of each key that was answered valid; nil if nobody wants to know.
	Uses Uses
	// Pepper keys the hash of presented secrets; see keystore.HashSecret.
	Pepper []byte
	// Gateway says how gateways ask; its zero value has no routes for them.
	Gateway Gateway
	// Instance and Version are told by /v1/status.
	Instance, Version string
	// MaxConnections is served at once by each listener; 0 means 1024.
	MaxConnections int
	// ReadTimeout is how long a request may take to arrive once its first byte
	// has, WriteTimeout how long a client may take to read. 0 means 10 s. Between
	// requests a connection may idle for ever.
	ReadTimeout, WriteTimeout time.Duration
	Logger                    *zap.Logger
	Registerer                prometheus.Registerer

	// drain is drainTime, enough what it is for the Unix socket's listener, but for tests.
	drain  time.Duration
	enough int64
}

// maxHeader bounds the request line and header fields of one request, in bytes.
const maxHeader = 8 << 10

// maxGatewayHeader is maxHeader for gateways' routes: what their clients send.
const maxGatewayHeader = 64 << 10

// Data is the data plane: one HTTP server on a Unix socket, a loopback address,
// or both.
type Data struct {
	opts    DataOptions
	keys    Keys
	logger  *zap.Logger
	metrics *metrics
	// gateway is nil where gateways cannot ask.
	gateway *gateway
	http    *fasthttp.Server
	// wide is http with a buffer for the heads of gateways' requests.
	wide *fasthttp.Server

	listeners []*listener
	socket    *boundSocket
	// loops are made before the first client can connect, and closed after the last has gone.
	loops    []*eventLoop
	nextLoop atomic.Uint64

	// tick counts the sweeper's rounds; slow clients are told by it.
	tick      atomic.Int64
	tickEvery time.Duration
	// stopping: answers close their connections.
	stopping atomic.Bool
	// life ends when requests still running must end.
	life    context.Context //nolint:containedctx // the life of the server, not of a call
	endLife context.CancelFunc

	date atomic.Pointer[date]

	waits chan struct{} // a slot for each request that waits for a receipt

	verifiers verifiers

	batches, large sync.Pool // of *batch and *largeBuffer
}

// NewData checks the options and registers the metrics.
func NewData(opts DataOptions) (*Data, error) {
	switch {
	case opts.Keys == nil:
		return nil, errors.New("server: no Keys")
	case opts.Registerer == nil:
		return nil, errors.New("server: no Registerer")
	case opts.Socket.Path == "" && opts.TCP.Address == "":
		return nil, errors.New("server: neither a socket nor a tcp address to listen on")
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	if opts.MaxConnections <= 0 {
		opts.MaxConnections = 1024
	}
	if opts.ReadTimeout <= 0 {
		opts.ReadTimeout = 10 * time.Second
	}
	if opts.WriteTimeout <= 0 {
		opts.WriteTimeout = 10 * time.Second
	}
	if opts.enough == 0 {
		opts.enough = 2
	}
	if opts.drain == 0 {
		opts.drain = drainTime
	}
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, fmt.Errorf("server: register metrics: %w", err)
	}
	d := &Data{opts: opts, keys: opts.Keys, logger: opts.Logger, metrics: m, waits: make(chan struct{}, maxWaits), verifiers: newVerifiers()}
	d.life, d.endLife = context.WithCancel(context.Background())
	d.tickEvery = min(max(min(opts.ReadTimeout, opts.WriteTimeout)/8, 10*time.Millisecond), time.Second)
	d.tick.Store(1) // 0 means never
	if d.gateway, err = newGateway(&opts.Gateway); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	d.http, d.wide = d.library(maxHeader), d.library(maxGatewayHeader)
	return d, nil
}

// library is a server of the library's for request heads of at most header bytes.
func (d *Data) library(header int) *fasthttp.Server {
	return &fasthttp.Server{
		Handler:      d.handle,
		ErrorHandler: d.refused,
		ConnState:    onState,
		// The framer has limits of its own, and better answers; these stand behind.
		ReadBufferSize:     header + 64,
		WriteBufferSize:    2 << 10,
		MaxRequestBodySize: maxBatchBody,
		// The sweeper times requests; see conn.
		ReadTimeout:                  0,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		Logger:                       silent{},
	}
}

// frameLimits are the limits on messages of a connection.
func (d *Data) frameLimits() frameLimits {
	limits := frameLimits{header: maxHeader, body: bodyLimit}
	if d.gateway != nil {
		limits.gatewayHeader = maxGatewayHeader
	}
	return limits
}

// silent is the library's logger: what it would say of a request could hold a
// part of it, and conn and ErrorHandler hear of every error anyway.
type silent struct{}

func (silent) Printf(string, ...any) {}

// Listen binds the listeners, so that mistakes show at once. Clients can connect
// from now on; Run serves them. After a successful Listen, Run must be called,
// if only with a context that has ended, to let go of what was bound.
func (d *Data) Listen() (err error) {
	defer func() {
		if err != nil {
			d.closeListeners()
			d.closeLoops()
			d.release()
		}
	}()
	if err := d.makeLoops(); err != nil {
		return err
	}
	if d.opts.Socket.Path != "" {
		if d.socket, err = listenSocket(d.opts.Socket); err != nil {
			return err
		}
		d.add(&listener{id: listenerUnix, Listener: d.socket, users: d.opts.Socket.AllowedUIDs, remove: d.socket.remove})
	}
	if d.opts.TCP.Address != "" {
		g := &guard{token: d.opts.TCP.Token, logger: d.logger, tick: &d.tick}
		if err := g.refresh(); err != nil {
			return fmt.Errorf("tcp listener: %w", err)
		}
		l, err := listenLoopback(d.opts.TCP.Address)
		if err != nil {
			return err
		}
		d.add(&listener{id: listenerTCP, Listener: l, guard: g, remove: func() {}})
	}
	return nil
}

func (d *Data) add(l *listener) {
	l.data, l.most, l.conns = d, d.opts.MaxConnections, make(map[*conn]struct{})
	if l.id == listenerUnix {
		l.enough = d.opts.enough
	}
	d.listeners = append(d.listeners, l)
	d.logger.Info("listening", zap.Stringer("listener", l.id), zap.Stringer("address", l.Addr()))
}

// TCPAddr returns the address that the TCP listener was bound to, or nil.
func (d *Data) TCPAddr() net.Addr {
	for _, l := range d.listeners {
		if l.id == listenerTCP {
			return l.Addr()
		}
	}
	return nil
}

// How Run stops: for drainTime everything is still answered, new connections too, with
// Connection: close. Then the socket's name is taken away; who found it a moment
// before is still let in, while connections that asked nothing in all of drainTime are
// closed. When nobody is left, or after namelessTime, all idle connections are closed,
// and requests under way have until graceTime. What they wait for is then cancelled, so
// that they can still answer 503, and after lastTime the rest is cut. All of it stays
// under two seconds.
const (
	drainTime    = 90 * time.Millisecond
	namelessTime = 10 * time.Millisecond
	graceTime    = 900 * time.Millisecond
	lastTime     = 300 * time.Millisecond
	cutTime      = 300 * time.Millisecond
)

// Run serves until ctx ends, then stops within two seconds: see above. It
// returns nil if it was asked to stop, and stops by itself if an event loop fails.
func (d *Data) Run(ctx context.Context) error {
	loops, running := errgroup.WithContext(ctx)
	for _, l := range d.loops {
		loops.Go(l.run)
	}
	var accepting sync.WaitGroup
	for _, l := range d.listeners {
		accepting.Go(l.accept)
	}
	sweeping := make(chan struct{})
	stopSweeping := make(chan struct{})
	go func() {
		defer close(sweeping)
		d.sweep(stopSweeping)
	}()

	<-running.Done()
	d.stop()
	accepting.Wait()
	close(stopSweeping)
	<-sweeping
	d.release()
	d.endLoops()
	err := loops.Wait()
	d.closeLoops()
	if err != nil {
		return err
	}
	if n := d.open(); n > 0 {
		return fmt.Errorf("server: %d requests ignored the end of their context", n)
	}
	return nil
}

// stop ends all connections.
func (d *Data) stop() {
	d.stopping.Store(true)
	var quiet []*conn
	d.each(func(c *conn) { quiet = append(quiet, c) })
	time.Sleep(d.opts.drain)
	for _, l := range d.listeners {
		l.remove()
	}
	// Those that had asked anything since were answered "close" and have gone.
	for _, c := range quiet {
		c.takeBack()
	}
	d.letIn(namelessTime)
	d.closeListeners()
	// A connection that becomes idle meanwhile was answered "close" and ends by itself.
	d.each((*conn).takeBack)
	if d.settles(graceTime) {
		d.endLife()
		return
	}
	d.endLife()
	if d.settles(lastTime) {
		return
	}
	d.each(func(c *conn) {
		d.metrics.aborted[abortStopping].Inc()
		c.cut()
	})
	d.settles(cutTime)
}

// lookEvery is how often a stop looks whether it is over.
const lookEvery = time.Millisecond

// letIn waits until nobody is connected any more nor waits to be let in, at most for most
// and at least for a moment: whoever found a name before it was taken away is then
// connected, or will be refused. A successor may wait for each millisecond.
func (d *Data) letIn(most time.Duration) {
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-deadline.C:
			return
		case <-look.C:
			// In this order: who is let in between the two looks is seen by the second.
			if !slices.ContainsFunc(d.listeners, func(l *listener) bool { return knocks(l.Listener) }) && d.open() == 0 {
				return
			}
		}
	}
}

// settles waits until no connection is open, at most for d.
func (d *Data) settles(most time.Duration) bool {
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for d.open() > 0 {
		select {
		case <-deadline.C:
			return d.open() == 0
		case <-look.C:
			d.each((*conn).takeBack)
		}
	}
	return true
}

func (d *Data) open() (n int) {
	for _, l := range d.listeners {
		n += l.open()
	}
	return n
}

func (d *Data) each(f func(*conn)) {
	for _, l := range d.listeners {
		l.each(f)
	}
}

func (d *Data) closeListeners() {
	for _, l := range d.listeners {
		_ = l.Close()
	}
}

// release lets go of the socket's name.
func (d *Data) release() {
	d.endLife()
	if d.socket != nil {
		d.socket.remove()
		d.socket.unlock()
	}
}

// sweep looks after slow clients, and changed tokens, once a tick.
func (d *Data) sweep(stop <-chan struct{}) {
	t := time.NewTicker(d.tickEvery)
	defer t.Stop()
	mostReading, mostWriting := d.ticks(d.opts.ReadTimeout), d.ticks(d.opts.WriteTimeout)
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		now := d.tick.Add(1)
		d.each(func(c *conn) { c.sweep(now, mostReading, mostWriting) })
		for _, l := range d.listeners {
			if l.guard != nil {
				l.guard.reread()
			}
		}
	}
}

// ticks is how many ticks make t.
func (d *Data) ticks(t time.Duration) int64 { return int64(t / d.tickEvery) }

// panicked notes a panic. Its value may hold anything, so only what the runtime
// itself says is repeated.
func (d *Data) panicked(v any) {
	d.metrics.panics.Inc()
	what := fmt.Sprintf("%T", v)
	var re runtime.Error
	if err, ok := v.(error); ok && errors.As(err, &re) {
		what = re.Error()
	}
	d.logger.Error("a request panicked", zap.String("panic", what), zap.ByteString("stack", debug.Stack()))
}
