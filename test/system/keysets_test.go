package system

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// keySet is an owner's JWK Set as one sidecar gave it.
type keySet struct {
	kids   []string
	tag    string
	status int
	sentAt time.Time
}

// setAsker asks one sidecar for sets; it keeps its connection.
func setAsker(t *testing.T, s *cluster.Sidecar) func(ctx context.Context, owner string, header ...string) (keySet, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return func(ctx context.Context, owner string, header ...string) (keySet, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/owners/"+owner+"/jwks.json", http.NoBody)
		if err != nil {
			return keySet{}, err
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		got := keySet{sentAt: time.Now()}
		res, err := transport.RoundTrip(req)
		if err != nil {
			return keySet{}, err
		}
		defer res.Body.Close()
		got.status, got.tag = res.StatusCode, res.Header.Get("ETag")
		if got.status != http.StatusOK {
			return got, nil
		}
		var body struct {
			Keys []struct {
				Kid string `json:"kid"`
			} `json:"keys"`
		}
		if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
			return keySet{}, err
		}
		for _, k := range body.Keys {
			got.kids = append(got.kids, k.Kid)
		}
		return got, nil
	}
}

// goneBy runs change and returns the longest time, over all sidecars, until key is in
// no set of the owner any more. A set that has it and was asked for later than the
// bound fails the test; and so does a library's way of asking, which must not be told
// "not modified" of a set that has the key.
func goneBy(t *testing.T, ctx context.Context, owner, key string, change func() time.Time) time.Duration {
	t.Helper()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		lastYes time.Time
		gone    = make([]time.Time, len(world.sidecars))
	)
	for i, s := range world.sidecars {
		ask := setAsker(t, s)
		wg.Go(func() {
			kept := keySet{}
			for ctx.Err() == nil {
				got, err := ask(ctx, owner, "If-None-Match", kept.tag)
				switch {
				case err != nil:
					t.Error(err)
					return
				case got.status == http.StatusOK:
					kept = got
				case got.status == http.StatusNotModified:
					kept.sentAt = got.sentAt
				default: // nobody can tell
					continue
				}
				if !slices.Contains(kept.kids, key) {
					gone[i] = time.Now()
					return
				}
				mu.Lock()
				if kept.sentAt.After(lastYes) {
					lastYes = kept.sentAt
				}
				mu.Unlock()
			}
			t.Errorf("%s: %s is never gone", s.Name, key)
		})
	}
	committed := change()
	wg.Wait()
	if late := lastYes.Sub(committed); late > maxStaleness {
		t.Errorf("%s was still in a set asked for %v after the commit", key, late)
	}
	var slowest time.Duration
	for _, at := range gone {
		slowest = max(slowest, at.Sub(committed))
	}
	return slowest
}

func TestRevokedKeyStaysInASet(t *testing.T) {
	ctx := healthy(t)
	const owner = "m_sets"
	exec(t, ctx, `INSERT INTO keysidecar.owners (owner_id) VALUES ('m_sets'), ('m_other')`)
	exec(t, ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key)
		SELECT 's_' || i, 'm_sets', 'ed25519', decode('302a300506032b6570032100' || md5(i::text) || md5(i::text), 'hex') FROM generate_series(0, 9) i`)
	var tags []string
	for _, s := range world.sidecars {
		ask := setAsker(t, s)
		for {
			got, err := ask(ctx, owner)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.kids) == 10 {
				tags = append(tags, got.tag)
				break
			}
		}
	}
	if len(slices.Compact(tags)) != 1 {
		t.Errorf("sidecars give different tags to the same set: %q", tags)
	}
	sql := func(text string) func() time.Time {
		return func() time.Time { return exec(t, ctx, text) }
	}
	t.Logf("revoked: gone after %v", goneBy(t, ctx, owner, "s_0", sql(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 's_0'`)))
	t.Logf("deleted: gone after %v", goneBy(t, ctx, owner, "s_1", sql(`DELETE FROM keysidecar.public_keys WHERE key_id = 's_1'`)))
	t.Logf("given to another: gone after %v", goneBy(t, ctx, owner, "s_2", sql(`UPDATE keysidecar.public_keys SET owner_id = 'm_other' WHERE key_id = 's_2'`)))
	must(t, world.MQ.Stop())
	t.Logf("revoked, no broker: gone after %v", goneBy(t, ctx, owner, "s_3", sql(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 's_3'`)))
	t.Logf("suspended, no broker: gone after %v", goneBy(t, ctx, owner, "s_4", sql(`SELECT keysidecar.suspend_owner('m_sets')`)))
	must(t, world.MQ.Start())
	must(t, ready(ctx))
	exec(t, ctx, `SELECT keysidecar.reactivate_owner('m_sets')`)

	// After a receipt no set has the key, whoever asks.
	for i := 5; i < 8; i++ {
		key := fmt.Sprintf("s_%d", i)
		for _, s := range world.sidecars { // in memory of each
			if _, err := setAsker(t, s)(ctx, owner); err != nil {
				t.Fatal(err)
			}
		}
		receiptOf(t, ctx, key, revoke(t, ctx, key)())
		for _, s := range world.sidecars {
			got, err := setAsker(t, s)(ctx, owner)
			if err != nil || slices.Contains(got.kids, key) {
				t.Errorf("%s: %v %v after the receipt", s.Name, got.kids, err)
			}
		}
	}
}
