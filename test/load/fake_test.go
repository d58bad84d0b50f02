package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/history"
)

// pg is the one server of this package's tests.
var pg *testenv.Postgres

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if pg, err = testenv.StartPostgresMain(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := pg.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// fake is a sidecar that says what the test wants.
type fake struct {
	t      testing.TB
	socket string
	server *http.Server
	// handle answers everything.
	handle http.HandlerFunc
}

func newFake(t testing.TB, handle http.HandlerFunc) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "ld")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, socket: filepath.Join(dir, "s"), handle: handle}
	f.start()
	t.Cleanup(func() {
		f.stop()
		os.RemoveAll(dir)
	})
	return f
}

func (f *fake) start() {
	f.t.Helper()
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	f.server = &http.Server{Handler: f.handle}
	go func(s *http.Server) {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			f.t.Error(err)
		}
	}(f.server)
}

func (f *fake) stop() {
	_ = f.server.Close()
}

func say(w http.ResponseWriter, status int, format string, args ...any) {
	w.WriteHeader(status)
	fmt.Fprintf(w, format, args...)
}

func activeKey(w http.ResponseWriter, id string) {
	say(w, 200, `{"valid":true,"code":"active","key_id":%q,"owner_id":"m","algorithm":"ed25519","public_key":"AA==","scopes":[],"not_before":null,`+
		`"expires_at":null,"attributes":{},"as_of":{"history":"9f2c01ab","seq":1234,"age_ms":412},"source":"cache"}`, id)
}

// tape is a history that a test reads while it is written, after a fashion: it is
// closed and read when the drivers have ended.
type tape struct {
	*history.Writer
	path string
}

func newTape(t testing.TB) *tape {
	t.Helper()
	path := filepath.Join(t.TempDir(), "h")
	w, err := history.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return &tape{w, path}
}

// all returns the records of one type.
func all[T any](t testing.TB, h *tape) []T {
	t.Helper()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := history.Open(h.path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []T
	for rec, err := range r.Records() {
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := rec.(any).(*T); ok {
			got = append(got, *v)
		}
	}
	return got
}

// drive runs a driver and returns a function that ends it.
func drive(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

// eventually waits until done returns true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

func keyOf(r *http.Request) string {
	return strings.TrimPrefix(r.URL.Path, "/v1/keys/")
}
