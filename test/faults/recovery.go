package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// backLimit is how long the world may take to come back before a run gives up. It
// is no promise: those are 2 s and are reported (Recovery), not enforced here, as
// a loaded machine adds to them.
const backLimit = 45 * time.Second

// Recovery is how long it took, from the moment the last fault was mended.
type Recovery struct {
	// Fresh: every sidecar answers under a lease. Whole: and hears the broker, and a
	// relay that has a broker leads.
	Fresh, Whole time.Duration
}

// Back waits until the world is whole.
func (w *World) Back(ctx context.Context) (Recovery, error) {
	var r Recovery
	begun := time.Now()
	for _, s := range w.Sidecars {
		if err := w.poll(ctx, backLimit, s.Name+" to be fresh", func() (bool, error) { return s.fresh(ctx) }); err != nil {
			return r, err
		}
	}
	r.Fresh = time.Since(begun)
	for _, s := range w.Sidecars {
		err := w.poll(ctx, backLimit, s.Name+" to hear the broker", func() (bool, error) {
			n, err := s.Metric(ctx, "keysidecar_subscriber_connected")
			return n == 1, err
		})
		if err != nil {
			return r, err
		}
	}
	err := w.poll(ctx, backLimit, "a relay to lead", func() (bool, error) { return w.leading(ctx) >= 0, nil })
	r.Whole = time.Since(begun)
	return r, err
}

// leading is the index of the relay that leads and has a broker, -1 if none does.
func (w *World) leading(ctx context.Context) int {
	for i, r := range w.Relays {
		if n, err := r.Metric(ctx, "keysidecar_relay_connected"); err == nil && n == 1 {
			return i
		}
	}
	return -1
}

// errEnded: a process is gone that nobody ended.
var errEnded = errors.New("the process has ended by itself")

// fresh asks a sidecar whether it would be ready.
func (s *Sidecar) fresh(ctx context.Context) (bool, error) {
	if !s.Running() {
		return false, fmt.Errorf("%s: %w", s.Name, errEnded)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/readyz", nil)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	return resp.StatusCode == http.StatusOK, resp.Body.Close()
}

// never checks that a sidecar does not accept any of the keys in requests sent
// later than bound after since: it asks until then and once more.
func (w *World) never(ctx context.Context, since time.Time, keys ...string) error {
	for _, s := range w.Sidecars {
		if wait := time.Until(since.Add(s.Bound())); wait > 0 {
			if err := cluster.Sleep(ctx, wait); err != nil {
				return err
			}
		}
		for _, k := range keys {
			v, err := s.Get(ctx, k)
			if err == nil && v.Valid {
				return fmt.Errorf("%w: %s accepts %s in a request sent %v after the fault: %+v", ErrBroken, s.Name, k, v.SentAt.Sub(since), v)
			}
		}
	}
	return nil
}

// ErrBroken: a promise did not hold.
var ErrBroken = errors.New("a promise is broken")
