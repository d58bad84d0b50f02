package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/keysidecar/keysidecar/test/load"
)

func loadKinds() []Kind {
	const short, long = time.Second, 8 * time.Second
	return []Kind{
		{"flood of made-up keys", OfLoad, func(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
			part, run := w.some(r), w.name("made-up")
			return flood(ctx, w, part, func(n int) string { return fmt.Sprintf("%s-%d", run, n) })
		}, short, long},
		{"more keys in use than memory holds", OfLoad, func(ctx context.Context, w *World, _ *rand.Rand) (Fault, error) {
			part := w.having(func(s Spec) bool { return s.Name == "tiny" })
			return flood(ctx, w, part, func(n int) string { return fmt.Sprintf("thrash_%d", 1+n%thrashKeys) })
		}, short, long},
		{"flood of connections", OfLoad, connections, short, long},
	}
}

// floodTimeout is how long an answer may take.
const floodTimeout = 5 * time.Second

// floodRate bounds the requests a second that a flood makes to a sidecar: more of
// them would starve the machine that everything runs on, not the sidecar.
const floodRate = 500

// flood asks sidecars for keys as fast as allowed. What is answered is nobody's
// claim; it may not be "valid" for a key that does not exist.
func flood(ctx context.Context, w *World, part []*Sidecar, key func(n int) string) (Fault, error) {
	var stops []func() error
	for _, s := range w.of(part) {
		n := 0
		stops = append(stops, repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
			err := burst(ctx, s.Socket, func(i int) string { return key(n + i) }, floodRate/20)
			n += floodRate / 20
			if errors.Is(err, ErrBroken) {
				return 0, err
			}
			return 50 * time.Millisecond, nil // the sidecar may be away: another fault's business
		}))
	}
	return Fault{Affected: part, Mend: func(context.Context) error {
		var err error
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
		return err
	}}, nil
}

// burst asks for n keys on one connection.
func burst(ctx context.Context, socket string, key func(i int) string, n int) error {
	c, err := load.Dial(ctx, socket)
	if err != nil {
		return err
	}
	hangUp := func() { _ = c.Close() }
	defer hangUp()
	defer context.AfterFunc(ctx, hangUp)()
	for i := range n {
		status, _, err := c.Get("/v1/keys/", key(i), "", floodTimeout)
		if err != nil {
			return err
		}
		if status == http.StatusOK && strings.HasPrefix(key(i), "made-up") {
			return fmt.Errorf("%w: %s accepts the made-up key %s", ErrBroken, socket, key(i))
		}
	}
	return nil
}

// floodConnections is how many connections a flood holds, per sidecar.
const floodConnections = 1500

// connections opens connections to sidecars' sockets and says nothing on them.
func connections(ctx context.Context, w *World, r *rand.Rand) (Fault, error) {
	part := w.some(r)
	var (
		mu   sync.Mutex
		held []net.Conn
	)
	var stops []func() error
	for _, s := range w.of(part) {
		n := 0
		stops = append(stops, repeatedly(ctx, func(ctx context.Context) (time.Duration, error) {
			for range 100 {
				if n >= floodConnections {
					return time.Second, nil
				}
				conn, err := new(net.Dialer).DialContext(ctx, "unix", s.Socket)
				if err != nil {
					return 50 * time.Millisecond, nil //nolint:nilerr // it may be away
				}
				n++
				mu.Lock()
				held = append(held, conn)
				mu.Unlock()
			}
			return 10 * time.Millisecond, nil
		}))
	}
	return Fault{Affected: part, Mend: func(context.Context) error {
		var err error
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
		for _, conn := range held {
			_ = conn.Close()
		}
		return err
	}}, nil
}
