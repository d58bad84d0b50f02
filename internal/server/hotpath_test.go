package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// nopRegisterer takes everything.
type nopRegisterer struct{}

func (nopRegisterer) Register(prometheus.Collector) error  { return nil }
func (nopRegisterer) MustRegister(...prometheus.Collector) {}
func (nopRegisterer) Unregister(prometheus.Collector) bool { return true }

// scriptedConn is a connection whose client asks the same n times, each time
// when it has been answered.
type scriptedConn struct {
	net.Conn // nil: nothing else is called

	tb      testing.TB
	request []byte
	n       int
	answers int
	last    []byte
	keep    bool
	// buffer is what the library reads into; wrote is called after each answer.
	buffer []byte
	wrote  func()
	data   *Data
}

func (c *scriptedConn) Read(p []byte) (int, error) {
	if c.n == 0 {
		return 0, io.EOF
	}
	c.n--
	c.last = c.last[:0]
	c.buffer = p
	return copy(p, c.request), nil
}

func (c *scriptedConn) Write(p []byte) (int, error) {
	c.answers++
	if c.keep {
		c.last = append(c.last, p...)
	}
	if c.wrote != nil {
		c.wrote()
	}
	return len(p), nil
}

func (*scriptedConn) Close() error                     { return nil }
func (*scriptedConn) SetDeadline(time.Time) error      { return nil }
func (*scriptedConn) SetReadDeadline(time.Time) error  { return nil }
func (*scriptedConn) SetWriteDeadline(time.Time) error { return nil }
func (*scriptedConn) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "x", Net: "unix"} }
func (*scriptedConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "y", Net: "unix"} }

// serveScripted answers request n times through everything but a socket.
func serveScripted(tb testing.TB, keys Keys, request string, n int, change ...func(*DataOptions)) {
	tb.Helper()
	serve := func(n int) *scriptedConn {
		s := newScripted(tb, keys, func(o *DataOptions) {
			for _, c := range change {
				c(o)
			}
		}, request)
		s.serve(n)
		return s
	}
	if first := serve(3); !bytes.HasPrefix(first.last, []byte("HTTP/1.1 200 OK\r\n")) {
		tb.Fatalf("%s", first.last)
	}
	if b, ok := tb.(*testing.B); ok {
		b.ReportAllocs()
		b.ResetTimer()
	}
	serve(n)
}

// newScripted is a connection to a data plane of its own.
func newScripted(tb testing.TB, keys Keys, change func(*DataOptions), request string) *scriptedConn {
	tb.Helper()
	opts := DataOptions{Keys: keys, Registerer: prometheus.NewRegistry(), Logger: zap.NewNop(), Socket: Socket{Path: "unused"}}
	change(&opts)
	d, err := NewData(opts)
	if err != nil {
		tb.Fatal(err)
	}
	d.listeners = []*listener{{id: listenerUnix, data: d}}
	return &scriptedConn{tb: tb, request: []byte(request), data: d}
}

// serve answers the request n times.
func (c *scriptedConn) serve(n int) {
	c.tb.Helper()
	c.n, c.answers, c.keep = n, 0, n < 10
	served := &conn{Conn: c, listener: c.data.listeners[0]}
	served.framer.limits = c.data.frameLimits()
	if err := c.data.http.ServeConn(served); err != nil {
		c.tb.Fatal(err)
	}
	if c.answers < n {
		c.tb.Fatalf("%d answers to %d requests", c.answers, n)
	}
}

const getActive = "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"

func postOf(target, body string) string {
	return "POST " + target + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

var postVerify = postOf("/v1/verify", `{"key_id":"pk_live_1","owner_id":"m_1","scopes":["pay"],"attributes":{"env":"live"}}`)

func postBatch(n int) string {
	return postOf("/v1/verify/batch", `{"requests":[`+strings.TrimSuffix(strings.Repeat(`{"key_id":"pk_live_1","owner_id":"m_1"},`, n), ",")+`]}`)
}

// A cached key costs the handler no garbage: the collector would otherwise run
// in proportion to the requests, and with it the pauses of all answers.
func TestACachedAnswerAllocatesAlmostNothing(t *testing.T) {
	keys := newFixedKeys(t)
	for name, tt := range map[string]struct {
		request string
		most    float64
	}{
		"get":              {getActive, 0},
		"get with escapes": {strings.Replace(getActive, "pk_live_1", "pk%5flive_1", 1), 0},
		"get with bounds":  {strings.Replace(getActive, "Accept: */*", "Accept: application/json;q=0.9, text/plain\r\nCache-Control: max-age=2", 1), 0},
		"verify":           {postVerify, 0},
		"batch of 10":      {postBatch(10), 0},
	} {
		t.Run(name, func(t *testing.T) {
			result := testing.Benchmark(func(b *testing.B) { serveScripted(b, keys, tt.request, b.N) })
			// The race detector makes pools forget at random.
			if got := result.AllocsPerOp(); float64(got) > tt.most && !raceEnabled {
				t.Errorf("%d allocations for an answer, at most %v: %s %s", got, tt.most, result, result.MemString())
			}
			t.Logf("%s %s", result, result.MemString())
		})
	}
}

func BenchmarkGetKey(b *testing.B) { serveScripted(b, newFixedKeys(b), getActive, b.N) }
func BenchmarkVerify(b *testing.B) { serveScripted(b, newFixedKeys(b), postVerify, b.N) }

func BenchmarkBatchOf100(b *testing.B) {
	serveScripted(b, newFixedKeys(b), postBatch(100), b.N)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/key")
}

// BenchmarkFramer is what reading along costs a request.
func BenchmarkFramer(b *testing.B) {
	f := framer{limits: frameLimits{header: maxHeader, body: bodyLimit}}
	request := []byte(getActive)
	b.ReportAllocs()
	for b.Loop() {
		if _, bad := f.feed(request); bad != nil {
			b.Fatal(bad)
		}
	}
}

func BenchmarkAppendVerdict(b *testing.B) {
	a, err := newFixedKeys(b).Lookup(context.Background(), "pk_live_1", keystore.Bounds{})
	if err != nil {
		b.Fatal(err)
	}
	v := verdict{code: active, keyID: "pk_live_1", answer: a}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		out = appendVerdict(out[:0], &v)
	}
}

// BenchmarkSocket asks over a real Unix socket, one request at a time.
func BenchmarkSocket(b *testing.B) {
	s := start(b)
	c := s.dial()
	_ = c.SetDeadline(time.Time{})
	request, answer := []byte(getActive), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
	}
}
