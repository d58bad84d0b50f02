package server

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

const stopLimit = 2 * time.Second

// However clients behave, the daemon is gone within two seconds of being asked,
// and its socket with it.
func TestStoppingIsBounded(t *testing.T) {
	t.Parallel()
	const ask = "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, disturb := range map[string]func(t *testing.T, s *service){
		"nobody": func(*testing.T, *service) {},
		"idle connections": func(t *testing.T, s *service) {
			for range 50 {
				c := s.dial()
				if a := s.exchange(c, ask, 1); len(a) != 1 || a[0].status != 200 {
					t.Fatalf("%+v", a)
				}
			}
		},
		"connections that never ask": func(_ *testing.T, s *service) {
			for range 50 {
				s.dial()
			}
		},
		"half a request": func(t *testing.T, s *service) {
			if _, err := io.WriteString(s.dial(), ask[:10]); err != nil {
				t.Fatal(err)
			}
		},
		"a body that does not come": func(t *testing.T, s *service) {
			if _, err := io.WriteString(s.dial(), "POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		},
		"a look-up that hangs": func(t *testing.T, s *service) {
			s.keys.set(func(f *fakeKeys) { f.hang = true })
			if _, err := io.WriteString(s.dial(), ask); err != nil {
				t.Fatal(err)
			}
			<-s.keys.entered
		},
		"a client that does not read": func(_ *testing.T, s *service) {
			c := s.dial()
			go func() {
				for {
					if _, err := io.WriteString(c, strings.Repeat("GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n", 100)); err != nil {
						return
					}
				}
			}()
			eventually(t, "the client blocks the server", func() bool { return blockedInWrite(s.data) })
		},
		"a refused client that goes on": func(t *testing.T, s *service) {
			c := s.dial()
			if _, err := io.WriteString(c, "GET / HTTP/1.1\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			disturb(t, s)
			began := time.Now()
			if err := s.stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
			if took := time.Since(began); took > stopLimit {
				t.Errorf("stopping took %v", took)
			}
			if _, err := os.Lstat(s.path); err == nil {
				t.Error("the socket is still there")
			}
			if c, err := net.Dial("tcp", s.data.TCPAddr().String()); err == nil {
				_ = c.Close()
				t.Error("the loopback address still accepts")
			}
			if n := s.metric("keysidecar_http_connections"); n != 0 {
				t.Errorf("%v connections are open", n)
			}
		})
	}
}

func blockedInWrite(d *Data) bool {
	blocked := false
	first := d.tick.Load()
	d.each(func(c *conn) {
		since := c.writing.Load()
		blocked = blocked || since != 0 && since < first
	})
	return blocked
}

// A request that is being answered when the daemon is asked to stop is answered,
// and told to close.
func TestStoppingFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	s := start(t)
	wait := make(chan struct{})
	s.keys.set(func(f *fakeKeys) { f.remote["pk_live_1"] = true; f.wait = wait })
	c := s.dial()
	if _, err := io.WriteString(c, "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-s.keys.entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "it stops", s.data.stopping.Load)
	eventually(t, "nobody new connects", func() bool {
		c, err := net.Dial("unix", s.path)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(wait)
	got := s.answers(bufio.NewReader(c), nil, 2)
	if len(got) != 1 || got[0].status != 200 || !got[0].closed {
		t.Errorf("%+v", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Whoever asks in the first moments of a restart is answered by the process that goes:
// its successor needs some time, too.
func TestStoppingTurnsAwayNewConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.drain = time.Second })
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "it stops", s.data.stopping.Load)
	for range 2 {
		c := s.dial()
		got := s.exchange(c, "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n", 1)
		if len(got) != 1 || got[0].status != 200 || !got[0].closed {
			t.Errorf("%+v", got)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Whoever waits to be let in when the listener is closed is cut off.
func TestWaitingConnectionIsOverlooked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "s.sock")
	d := newSocketData(t, path, func(o *DataOptions) { o.TCP.Address = "127.0.0.1:0" })
	if err := d.Listen(); err != nil {
		t.Fatal(err)
	}
	defer end(t, d)
	for _, l := range d.listeners {
		if knocks(l.Listener) {
			t.Errorf("%v: nobody waits", l.id)
		}
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the connection is seen to wait", func() bool { return knocks(l.Listener) })
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if knocks(l.Listener) {
			t.Errorf("%v: it was let in", l.id)
		}
		_ = accepted.Close()
		_ = c.Close()
	}
}

// What still waits when the time is up is told that nothing can be told.
func TestStoppingAnswersUnavailable(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) { f.hang = true })
	c := s.dial()
	if _, err := io.WriteString(c, "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-s.keys.entered
	go func() { _ = s.stop() }()
	got := s.answers(bufio.NewReader(c), nil, 2)
	if len(got) != 1 || got[0].status != 503 || got[0].code() != "unavailable" || !got[0].closed {
		t.Errorf("%+v", got)
	}
}

// A client that keeps asking while the daemon stops gets right answers or none.
func TestStoppingUnderLoadGivesNoWrongAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	done := make(chan struct{})
	answered := make(chan int, 8)
	for range 8 {
		c := s.dial()
		go func() {
			n := 0
			defer func() { answered <- n }()
			r := bufio.NewReader(c)
			for {
				if _, err := io.WriteString(c, "GET /v1/keys/pk_revoked HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					return
				}
				a, err := readAnswer(r, "GET")
				if err != nil {
					return
				}
				if a.status != 410 {
					t.Errorf("%d %s", a.status, a.body)
				}
				if n++; n == 100 {
					select {
					case done <- struct{}{}:
					default:
					}
				}
				if a.closed {
					return
				}
			}
		}()
	}
	<-done
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	for range 8 {
		<-answered
	}
}

// A look-up that ignores the end of its context must not keep the process.
func TestStoppingDoesNotWaitForTheStubborn(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	keys := stubborn{entered: make(chan struct{}, 1), release: release}
	path := shortDir(t) + "/s.sock"
	d := newSocketData(t, path, func(o *DataOptions) { o.Keys = keys })
	if err := d.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-keys.entered
	began := time.Now()
	cancel()
	if err := <-ended; err == nil {
		t.Error("Run does not say that a request was left behind")
	}
	if took := time.Since(began); took > stopLimit {
		t.Errorf("stopping took %v", took)
	}
}

type stubborn struct {
	entered chan struct{}
	release chan struct{}
}

func (s stubborn) Lookup(_ context.Context, _ string, b keystore.Bounds) (keystore.Answer, error) {
	if b.AtOnce {
		return keystore.Answer{}, keystore.ErrNotAtOnce
	}
	s.entered <- struct{}{}
	<-s.release
	return keystore.Answer{}, &keystore.UnavailableError{Reason: keystore.ReasonStopping}
}

func (stubborn) Read(keystore.Bounds) keystore.Reading { return keystore.Reading{} }

func (stubborn) KeySet(context.Context, string, keystore.Bounds) (keystore.KeySet, error) {
	return keystore.KeySet{}, &keystore.UnavailableError{Reason: keystore.ReasonStopping}
}

func (stubborn) Audit(context.Context) (*keystore.AuditReport, error) {
	return nil, keystore.ErrAuditUnavailable
}

func (stubborn) Status() keystore.Status { return keystore.Status{} }
