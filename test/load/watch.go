package load

import (
	"sync"
	"sync/atomic"

	"github.com/keysidecar/keysidecar/test/history"
)

// Watch is the set of keys that probers look at closely. Its methods may be
// called concurrently. It remembers every key it was given.
type Watch struct {
	mu      sync.Mutex
	changes []*Watched
	n       atomic.Int64 // len(changes)
}

// Watched is a key in a Watch.
type Watched struct {
	keyID string
	watch *Watch
	// sent and acked are times of its revocation, 0 before. over: no claim.
	sent, acked atomic.Int64
	over        atomic.Bool
}

// Add puts a key into the set.
func (w *Watch) Add(keyID string) *Watched {
	k := &Watched{keyID: keyID, watch: w}
	w.changed(k)
	return k
}

// Revoking says that the change is about to be sent.
func (k *Watched) Revoking() {
	k.sent.Store(history.Now())
	k.watch.changed(k)
}

// Revoked says when the change was acknowledged.
func (k *Watched) Revoked(ackedAt int64) { k.acked.Store(ackedAt) }

// Drop says that nothing is claimed about the key.
func (k *Watched) Drop() { k.over.Store(true) }

func (w *Watch) changed(k *Watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, k)
	w.n.Store(int64(len(w.changes)))
}

// since returns the changes from number n on.
func (w *Watch) since(n int) []*Watched {
	if w == nil || w.n.Load() == int64(n) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes[n:]
}
