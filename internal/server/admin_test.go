package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/keystore"
)

// startAdmin runs an admin listener until the test ends.
func startAdmin(t *testing.T, opts AdminOptions) (get func(path string) (int, string)) {
	t.Helper()
	opts.Address = "127.0.0.1:0"
	if opts.Gatherer == nil {
		reg := prometheus.NewRegistry()
		opts.Gatherer, opts.Registerer = reg, reg
	}
	a, err := NewAdmin(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return func(path string) (int, string) {
		t.Helper()
		res, err := client.Get("http://" + a.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be cached", path)
		}
		return res.StatusCode, string(b)
	}
}

// A database or broker that is away must not restart or unready a sidecar that
// still answers; one that cannot answer must say so.
func TestProbesTellWhetherTheSidecarAnswersAndNothingElse(t *testing.T) {
	t.Parallel()
	var status atomic.Pointer[keystore.Status]
	status.Store(&keystore.Status{})
	var broken atomic.Bool
	get := startAdmin(t, AdminOptions{
		Status: func() keystore.Status { return *status.Load() },
		Checks: []Check{{"extra", func() error {
			if broken.Load() {
				return errors.New("extra is broken")
			}
			return nil
		}}},
	})
	for _, tt := range []struct {
		name                     string
		status                   keystore.Status
		broken                   bool
		live, started, readiness int
	}{
		{"starting", keystore.Status{}, false, 200, 503, 503},
		{"answering", keystore.Status{Warmed: true, Fresh: true}, false, 200, 200, 200},
		{"lease over, fail closed", keystore.Status{Warmed: true, LastFenceError: "refused"}, false, 200, 200, 503},
		{"lease over, serving stale", keystore.Status{Warmed: true, ServesStale: true}, false, 200, 200, 200},
		{"a check fails", keystore.Status{Warmed: true, Fresh: true}, true, 200, 200, 503},
	} {
		status.Store(&tt.status)
		broken.Store(tt.broken)
		for path, want := range map[string]int{"/livez": tt.live, "/healthz": tt.live, "/startupz": tt.started, "/readyz": tt.readiness} {
			if got, body := get(path); got != want {
				t.Errorf("%s: %s: %d, want %d: %s", tt.name, path, got, want, body)
			}
		}
	}
	// The last row goes on: extra is broken.
	if code, body := get("/readyz?exclude=extra"); code != 200 || body != "ok" {
		t.Errorf("exclude: %d %q", code, body)
	}
	if code, body := get("/readyz?verbose&exclude=extra&exclude=nothing"); code != 200 ||
		body != "[+]ping ok\n[+]warmed ok\n[+]fresh ok\n[+]extra excluded: ok\nwarn: some checks cannot be excluded: no matches for \"nothing\"\nreadyz check passed\n" {
		t.Errorf("verbose: %d %q", code, body)
	}
	if _, body := get("/readyz"); body != "[+]ping ok\n[+]warmed ok\n[+]fresh ok\n[-]extra failed: extra is broken\nreadyz check failed\n" {
		t.Errorf("a failing probe does not say which check failed: %q", body)
	}
	if code, body := get("/livez?verbose"); code != 200 || body != "[+]ping ok\nlivez check passed\n" {
		t.Errorf("livez: %d %q", code, body)
	}
}

func TestARelayIsReadyByItsChecksAlone(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	get := startAdmin(t, AdminOptions{Checks: []Check{{"postgres", func() error {
		if broken.Load() {
			return errors.New("refused")
		}
		return nil
	}}}})
	for _, path := range []string{"/livez", "/startupz", "/readyz"} {
		if code, body := get(path); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	broken.Store(true)
	if code, _ := get("/readyz"); code != 503 {
		t.Errorf("readyz: %d", code)
	}
	if code, _ := get("/livez"); code != 200 {
		t.Errorf("livez: %d", code)
	}
}

func TestStartupMayNotWaitForTheWarm(t *testing.T) {
	t.Parallel()
	get := startAdmin(t, AdminOptions{Status: func() keystore.Status { return keystore.Status{} }, StartUnwarmed: true})
	if code, _ := get("/startupz"); code != 200 {
		t.Errorf("startupz: %d", code)
	}
	if code, _ := get("/readyz"); code != 503 {
		t.Errorf("readyz: %d", code)
	}
}

func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	if _, err := newMetrics(reg); err != nil {
		t.Fatal(err)
	}
	get := startAdmin(t, AdminOptions{Gatherer: reg, Registerer: reg})
	code, body := get("/metrics")
	if code != 200 || !strings.Contains(body, `keysidecar_verdicts_total{code="active"} 0`) || !strings.Contains(body, "keysidecar_http_request_duration_seconds_bucket") {
		t.Errorf("%d %s", code, body)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metric names: %v %v", problems, err)
	}
}

func TestStatuszTellsTheState(t *testing.T) {
	t.Parallel()
	get := startAdmin(t, AdminOptions{
		Status:   func() keystore.Status { return keystore.Status{Warmed: true, Entries: 7} },
		Instance: "i-1", Version: "1.2.3",
		Components: map[string]func() any{"broker": func() any { return map[string]bool{"connected": true} }},
		Activity: func() []keystore.Applied {
			at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			return []keystore.Applied{{Seq: 9, Kind: event.Revoked, KeyID: "pk_live_1", ByQueue: true, OccurredAt: at, AppliedAt: at.Add(1500 * time.Microsecond)}}
		},
	})
	code, body := get("/statusz")
	if strings.Contains(body, "pk_live_1") {
		t.Errorf("a key's id is shown: %s", body)
	}
	var m struct {
		Instance, Version string
		Build             struct{ Go string }
		Keystore          struct {
			Warmed  bool
			Entries int
		}
		Components struct{ Broker struct{ Connected bool } }
		Events     []eventBody `json:"recent_events"`
	}
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatal(err)
	}
	if code != 200 || m.Instance != "i-1" || m.Version != "1.2.3" || m.Build.Go == "" || !m.Keystore.Warmed || m.Keystore.Entries != 7 || !m.Components.Broker.Connected {
		t.Errorf("%d %s", code, body)
	}
	if len(m.Events) != 1 || m.Events[0].Seq != 9 || m.Events[0].Path != "queue" || m.Events[0].Lag != 1.5 || m.Events[0].Subject != event.Pseudonym("pk_live_1") {
		t.Errorf("%+v", m.Events)
	}
}

func TestTheAdminListenerHasNoOtherRoutes(t *testing.T) {
	t.Parallel()
	get := startAdmin(t, AdminOptions{})
	for _, path := range []string{"/", "/v1/status", "/v1/keys/pk_live_1", "/debug/pprof/", "/metrics/", "/livez/x"} {
		if code, _ := get(path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
}

// A scraper that leaks connections must not use up the process's descriptors.
func TestTheAdminListenerBoundsItsConnections(t *testing.T) {
	t.Parallel()
	a, err := NewAdmin(AdminOptions{Address: "127.0.0.1:0", Gatherer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for range adminConnections + 1 {
		c, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	last := held[adminConnections]
	_ = last.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a connection too many was kept: %v", err)
	}
	_ = held[0].Close()
	eventually(t, "a place becomes free", func() bool {
		res, err := http.Get("http://" + a.Addr().String() + "/livez")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == 200
	})
	http.DefaultClient.CloseIdleConnections()
}

func TestAdminOptionsAreChecked(t *testing.T) {
	t.Parallel()
	if _, err := NewAdmin(AdminOptions{Gatherer: prometheus.NewRegistry()}); err == nil {
		t.Error("no address")
	}
	if _, err := NewAdmin(AdminOptions{Address: ":0"}); err == nil {
		t.Error("no gatherer")
	}
	a, err := NewAdmin(AdminOptions{Address: "256.0.0.1:1", Gatherer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Listen(); err == nil || !strings.Contains(err.Error(), "256.0.0.1:1") {
		t.Errorf("Listen: %v", err)
	}
}

// Slow, large and never-ending requests to the admin listener are cut: whoever can
// reach it must not be able to keep the probes and the scrapes out.
func TestTheAdminListenerIsHeldUpBySlowOrLargeRequests(t *testing.T) {
	t.Parallel()
	a, err := NewAdmin(AdminOptions{Address: "127.0.0.1:0", Gatherer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if h := a.http; h.ReadHeaderTimeout > 5*time.Second || h.ReadTimeout > 10*time.Second || h.WriteTimeout > 30*time.Second || h.IdleTimeout > 2*time.Minute ||
		min(h.ReadHeaderTimeout, h.ReadTimeout, h.WriteTimeout, h.IdleTimeout) <= 0 {
		t.Error("a limit is missing, or long")
	}
	a.http.ReadHeaderTimeout, a.http.ReadTimeout, a.http.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	if err := a.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for name, sent := range map[string]string{
		"nothing":                 "",
		"half a header":           "GET /livez HTTP/1.1\r\nHost: x\r\nX-A",
		"a body that never comes": "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx",
		"idle after an answer":    "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
		"a large header":          "GET /livez HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", a.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, sent) // it may be cut while it sends
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			answer, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("still open; answered %q", answer)
			}
			if name == "a large header" && strings.HasPrefix(string(answer), "HTTP/1.1 200") {
				t.Errorf("answered %q", answer)
			}
		})
	}
}
