package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// begin gives the test its context, and checks before and after it that everything
// works.
func begin(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if err := atWork(ctx, world.sidecars...); err != nil {
			t.Errorf("the test left something broken: %v", err)
		}
	})
	must(t, atWork(ctx, world.sidecars...))
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func change(t *testing.T, ctx context.Context, sql string, args ...any) time.Time {
	t.Helper()
	if _, err := world.sql.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return time.Now()
}

func number(t *testing.T, ctx context.Context, sql string, args ...any) (n int64) {
	t.Helper()
	if err := world.sql.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// issue makes an active key, and waits until the sidecars have it in memory.
func issue(t *testing.T, ctx context.Context, ownerID, id string, sidecars ...*cluster.Sidecar) {
	t.Helper()
	change(t, ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ($2, $1, 'opaque')`, ownerID, id)
	for _, s := range sidecars {
		_, err := s.Until(ctx, id, func(v cluster.Verdict) bool { return v.Valid && v.Source == "cache" })
		must(t, err)
	}
}

// revoke revokes a key by plain SQL and waits until every sidecar refuses it. An
// answer "valid" to a request that was sent later than the bound allows fails the test.
func revoke(t *testing.T, ctx context.Context, id string, sidecars ...*cluster.Sidecar) (slowest time.Duration) {
	t.Helper()
	committed := change(t, ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, id)
	for _, s := range sidecars {
		v, err := s.Until(ctx, id, cluster.Code("revoked"))
		must(t, err)
		slowest = max(slowest, v.SentAt.Sub(committed))
	}
	if slowest > maxStaleness {
		t.Errorf("%s was refused %v after its revocation", id, slowest)
	}
	return slowest
}

// asking asks sidecars for a key all the time.
type asking struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex
	asked int
	bad   []cluster.Verdict
}

// ask begins to ask; good says which answers are expected.
func ask(ctx context.Context, id string, good func(cluster.Verdict) bool, sidecars ...*cluster.Sidecar) *asking {
	a := &asking{stop: make(chan struct{})}
	for _, s := range sidecars {
		a.wg.Go(func() { a.loop(ctx, s, id, good) })
	}
	return a
}

func (a *asking) loop(ctx context.Context, s *cluster.Sidecar, id string, good func(cluster.Verdict) bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := s.Get(ctx, id)
		a.mu.Lock()
		a.asked++
		if err != nil || !good(v) {
			a.bad = append(a.bad, v)
		}
		a.mu.Unlock()
		select {
		case <-a.stop:
			return
		case <-tick.C:
		}
	}
}

// end stops asking and fails the test if there was an answer that was not expected.
func (a *asking) end(t *testing.T, during string) {
	t.Helper()
	close(a.stop)
	a.wg.Wait()
	if len(a.bad) > 0 {
		t.Errorf("%s: %d of %d answers were not as expected, the first: %+v", during, len(a.bad), a.asked, a.bad[0])
	}
	if a.asked < 5 {
		t.Errorf("%s: only %d questions", during, a.asked)
	}
}

func valid(v cluster.Verdict) bool { return v.Valid }

// metric reads a metric of a sidecar.
func metric(t *testing.T, ctx context.Context, s *cluster.Sidecar, name string) float64 {
	t.Helper()
	n, err := s.Metric(ctx, name)
	must(t, err)
	return n
}

// says waits until a process has logged text after what it had logged before.
func says(t *testing.T, ctx context.Context, p *cluster.Process, before, text string) {
	t.Helper()
	must(t, wait(ctx, p.Name+" to log "+text, func() (bool, error) {
		return strings.Contains(strings.TrimPrefix(p.Log(), before), text), nil
	}))
}

// runbook returns the block of code under a heading of docs/operations.md that holds
// text.
func runbook(t *testing.T, heading, text string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "docs/operations.md"))
	must(t, err)
	_, section, found := strings.Cut(string(data), "\n### "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n##")
	for _, block := range regexp.MustCompile("(?ms)^ *```[a-z]+\n(.*?)^ *```$").FindAllStringSubmatch(section, -1) {
		if strings.Contains(block[1], text) {
			return block[1]
		}
	}
	t.Fatalf("docs/operations.md: %q (found: %v) has no block with %q", heading, found, text)
	return ""
}
