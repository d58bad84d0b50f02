package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keysidecar/keysidecar/internal/keystore"
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
	mux.HandleFunc("GET /statusz", a.statusz)
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

// statuszBody is what /statusz answers.
type statuszBody struct {
	Instance   string         `json:"instance"`
	Version    string         `json:"version"`
	Build      buildBody      `json:"build"`
	Keystore   *statusBody    `json:"keystore,omitempty"`
	Components map[string]any `json:"components,omitempty"`
	// Events are those applied last, newest first.
	Events []eventBody `json:"recent_events,omitempty"`
}

type buildBody struct {
	Go       string `json:"go"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
}

// statusz tells the state of the process in JSON.
func (a *Admin) statusz(w http.ResponseWriter, _ *http.Request) {
	body := statuszBody{Instance: a.opts.Instance, Version: a.opts.Version, Build: readBuild()}
	if a.opts.Status != nil {
		s := a.opts.Status()
		k := newStatusBody(a.opts.Instance, a.opts.Version, &s)
		body.Keystore = &k
	}
	if a.opts.Activity != nil {
		for _, e := range a.opts.Activity() {
			body.Events = append(body.Events, newEventBody(&e))
		}
	}
	if len(a.opts.Components) > 0 {
		body.Components = make(map[string]any, len(a.opts.Components))
		for name, status := range a.opts.Components {
			body.Components[name] = status()
		}
	}
	b, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		a.logger.Error("cannot encode the status", zap.Error(err))
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	_, _ = w.Write(append(b, '\n'))
}

// readBuild says what the binary was made from.
func readBuild() (b buildBody) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
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
