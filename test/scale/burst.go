package scale

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/load"
	"github.com/keysidecar/keysidecar/test/proc"
)

// Burst is what revoking very many keys in one transaction does to sidecars that are
// asked all the time.
type Burst struct {
	Sidecars, Keys int
	// Commit is how long the transaction took; Applied, from its acknowledged commit
	// until the last sidecar had applied every event.
	Commit, Applied time.Duration
	// ByQueue and ByFence are the events that one sidecar applied on each way; most
	// are applied on both.
	ByQueue, ByFence float64
	// Fences is how many one sidecar asked meanwhile.
	Fences float64
	// Quiet and During are how long look-ups took before and while it was applied.
	Quiet, During Latency
	// Before, Peak and After are a sidecar's resident memory, in bytes; After is
	// half a minute later.
	Before, Peak, After int64
}

// Latency of look-ups.
type Latency struct {
	Requests int
	P50, P99 time.Duration
	// Refused counts answers that were neither 200 nor 410.
	Refused int
}

// lookEvery is how often the sidecars' counters are read: a scrape costs a
// millisecond of their time.
const lookEvery = 200 * time.Millisecond

// quietLooks is how many looks without a message are taken for the end, where a queue
// had no room for all of them.
const quietLooks = 15

// burstRate is the look-ups a second of each sidecar, over burstConns connections.
const (
	burstRate  = 2000
	burstConns = 4
)

// Burst revokes n keys in one transaction. They must have been there when the
// sidecars were warmed, and so must one more, which is looked up.
func (f *Fleet) Burst(ctx context.Context, n int) (b Burst, err error) {
	b.Sidecars, b.Keys = len(f.Sidecars), n
	if err := f.aside(ctx); err != nil {
		return b, err
	}
	lookups, err := f.startLookups(ctx, "scale_1")
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, lookups.stop()) }()
	if err := cluster.Sleep(ctx, 2*time.Second); err != nil { // not counted: connections, caches
		return b, err
	}
	lookups.take()
	if err := cluster.Sleep(ctx, 10*time.Second); err != nil {
		return b, err
	}
	b.Quiet = lookups.take()
	one := f.Sidecars[0]
	before, err := counters(ctx, one)
	if err != nil {
		return b, err
	}
	if b.Before, err = proc.Memory(one.Pid(), "VmRSS"); err != nil {
		return b, err
	}
	begun := time.Now()
	committed, err := f.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE revoked_at IS NULL AND key_id <> 'scale_1' AND key_id IN
		(SELECT 'scale_' || i FROM generate_series(2, $1::int + 1) i)`, n)
	if err != nil {
		return b, err
	}
	b.Commit = committed.Sub(begun)
	lookups.take()
	if err := f.untilApplied(ctx, n, before, &b); err != nil {
		return b, err
	}
	b.Applied, b.During = time.Since(committed), lookups.take()
	after, err := counters(ctx, one)
	if err != nil {
		return b, err
	}
	b.ByQueue, b.ByFence, b.Fences = after.queue-before.queue, after.fence-before.fence, after.fences-before.fences
	if err := cluster.Sleep(ctx, 30*time.Second); err != nil {
		return b, err
	}
	if b.After, err = proc.Memory(one.Pid(), "VmRSS"); err != nil {
		return b, err
	}
	return b, f.allRefuse(ctx, n)
}

// aside lets Postgres, the broker and the relay run only when no sidecar wants to:
// elsewhere they have machines of their own, and what look-ups wait for here is to be
// the sidecars' work.
func (f *Fleet) aside(ctx context.Context) error {
	broker, err := f.brokerPid()
	if err != nil {
		return err
	}
	var dir string
	if err := f.SQL.QueryRow(ctx, `SHOW data_directory`).Scan(&dir); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(line)
	if err != nil {
		return err
	}
	postgres, err := proc.Family(postmaster)
	if err != nil {
		return err
	}
	return proc.Yield(append(postgres, broker, f.Relay.Pid())...)
}

// untilApplied waits until each sidecar's fences have brought n events more, and
// every message that is still coming has been applied.
func (f *Fleet) untilApplied(ctx context.Context, n int, before applied, b *Burst) error {
	var head float64
	if err := f.SQL.QueryRow(ctx, `SELECT max(seq) FROM keysidecar.events`).Scan(&head); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	quiet, last := 0, before.queue
	for {
		if err := cluster.Sleep(ctx, lookEvery); err != nil {
			return fmt.Errorf("the burst was not applied: %w", err)
		}
		behind := 0
		var one applied
		for i, s := range f.Sidecars {
			now, err := counters(ctx, s)
			if err != nil {
				return err
			}
			if now.cursor < head {
				behind++
			}
			if i == 0 {
				one = now
			}
		}
		memory, err := proc.Memory(f.Sidecars[0].Pid(), "VmRSS")
		if err != nil {
			return err
		}
		b.Peak = max(b.Peak, memory)
		if quiet++; one.queue != last {
			quiet, last = 0, one.queue
		}
		if behind == 0 && (quiet > quietLooks || one.queue-before.queue >= float64(n)) {
			return nil
		}
	}
}

// allRefuse asks one sidecar for some of the keys.
func (f *Fleet) allRefuse(ctx context.Context, n int) error {
	for i := 2; i <= n+1; i += max(1, n/100) {
		v, err := f.Sidecars[0].Get(ctx, fmt.Sprintf("scale_%d", i))
		if err != nil {
			return err
		}
		if v.Status != http.StatusGone {
			return fmt.Errorf("scale_%d is answered %d %q after the burst", i, v.Status, v.Code)
		}
	}
	return nil
}

// applied is what a sidecar has counted, and where its cursor stands.
type applied struct{ queue, fence, fences, cursor float64 }

func counters(ctx context.Context, s *cluster.Sidecar) (applied, error) {
	v, err := s.Metrics(ctx, `keysidecar_events_applied_total{path="queue"}`, `keysidecar_events_applied_total{path="fence"}`,
		`keysidecar_fence_duration_seconds_count`, "keysidecar_cursor_seq")
	return applied{v[0], v[1], v[2], v[3]}, err
}

// lookups ask every sidecar for one key at a steady rate.
type lookups struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	failed atomic.Pointer[error]

	mu      sync.Mutex
	took    []time.Duration
	refused int
}

func (f *Fleet) startLookups(ctx context.Context, key string) (*lookups, error) {
	l := &lookups{}
	ctx, l.cancel = context.WithCancel(ctx)
	for _, s := range f.Sidecars {
		for range burstConns {
			c, err := load.Dial(ctx, s.Socket)
			if err != nil {
				return nil, errors.Join(err, l.stop())
			}
			l.all.Go(func() {
				err := errors.Join(l.ask(ctx, c, key), c.Close())
				if err != nil {
					l.failed.Store(&err)
				}
			})
		}
	}
	return l, nil
}

// ask sends each request when it is due. One that is due while another is under way
// waits, and that time counts: a stall must not hide the requests it held up.
func (l *lookups) ask(ctx context.Context, c *load.Conn, key string) error {
	const every = time.Second * burstConns / burstRate
	due := time.Now()
	for {
		due = due.Add(every)
		if cluster.Sleep(ctx, time.Until(due)) != nil {
			return nil //nolint:nilerr // told to stop
		}
		status, _, err := c.Get("/v1/keys/", key, "", 5*time.Second)
		if err != nil {
			return err
		}
		took := time.Since(due)
		l.mu.Lock()
		l.took = append(l.took, took)
		if status != http.StatusOK && status != http.StatusGone {
			l.refused++
		}
		l.mu.Unlock()
	}
}

// take returns what was measured since the last time.
func (l *lookups) take() Latency {
	l.mu.Lock()
	took, refused := l.took, l.refused
	l.took, l.refused = nil, 0
	l.mu.Unlock()
	return Latency{Requests: len(took), P50: evidence.Quantile(took, 0.5), P99: evidence.Quantile(took, 0.99), Refused: refused}
}

func (l *lookups) stop() error {
	l.cancel()
	l.all.Wait()
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}
