package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/keystore"
)

// rows is a source of n keys, like those of bench/peers, that never change.
type rows struct{ n int }

func (rows) Kind() string                                                { return "file" }
func (rows) Register(context.Context, keystore.Incarnation) (int, error) { return 1, nil }
func (rows) SignOff(context.Context, []uuid.UUID) error                  { return nil }
func (rows) Close()                                                      {}
func (rows) Watch(ctx context.Context, _ func()) error                   { <-ctx.Done(); return nil }
func (rows) FillOwner(context.Context, string, int, keystore.Cursor, keystore.Membership, func(*keystore.Row) bool) (keystore.Filled, error) {
	return keystore.Filled{}, io.ErrUnexpectedEOF
}

func (rows) Fill(context.Context, string, keystore.Cursor, keystore.Membership, func(keystore.Filled)) error {
	return io.ErrUnexpectedEOF
}

func (rows) Fence(context.Context, keystore.FenceQuestion) (keystore.Page, error) {
	return keystore.Page{Member: true, Reported: true, Fleet: 1, Known: true, Timeline: "1", Time: time.Now(), CaptureIntact: true}, nil
}

func (r rows) Warm(_ context.Context, _ int, head func(keystore.Head) error, row func(*keystore.Row) error) error {
	if err := head(keystore.Head{Cursor: keystore.Cursor{Seq: 1234, ID: uuid.UUID{1}}, Timeline: "1", CaptureIntact: true, Keys: int64(r.n)}); err != nil {
		return err
	}
	for i := range r.n {
		if err := row(&keystore.Row{
			ID: []byte(rowID(i)), OwnerID: fmt.Appendf(nil, "m_%d", i/100), Algorithm: []byte("ed25519"),
			PublicKey: append([]byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"), fmt.Sprintf("%032d", i)...),
			Scopes:    [][]byte{[]byte("pay")}, NotBefore: keystore.Never, ExpiresAt: keystore.Always,
		}); err != nil {
			return err
		}
	}
	return nil
}

func rowID(i int) string { return fmt.Sprintf("pk_bench_%08d", i) }

// manyKeys is a real store with n keys in memory.
func manyKeys(tb testing.TB, n int) *keystore.Store {
	tb.Helper()
	s, err := keystore.New(keystore.Options{
		Clock: clock.New(), Source: rows{n}, Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		Capacity: n, FillTimeout: time.Second, MaxFills: 1, MissRate: 1,
		MaxStaleness: 3 * time.Second, FenceInterval: time.Second, MinFenceGap: time.Millisecond, Instance: "bench", Report: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	select {
	case <-s.Warmed():
	case <-time.After(time.Minute):
		tb.Fatal("not warm after a minute")
	}
	return s
}

// randomBatches are requests for 100 of n keys each.
func randomBatches(n int) [][]byte {
	draw := rand.New(rand.NewPCG(1, 1))
	all := make([][]byte, 500)
	for i := range all {
		var b strings.Builder
		for range 100 {
			fmt.Fprintf(&b, `{"key_id":"%s"},`, rowID(draw.IntN(n)))
		}
		all[i] = []byte(postOf("/v1/verify/batch", `{"requests":[`+strings.TrimSuffix(b.String(), ",")+`]}`))
	}
	return all
}

// rotatingConn is a scriptedConn whose client asks one question after the other.
type rotatingConn struct {
	scriptedConn

	requests [][]byte
}

func (c *rotatingConn) Read(p []byte) (int, error) {
	c.request = c.requests[c.n%len(c.requests)]
	return c.scriptedConn.Read(p)
}

// BenchmarkBatch asks a real store for 100 of many keys at a time: the server alone,
// and over a Unix socket, with the client's part of the work.
func BenchmarkBatch(b *testing.B) {
	const n = 100_000
	keys, requests := manyKeys(b, n), randomBatches(n)
	var begun time.Duration
	begin := func(b *testing.B) {
		b.ReportAllocs()
		b.ResetTimer()
		begun = processorTime(b)
	}
	perKey := func(b *testing.B) {
		b.ReportMetric(float64((processorTime(b)-begun).Nanoseconds())/float64(b.N)/100, "cpu-ns/key")
	}
	b.Run("alone", func(b *testing.B) {
		c := &rotatingConn{scriptedConn: *newScripted(b, keys, func(*DataOptions) {}, ""), requests: requests}
		c.n = b.N
		served := &conn{Conn: c, listener: c.data.listeners[0]}
		served.framer.limits = c.data.frameLimits()
		begin(b)
		if err := c.data.http.ServeConn(served); err != nil || c.answers < b.N {
			b.Fatal(c.answers, err)
		}
		perKey(b)
	})
	b.Run("socket", func(b *testing.B) {
		s := start(b, func(o *DataOptions) { o.Keys = keys })
		c := s.dial()
		_ = c.SetDeadline(time.Time{})
		answer := make([]byte, 64<<10)
		begin(b)
		for i := range b.N {
			if _, err := c.Write(requests[i%len(requests)]); err != nil {
				b.Fatal(err)
			}
			for n := 0; !bytes.HasSuffix(answer[:n], []byte("]}")); {
				more, err := c.Read(answer[n:])
				if n += more; err != nil {
					b.Fatal(err)
				}
			}
		}
		perKey(b)
	})
}

// processorTime is what the process has used: unlike the time that passed, it says
// something while others work on the machine.
func processorTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(syscall.TimevalToNsec(u.Utime) + syscall.TimevalToNsec(u.Stime))
}
