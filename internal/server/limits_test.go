package server

import (
	"bufio"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
)

// Thousands of connections are served up to the limit; one more is told so and
// closed, and its place is free again when another goes.
func TestThousandsOfConnections(t *testing.T) {
	t.Parallel()
	const most = 2000
	s := start(t, func(o *DataOptions) { o.MaxConnections = most })
	const ask = "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
	conns := make([]net.Conn, most)
	for i := range conns {
		conns[i] = s.dial()
	}
	eventually(t, "all are open", func() bool { return s.metric("keysidecar_http_connections", "listener", "unix") == most })
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < most; i += 8 {
				if _, err := io.WriteString(conns[i], ask); err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				if a, err := readAnswer(bufio.NewReader(conns[i]), "GET"); err != nil || a.status != 200 {
					t.Errorf("connection %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()

	for i := range 50 {
		a := s.raw(ask, 1)
		if len(a) != 1 || a[0].status != 503 || a[0].code() != "too_many_connections" || a[0].header.Get("Retry-After") != "1" || !a[0].closed {
			t.Fatalf("connection %d too many: %+v", i, a)
		}
	}
	if got := s.metric("keysidecar_http_connections_refused_total", "listener", "unix", "reason", "limit"); got != 50 {
		t.Errorf("refused: %v", got)
	}
	// The other listener has a limit of its own.
	if a := s.doTCP("GET", "/v1/keys/pk_live_1", ""); a.status != 200 {
		t.Errorf("over tcp: %d", a.status)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, "all are closed", func() bool { return s.metric("keysidecar_http_connections", "listener", "unix") == 0 })
	s.mustServe()
}

// What a large request left in a connection's buffers is not kept while the
// connection idles.
func TestAnIdleConnectionKeepsNoLargeBuffers(t *testing.T) {
	t.Parallel()
	var x exchange
	var d Data
	x.out, x.body.scratch = make([]byte, 0, keepBuffer+1), make([]byte, 0, keepBuffer+1)
	x.body.text = make([]byte, 1)
	x.trim(&d)
	if x.out != nil || x.body.scratch != nil || x.body.text != nil {
		t.Error("kept")
	}
	d.borrow(&x)
	x.out = append(x.out, make([]byte, 100)...)
	if x.trim(&d); x.out != nil || x.large != nil {
		t.Error("a borrowed buffer was kept")
	}
	x.out = make([]byte, 0, keepBuffer)
	if x.trim(&d); x.out == nil {
		t.Error("a buffer of usual size was given up")
	}
}

// Memory of idle connections, for the documents: go test -run '^$' -bench Idle.
func BenchmarkIdleConnections(b *testing.B) {
	s := start(b, func(o *DataOptions) { o.MaxConnections = 1 << 20 })
	conns := make([]net.Conn, 0, b.N)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range b.N {
		c := s.dial()
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/float64(b.N), "B/conn")
}
