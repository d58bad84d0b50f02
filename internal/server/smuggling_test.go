package server

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A request that could be read in two ways is answered once, the connection is
// closed, and what follows it on the wire is never taken for a request.
func TestAmbiguousMessagesAreRefusedOnceAndClose(t *testing.T) {
	t.Parallel()
	s := start(t)
	const second = "GET /v1/keys/pk_smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, m := range badMessages {
		for _, before := range []string{"", "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"} {
			counted := s.metric("keysidecar_http_bad_requests_total", "reason", m.want.code)
			answered := s.metric("keysidecar_http_requests_total", "route", "none")
			got := s.raw(before+m.sent+second, 3)
			if before != "" {
				if len(got) == 0 || got[0].status != 200 {
					t.Errorf("%s: the good request before it was answered %+v", m.name, got)
					continue
				}
				got = got[1:]
			}
			if len(got) != 1 || got[0].status != m.want.status || got[0].code() != m.want.code || !got[0].closed {
				t.Errorf("%s: %+v", m.name, got)
			}
			if s.metric("keysidecar_http_bad_requests_total", "reason", m.want.code) != counted+1 ||
				s.metric("keysidecar_http_requests_total", "route", "none") != answered+1 {
				t.Errorf("%s: not counted once", m.name)
			}
		}
	}
	s.keys.mu.Lock()
	for _, c := range s.keys.calls {
		if c.id == "pk_smuggled" {
			t.Error("a smuggled request was served")
		}
	}
	s.keys.mu.Unlock()
	s.mustServe()
}

// The same, with every message cut into single bytes on the wire.
func TestAmbiguousMessagesAreRefusedByteByByte(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, m := range badMessages {
		if len(m.sent) > 300 {
			continue
		}
		c := s.dial()
		for i := range len(m.sent) {
			if _, err := io.WriteString(c, m.sent[i:i+1]); err != nil {
				break // refused before its end
			}
		}
		got := s.answers(bufio.NewReader(c), nil, 2)
		if len(got) != 1 || got[0].status != m.want.status || got[0].code() != m.want.code {
			t.Errorf("%s: %+v", m.name, got)
		}
		_ = c.Close()
	}
	s.mustServe()
}

// What is odd but unambiguous is served as the RFC says.
func TestUnusualMessagesAreServed(t *testing.T) {
	t.Parallel()
	s := start(t)
	const get = "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n"
	const question = `{"key_id":"pk_live_1"}` // 22 = 0x16 bytes
	const post = "POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for _, tt := range []struct {
		name, sent string
		statuses   []int
		closed     bool
	}{
		{"an empty line first", "\r\n" + get + "\r\n", []int{200}, false},
		{"an empty line between", get + "\r\n\r\n" + get + "\r\n", []int{200, 200}, false},
		{"blanks around a value", "GET /v1/keys/pk_live_1 HTTP/1.1\r\nhOST: \t x \t\r\n\r\n", []int{200}, false},
		{"Upgrade to h2c", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n" + get + "\r\n", []int{200, 200}, false},
		{"Upgrade to websocket", get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", []int{200}, false},
		{"Connection: close", get + "Connection: close\r\n\r\n" + get + "\r\n", []int{200}, true},
		{"Connection: Close", get + "Connection: Close\r\n\r\n" + get + "\r\n", []int{200}, true},
		{"Connection: foo, close", get + "Connection: foo ,\tCLOSE\r\n\r\n" + get + "\r\n", []int{200}, true},
		{"close, then keep-alive", get + "Connection: close\r\nConnection: keep-alive\r\n\r\n" + get + "\r\n", []int{200}, true},
		{"HTTP/1.0 ends", "GET /v1/keys/pk_live_1 HTTP/1.0\r\n\r\n" + get + "\r\n", []int{200}, true},
		{"HTTP/1.0 with Host ends", "GET /v1/keys/pk_live_1 HTTP/1.0\r\nHost: x\r\n\r\n", []int{200}, true},
		{"HTTP/1.0 kept alive", "GET /v1/keys/pk_live_1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" + get + "\r\n", []int{200, 200}, false},
		{"chunked", post + "Transfer-Encoding: chunked\r\n\r\n16\r\n" + question + "\r\n0\r\n\r\n" + get + "\r\n", []int{200, 200}, false},
		{"chunked by single bytes", post + "Transfer-Encoding: chunked\r\n\r\n" + chunksOf1(question) + "0\r\n\r\n" + get + "\r\n", []int{200, 200}, false},
		{"Expect and the body at once", post + "Expect: 100-continue\r\nContent-Length: 22\r\n\r\n" + question, []int{100, 200}, false},
		{"Expect without a body", get + "Expect: 100-continue\r\n\r\n", []int{100, 200}, false},
		{"Expect in other letters", post + "Expect: 100-CONTINUE\r\nContent-Length: 22\r\n\r\n" + question, []int{200}, false},
		{"pipelined", strings.Repeat(get+"\r\n", 50) + post + "Content-Length: 22\r\n\r\n" + question + get + "\r\n", statuses(200, 52), false},
		{"pipelined, one bad key among them", get + "\r\nGET /v1/keys/a%2Fb HTTP/1.1\r\nHost: x\r\n\r\n" + get + "\r\n", []int{200, 400, 200}, false},
		{"pipelined HEADs", "HEAD /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n" + get + "\r\n" + "HEAD /v1/verify HTTP/1.1\r\nHost: x\r\n\r\n" + get + "\r\n", []int{200, 200, 405, 200}, false},
		{"control character in a value", "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\nA: \x01\r\n\r\n" + get + "\r\n", []int{400}, true},
		{"Latin-1 in a value", get + "A: \xe9\r\n\r\n", []int{200}, false},
		{"a URL for a key", "GET /v1/keys/http://x HTTP/1.1\r\nHost: x\r\n\r\n" + get + "\r\n", []int{404, 200}, false},
		{"a body the route refuses, then more", "PUT /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + get + "\r\n", []int{405, 200}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := s.raw(tt.sent, len(tt.statuses))
			if len(got) != len(tt.statuses) {
				t.Fatalf("%d answers, want %d", len(got), len(tt.statuses))
			}
			for i, want := range tt.statuses {
				if got[i].status != want {
					t.Errorf("answer %d: %d %s, want %d", i, got[i].status, got[i].body, want)
				}
			}
			if got[len(got)-1].closed != tt.closed {
				t.Errorf("closed: %v", got[len(got)-1].closed)
			}
		})
	}
	s.mustServe()
}

func chunksOf1(body string) string {
	var b strings.Builder
	for i := range len(body) {
		b.WriteString("1\r\n" + body[i:i+1] + "\r\n")
	}
	return b.String()
}

func statuses(status, n int) (all []int) {
	for range n {
		all = append(all, status)
	}
	return all
}

// A client that waits for 100 Continue before it sends a body gets it, or the
// refusal without having sent anything.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial()
	r := bufio.NewReader(c)
	if _, err := io.WriteString(c, "POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 22\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got := s.answers(r, [][2]string{{"POST", "/v1/verify"}}, 1); len(got) != 1 || got[0].status != 100 {
		t.Fatalf("%+v", got)
	}
	if _, err := io.WriteString(c, `{"key_id":"pk_live_1"}`); err != nil {
		t.Fatal(err)
	}
	if got := s.answers(r, [][2]string{{"POST", "/v1/verify"}}, 1); len(got) != 1 || got[0].status != 200 {
		t.Fatalf("%+v", got)
	}
	got := s.raw("POST /v1/verify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n", 2)
	if len(got) != 1 || got[0].status != 413 {
		t.Errorf("a body that will be refused was asked for: %+v", got)
	}
}

// A client may close its sending side once it has asked, and still gets its
// answer. One that goes away in mid-request leaves nothing behind.
func TestHalfOpenConnections(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial().(*net.UnixConn)
	if _, err := io.WriteString(c, "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := s.answers(bufio.NewReader(c), nil, 2); len(got) != 1 || got[0].status != 200 {
		t.Errorf("%+v", got)
	}

	c = s.dial().(*net.UnixConn)
	if _, err := io.WriteString(c, "POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\n{\"key"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := s.answers(bufio.NewReader(c), nil, 2); len(got) != 1 || got[0].status != 400 || got[0].code() != "malformed_request" {
		t.Errorf("a truncated body: %+v", got)
	}

	for range 20 {
		c := s.dial()
		if _, err := io.WriteString(c, "GET /v1/keys/pk_li"); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	eventually(t, "abandoned connections are gone", func() bool { return s.metric("keysidecar_http_connections", "listener", "unix") == 0 })
	s.mustServe()
}

// The answer to a request that is refused early must reach a client that is
// still sending: closing at once would reset the connection under it.
func TestARefusalReachesAClientThatStillSends(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, network := range []string{"unix", "tcp"} {
		address := s.path
		if network == "tcp" {
			address = s.data.TCPAddr().String()
		}
		c := s.dialTo(network, address)
		go func() {
			_, _ = io.WriteString(c, "POST /v1/verify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"+strings.Repeat("x", 200000))
		}()
		got := s.answers(bufio.NewReader(c), [][2]string{{"POST", "/v1/verify"}}, 2)
		if len(got) != 1 || got[0].status != 413 {
			t.Errorf("%s: %+v", network, got)
		}
		_ = c.Close()
	}
}

// A request that trickles in is ended; a connection that waits between requests
// is not, however long.
func TestSlowClientsAreCutAndIdleOnesAreNot(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.ReadTimeout = 80 * time.Millisecond })
	idle := s.dial()
	idleReader := bufio.NewReader(idle)
	get := "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"
	if _, err := io.WriteString(idle, get); err != nil {
		t.Fatal(err)
	}
	if got := s.answers(idleReader, nil, 1); len(got) != 1 || got[0].status != 200 {
		t.Fatalf("%+v", got)
	}
	fresh := s.dial()

	for _, begun := range []string{
		"G",
		"GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost:",
		"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\n{\"key",
		"POST /v1/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{",
		get + "GET /v1",
	} {
		c := s.dial()
		before := s.metric("keysidecar_http_bad_requests_total", "reason", "request_timeout")
		got := s.exchange(c, begun, 3)
		if len(got) == 0 {
			t.Errorf("%q: closed without an answer", begun)
			continue
		}
		if last := got[len(got)-1]; last.status != 408 || last.code() != "request_timeout" || !last.closed {
			t.Errorf("%q: %+v", begun, last)
		}
		if after := s.metric("keysidecar_http_bad_requests_total", "reason", "request_timeout"); after != before+1 {
			t.Errorf("%q: counted %v times", begun, after-before)
		}
	}
	trickle := s.dial()
	go func() {
		for i := range len(get) {
			if _, err := io.WriteString(trickle, get[i:i+1]); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	if got := s.answers(bufio.NewReader(trickle), nil, 1); len(got) != 1 || got[0].status != 408 {
		t.Errorf("a request at 50 bytes a second: %+v", got)
	}

	// By now the two idle ones have waited many times the limit.
	for _, c := range []net.Conn{idle, fresh} {
		r := idleReader
		if c == fresh {
			r = bufio.NewReader(c)
		}
		if _, err := io.WriteString(c, get); err != nil {
			t.Fatal(err)
		}
		if got := s.answers(r, nil, 1); len(got) != 1 || got[0].status != 200 {
			t.Errorf("an idle connection was closed: %+v", got)
		}
	}
	s.mustServe()
}

// A client that asks and never reads must not hold a connection for ever.
func TestAClientThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.WriteTimeout = 80 * time.Millisecond })
	c := s.dial()
	ask := strings.Repeat("GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n", 100)
	for range 100 {
		if _, err := io.WriteString(c, ask); err != nil {
			break // the server has cut the connection
		}
	}
	eventually(t, "the connection is gone", func() bool { return s.metric("keysidecar_http_connections", "listener", "unix") == 0 })
	if got := s.metric("keysidecar_http_connections_aborted_total", "reason", "slow_reader"); got != 1 {
		t.Errorf("counted %v", got)
	}
	s.mustServe()
}
