package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/receipt"
	"github.com/keysidecar/keysidecar/internal/statuspage"
)

// AdminOptions configure an admin listener. Address and Gatherer are required.
type AdminOptions struct {
	// Address is where it listens; kubelet and Prometheus must reach it, so not
	// loopback in a pod.
	Address string
	// Status is the keystore's; nil where there is none (a relay).
	Status func() keystore.Status
	// Activity is what the keystore applied last; nil where there is none.
	Activity func() []keystore.Applied
	// Glance and Lookups are the keystore's; Glance is called every two seconds, for the
	// status page's chart, and by nobody else. Both or neither are nil.
	Glance  func() keystore.Glance
	Lookups func() keystore.Lookups
	// Receipts are the waits that the data listener has; nil where there is no registry.
	Receipts func() []receipt.Progress
	// Postgres and Broker are for the status page of a sidecar; nil where there is none.
	Postgres func() *statuspage.Postgres
	Broker   func() *statuspage.Broker
	// Fleet makes this the admin listener of a relay. It returns what is known about all
	// sidecars, and lists those whose name contains search; what it returns is changed.
	Fleet func(ctx context.Context, search string) *statuspage.Fleet
	// Checks must pass besides for /readyz. Each must return within milliseconds.
	Checks []Check
	// StartUnwarmed lets /startupz pass before the first warm (startup.require: none).
	StartUnwarmed bool
	// Instance and Version are told by /statusz.
	Instance, Version string
	// Components are told by /statusz under their names. What they return must be
	// fit for encoding/json, and hold neither keys nor secrets.
	Components map[string]func() any
	Gatherer   prometheus.Gatherer
	// Registerer, if not nil, gets the metrics handler's own error counter.
	Registerer prometheus.Registerer
	Logger     *zap.Logger
}

// Check is a named condition of readiness. The text of its error is shown to
// whoever can reach the admin listener.
type Check struct {
	Name  string
	Check func() error
}

// Limits of the admin listener. A probe takes milliseconds, a scrape a few more.
const (
	adminConnections = 128
	adminScrapes     = 4
	adminStopTime    = 500 * time.Millisecond
)

// Admin serves metrics, probes and the state of the process over net/http. It
// has no key data and changes nothing, so it may listen on the pod's address.
type Admin struct {
	opts     AdminOptions
	logger   *zap.Logger
	statusz  *statusz
	http     *http.Server
	listener net.Listener
}

// NewAdmin checks the options.
func NewAdmin(opts AdminOptions) (*Admin, error) {
	switch {
	case opts.Address == "":
		return nil, errors.New("server: no admin address")
	case opts.Gatherer == nil:
		return nil, errors.New("server: no Gatherer")
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	errorLog, err := zap.NewStdLogAt(opts.Logger, zapcore.WarnLevel)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	a := &Admin{opts: opts, logger: opts.Logger}
	a.statusz = newStatusz(&a.opts)
	a.http = &http.Server{
		Handler:           a.handler(errorLog),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute, // more than kubelet and Prometheus wait between requests
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          errorLog,
	}
	return a, nil
}

// handler is the admin listener's routes.
func (a *Admin) handler(errorLog promhttp.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.opts.Gatherer, promhttp.HandlerOpts{
		ErrorLog: errorLog, ErrorHandling: promhttp.ContinueOnError, Registry: a.opts.Registerer,
		MaxRequestsInFlight: adminScrapes, Timeout: 10 * time.Second, EnableOpenMetrics: true,
	}))
	mux.Handle("GET /livez", a.probe("livez", nil))
	mux.Handle("GET /healthz", a.probe("healthz", nil))
	mux.Handle("GET /startupz", a.probe("startupz", a.startupChecks()))
	mux.Handle("GET /readyz", a.probe("readyz", a.readinessChecks()))
	mux.Handle("GET /statusz", a.statusz)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// Listen binds the address. After a successful Listen, Run must be called, if
// only with a context that has ended.
func (a *Admin) Listen() error {
	l, err := net.Listen("tcp", a.opts.Address)
	if err != nil {
		return fmt.Errorf("admin address %q: %w", a.opts.Address, err)
	}
	a.listener = &limitedListener{Listener: l, free: adminConnections}
	a.logger.Info("listening", zap.String("listener", "admin"), zap.Stringer("address", l.Addr()))
	return nil
}

// Addr returns the address that was bound.
func (a *Admin) Addr() net.Addr { return a.listener.Addr() }

// Run serves until ctx ends, and stops within a second.
func (a *Admin) Run(ctx context.Context) error {
	measuring, stopMeasuring := context.WithCancel(ctx)
	var measurer sync.WaitGroup
	measurer.Go(func() { a.statusz.measure(measuring) })
	defer measurer.Wait()
	defer stopMeasuring()
	served := make(chan error, 1)
	go func() { served <- a.http.Serve(a.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin listener: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminStopTime)
	defer cancel()
	if a.http.Shutdown(stop) != nil {
		_ = a.http.Close()
	}
	<-served
	return nil
}

// limitedListener closes what connects beyond its number.
type limitedListener struct {
	net.Listener
	mu   sync.Mutex
	free int
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		ok := l.free > 0
		if ok {
			l.free--
		}
		l.mu.Unlock()
		if ok {
			return &limitedConn{Conn: c, listener: l}, nil
		}
		_ = c.Close()
	}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	listener *limitedListener
	once     sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() {
		c.listener.mu.Lock()
		c.listener.free++
		c.listener.mu.Unlock()
	})
	return c.Conn.Close()
}
