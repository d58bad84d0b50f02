package keystore

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// bench is a running store over a source, with the means to look at both.
type bench struct {
	t     testing.TB
	clock *clock.Clock
	store *Store
	stop  func()
}

func testOptions(src Source, c *clock.Clock, log *zap.Logger) Options {
	return Options{
		Clock: c, Source: src, Logger: log, Registerer: prometheus.NewRegistry(),
		Capacity: 1000, NegativeTTL: 5 * time.Second, FillTimeout: 500 * time.Millisecond, MaxFills: 16, MissRate: 1000,
		MaxStaleness: 3 * time.Second, FenceInterval: 50 * time.Millisecond, MinFenceGap: time.Millisecond,
		Instance: "test", Version: "test", Report: true,
	}
}

// build makes a store that does not run yet.
func build(t testing.TB, src Source, change ...func(*Options)) *bench {
	t.Helper()
	c := clock.New()
	o := testOptions(src, c, zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)))
	for _, f := range change {
		f(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, clock: c, store: s, stop: func() {}}
}

// run starts the store and ends it, with a leak check, when the test does.
func (b *bench) run() *bench {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.store.Run(ctx) }()
	stopped := false
	b.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	}
	b.t.Cleanup(b.stop)
	return b
}

func (b *bench) warm() *bench {
	b.t.Helper()
	b.run()
	select {
	case <-b.store.Warmed():
	case <-time.After(10 * time.Second):
		b.t.Fatalf("not warm after 10 s: %+v", b.store.Status())
	}
	return b
}

// expect looks a key up and compares the code.
func (b *bench) expect(id string, want Code) Answer {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // a wrong wait must fail, not hang
	defer cancel()
	a, err := b.store.Lookup(ctx, id, Bounds{})
	if want == Unavailable {
		var u *UnavailableError
		if !errors.As(err, &u) {
			b.t.Fatalf("%s: got %v, %v; want unavailable", id, a.Code, err)
		}
		return a
	}
	if err != nil || a.Code != want {
		b.t.Fatalf("%s: got %v, %v; want %v", id, a.Code, err, want)
	}
	return a
}

// eventually waits, without sleeping on hope, until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// fenced waits until a fence begun after this call has renewed the lease.
func (b *bench) fenced() {
	b.t.Helper()
	now := b.clock.Now()
	b.store.RequestFence(FenceForRequest)
	eventually(b.t, "a fresh fence", func() bool {
		l := b.store.mem.Load().lease.Load()
		return l != nil && !l.asked.Before(now)
	})
}

func key(i int) Key {
	return Key{ID: fmt.Sprintf("k%d", i), OwnerID: fmt.Sprintf("m%d", i%3), Algorithm: "ed25519", PublicKey: []byte("0123456789012345678901234567890123456789abcd"), Scopes: []string{"pay", "refund"}, Attributes: `{"env":"live"}`}
}
