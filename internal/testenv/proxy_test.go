package testenv_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// echo answers each line with itself.
func echo(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

type line struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) line {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return line{conn, bufio.NewReader(conn)}
}

// say sends a line and returns how the answer came, within limit.
func (l line) say(limit time.Duration) error {
	if _, err := l.Write([]byte("hello\n")); err != nil {
		return err
	}
	return l.hear(limit)
}

func (l line) hear(limit time.Duration) error {
	_ = l.SetReadDeadline(time.Now().Add(limit))
	_, err := l.r.ReadString('\n')
	return err
}

func TestProxyBreaksConnectionsAsNetworksDo(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("faults", func(t *testing.T) {
		p := testenv.NewProxy(t, echo(t))
		c := dial(t, p.Addr())
		if err := c.say(5 * time.Second); err != nil {
			t.Fatalf("forwarding: %v", err)
		}

		p.Freeze()
		late := dial(t, p.Addr())
		for _, l := range []line{c, late} {
			if err := l.say(30 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("frozen, yet %v", err)
			}
		}
		p.Thaw()
		for _, l := range []line{c, late} {
			if err := l.hear(5 * time.Second); err != nil {
				t.Fatalf("what was sent while frozen is lost: %v", err)
			}
		}

		p.Delay(40 * time.Millisecond)
		begin := time.Now()
		if err := c.say(5 * time.Second); err != nil || time.Since(begin) < 80*time.Millisecond {
			t.Fatalf("delayed answer after %v, %v", time.Since(begin), err)
		}
		p.Delay(0)

		if err := p.Refuse(true); err != nil {
			t.Fatal(err)
		}
		if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("refusing, yet %v", err)
		}
		if err := c.say(5 * time.Second); err != nil {
			t.Fatalf("refusing new connections broke an old one: %v", err)
		}
		if err := p.Refuse(false); err != nil {
			t.Fatal(err)
		}

		p.Cut()
		if err := c.say(5 * time.Second); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("cut, yet %v", err)
		}
		if err := dial(t, p.Addr()).say(5 * time.Second); err != nil {
			t.Fatalf("after the cut: %v", err)
		}
		if n := p.Accepted(); n != 3 {
			t.Fatalf("%d connections accepted, want 3", n)
		}
	})
}

// A peer that ended its connection during a partition is not heard of before
// the partition ends.
func TestProxyHoldsBackTheEndOfAConnectionWhileFrozen(t *testing.T) {
	p := testenv.NewProxy(t, echo(t))
	c := dial(t, p.Addr())
	if err := c.say(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	p.Freeze()
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := c.hear(30 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("frozen, yet %v", err)
	}
	p.Thaw()
	if err := c.hear(5 * time.Second); !errors.Is(err, io.EOF) {
		t.Fatalf("the end did not arrive: %v", err)
	}
}

func TestProxyTampersTruncatesAndIsLedElsewhere(t *testing.T) {
	p := testenv.NewProxy(t, echo(t))
	c := dial(t, p.Addr())
	if err := c.say(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	p.Tamper(func(toClient bool, data []byte) ([]byte, bool) {
		if toClient {
			return data[:2], true
		}
		return data, false
	})
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if got, err := io.ReadAll(c.r); string(got) != "he" || err != nil {
		t.Fatalf("truncated to %q, %v", got, err)
	}
	p.Tamper(nil)
	p.Retarget("127.0.0.1:1")
	if conn, err := net.Dial("tcp", p.Addr()); err == nil { // it may be refused at once
		t.Cleanup(func() { conn.Close() })
		if err := (line{conn, bufio.NewReader(conn)}).say(5 * time.Second); err == nil {
			t.Fatal("a new connection still reaches the old target")
		}
	}
	p.Retarget(echo(t))
	if err := dial(t, p.Addr()).say(5 * time.Second); err != nil {
		t.Fatal(err)
	}
}
