package app

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/config"
)

// logBuffer is written by the daemon and read by the test.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// fileConfig is a sidecar on a key file with a socket, both in a directory of the
// test's own.
func fileConfig(t *testing.T) *config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "ks") // short: the socket's path is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	keys := filepath.Join(dir, "keys.yaml")
	if err := os.WriteFile(keys, []byte("keys:\n- {key_id: pk_1, owner_id: m_1, algorithm: opaque}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Instance = "test"
	c.Store.Kind, c.Store.File.Path = config.StoreFile, keys
	c.Listen.Socket.Path = filepath.Join(dir, "k.sock")
	c.Listen.Admin.Address = ""
	if err := c.Validate(config.ForSidecar); err != nil {
		t.Fatal(err)
	}
	return c
}

// serve runs a sidecar; the function it returns stops it and returns its error.
func serve(t *testing.T, c *config.Config) (log *logBuffer, stop func() error) {
	t.Helper()
	log = &logBuffer{}
	logger, _, err := NewLogger(c, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, c, Build{Version: "test"}, logger) }()
	return log, func() error {
		cancel()
		return <-ended
	}
}

// get asks over the socket, again until want is in the answer or 10 s have gone.
func get(t *testing.T, socket, path, want string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var last string
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := client.Do(req); err != nil {
			last = err.Error()
		} else {
			body, _ := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if last = string(body); strings.Contains(last, want) {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: want %s, have %s", path, want, last)
		case <-tick.C:
		}
	}
}

func TestASidecarServesAndStopsWithinTwoSecondsWithoutALeftover(t *testing.T) {
	c := fileConfig(t)
	log, stop := serve(t, c)
	get(t, c.Listen.Socket.Path, "/v1/keys/pk_1", `"valid":true`)
	// A client that keeps its connection must not hold the end up.
	idle, err := net.Dial("unix", c.Listen.Socket.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	start := time.Now()
	if err := stop(); err != nil {
		t.Errorf("a requested stop is an error: %v\n%s", err, log)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if _, err := os.Stat(c.Listen.Socket.Path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if !strings.Contains(log.String(), "at most 3s after its revocation") {
		t.Errorf("the log does not say what is promised:\n%s", log)
	}
}

// The next start must find the socket and the ports free: nothing that was bound
// before the failure may stay bound.
func TestAStartThatFailsLetsGoOfWhatItHad(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, change := range map[string]func(*config.Config){
		"admin address taken": func(c *config.Config) { c.Listen.Admin.Address = taken.Addr().String() },
		"tcp address taken":   func(c *config.Config) { c.Listen.TCP.Address = taken.Addr().String() },
		"no directory": func(c *config.Config) {
			c.Listen.Admin.Address = "127.0.0.1:0"
			c.Listen.Socket.Path = filepath.Join(filepath.Dir(c.Listen.Socket.Path), "none", "k.sock")
		},
		"no key file": func(c *config.Config) { c.Store.File.Path += ".none" },
	} {
		t.Run(name, func(t *testing.T) {
			c := fileConfig(t)
			change(c)
			log, stop := serve(t, c)
			if err := stop(); err == nil {
				t.Errorf("started all the same:\n%s", log)
			}
			if _, err := os.Stat(c.Listen.Socket.Path); !os.IsNotExist(err) {
				t.Errorf("the socket is still there: %v", err)
			}
		})
	}
}

// unreachable is a sidecar whose database nobody answers for.
func unreachable(t *testing.T) *config.Config {
	t.Helper()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	c := fileConfig(t)
	c.Store.Kind = config.StorePostgres
	c.Store.Postgres.DSN = "postgres://nobody@" + address + "/none?sslmode=disable"
	c.Startup.MaxWait = 300 * time.Millisecond
	return c
}

func TestASidecarThatCannotWarmEndsWithAClearErrorIfThatIsRequired(t *testing.T) {
	c := unreachable(t)
	logger, _, err := NewLogger(c, &logBuffer{})
	if err != nil {
		t.Fatal(err)
	}
	err = Serve(t.Context(), c, Build{}, logger)
	if err == nil || !strings.Contains(err.Error(), "not warm after startup.max_wait (300ms") {
		t.Errorf("have %v", err)
	}
}

func TestASidecarThatCannotWarmGoesOnAnswering503OtherwiseAndNeverValid(t *testing.T) {
	c := unreachable(t)
	c.Startup.Require = config.RequireNone
	log, stop := serve(t, c)
	get(t, c.Listen.Socket.Path, "/v1/keys/pk_1", `"code":"unavailable"`)
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(log.String(), "not warm yet, going on") {
		if time.Now().After(deadline) {
			t.Fatalf("no warning:\n%s", log)
		}
		get(t, c.Listen.Socket.Path, "/v1/keys/pk_1", `"code":"unavailable"`)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTheAdminListenerTellsWhetherItStartedAndIsReady(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := fileConfig(t)
	c.Listen.Admin.Address = free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	_, stop := serve(t, c)
	get(t, c.Listen.Socket.Path, "/v1/keys/pk_1", `"valid":true`)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, path := range []string{"/livez", "/startupz", "/readyz", "/statusz", "/metrics"} {
		answer, err := client.Get("http://" + c.Listen.Admin.Address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", path, answer.StatusCode, body)
		}
		if path == "/metrics" && !strings.Contains(string(body), `keysidecar_build_info{goversion="go`) {
			t.Error("no build information among the metrics")
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
