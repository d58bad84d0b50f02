package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// piecesConn delivers bytes in pieces whose sizes sizes gives, again and again.
type piecesConn struct {
	net.Conn // nil: nothing else is called

	rest  []byte
	sizes []byte
	reads int
}

func (c *piecesConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	size := 1
	if len(c.sizes) > 0 {
		size += int(c.sizes[c.reads%len(c.sizes)]) * 37
	}
	c.reads++
	n := copy(p, c.rest[:min(size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func (*piecesConn) SetReadDeadline(time.Time) error { return nil }

// readAsTheLibrary reads to the end through conn.Read as the library does: with a
// buffer that holds what is not consumed yet, starting anew when the connection moves
// to the other buffer. It returns what was handed on, and the problem.
func readAsTheLibrary(t *testing.T, sent, sizes []byte) (got []byte, bad *problem) {
	d := &Data{gateway: new(gateway)}
	d.tick.Store(1)
	c := &conn{Conn: &piecesConn{rest: sent, sizes: sizes}, listener: &listener{data: d}}
	c.framer.limits = d.frameLimits()
	behind := framer{limits: d.frameLimits()} // sees what the library sees
	consumed := 0                             // bytes of got that belong to complete messages
	buffer := make([]byte, maxGatewayHeader+64)
	for range 10*len(sent) + 100 {
		size := maxHeader + 64
		if c.wide {
			size = maxGatewayHeader + 64
		}
		// A body is consumed as it comes; of a head nothing is until it has ended.
		unread := 0
		if behind.state <= inFields {
			unread = len(got) - consumed
		}
		if unread >= size {
			return got, c.bad // the library's buffer is full, and c.bad is what is answered
		}
		p := buffer[:size-unread]
		n, err := c.Read(p)
		if n > 0 {
			if _, bad := behind.feed(bytes.Clone(p[:n])); bad != nil && c.bad == nil {
				t.Fatalf("the library was handed what is refused: %v", bad)
			}
			got = append(got, p[:n]...)
			if behind.between() {
				consumed = len(got)
			} else if behind.began > c.handled+1 {
				consumed = len(got) - (n - behind.from)
			}
			c.handled = behind.ended
		}
		switch {
		case err == nil:
		case errors.As(err, &bad):
			return got, bad
		case c.moving:
			if !behind.between() || n > 0 {
				t.Fatal("the connection moved while the library had bytes of a request")
			}
			c.moving = false
		default:
			return got, nil
		}
	}
	t.Fatalf("no end after %d bytes of %d", len(got), len(sent))
	return nil, nil
}

// FuzzHold: whatever is kept back for a while, the library gets the very bytes that
// arrived, in order and all of them, up to the first that is refused; and what is
// refused does not depend on the pieces it arrives in.
func FuzzHold(f *testing.F) {
	large := "GET /v1/authz HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 9000) + "\r\n\r\n"
	for _, s := range []string{
		simple, simple + simple, large, simple + large + simple, large + large, large[:8500], "GET /v1/authz/" + strings.Repeat("a", 9000) + " HTTP/1.1\r\nHost: x\r\n\r\n" + simple,
		"POST /v1/authz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + simple, "\r\n" + large, strings.Replace(large, "A: ", "A:\n", 1) + simple,
	} {
		f.Add([]byte(s), []byte{255, 3, 0})
		f.Add([]byte(s), []byte{0})
	}
	for _, m := range badMessages {
		f.Add([]byte(m.sent), []byte{1, 2})
	}
	f.Fuzz(func(t *testing.T, sent, sizes []byte) {
		if len(sent) > 200_000 || len(sizes) > 100 {
			return
		}
		whole := &framer{limits: frameLimits{header: maxHeader, gatewayHeader: maxGatewayHeader, body: bodyLimit}}
		_, want := whole.feed(bytes.Clone(sent))
		got, bad := readAsTheLibrary(t, sent, sizes)
		if !bytes.HasPrefix(sent, got) {
			t.Fatalf("%d bytes are not those that were sent", len(got))
		}
		if (want == nil) != (bad == nil) || want != nil && want.code != bad.code {
			t.Fatalf("%v, want %v", bad, want)
		}
		if bad == nil && len(got) != len(sent) {
			t.Fatalf("%d bytes of %d were handed on", len(got), len(sent))
		}
	})
}
