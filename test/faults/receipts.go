package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// timedReceipt is how long a receipt took.
type timedReceipt struct {
	// took is from when the revocation was sent until a complete receipt was read;
	// asked from when it was first asked for.
	took, asked           time.Duration
	acknowledged, expired int
}

// receiptPause lies between a complete receipt and the next revocation.
const receiptPause = 500 * time.Millisecond

// receiptSlack is how much later than L a receipt may be complete.
const receiptSlack = 250 * time.Millisecond

// Receipts measures how long a revocation's receipt takes: when nothing is broken,
// when a sidecar stands still, and when one was killed.
func Receipts(ctx context.Context, o Options) (section string, err error) {
	w, err := startWorld(ctx, o.Dir, false, o.Promise, o.Fleet, true)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var b strings.Builder
	fmt.Fprintf(&b, "## Receipts\n\n    %s\n\n", o.Command)
	machine, err := w.machine(ctx)
	if err != nil {
		return "", err
	}
	for _, line := range machine {
		fmt.Fprintf(&b, "- %s\n", strings.TrimSpace(line))
	}
	fmt.Fprintf(&b, "- %d sidecars, L = %s; one revocation at a time, %s apart, the receipt asked for at another sidecar each time\n\n", len(w.Sidecars), w.Promise.MaxStaleness, receiptPause)
	b.WriteString("From the moment when the revocation was acknowledged and the receipt asked for until it was complete.\n\n" +
		"| | receipts | min | p50 | p99 | max | acknowledged | waited for |\n|---|---|---|---|---|---|---|---|\n")
	victim := w.Sidecars[len(w.Sidecars)-1]
	others := w.Sidecars[:len(w.Sidecars)-1]
	line := func(what string, ask []*Sidecar, n int) ([]timedReceipt, error) {
		list, err := w.timeReceipts(ctx, ask, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		d := make([]time.Duration, len(list))
		for i, r := range list {
			d[i] = r.asked
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %d | %d |\n", what, len(list), quantile(d, 0), quantile(d, 0.5), quantile(d, 0.99), quantile(d, 1),
			list[len(list)-1].acknowledged, list[len(list)-1].expired)
		return list, nil
	}
	healthy, err := line("all is well", w.Sidecars, 500)
	if err != nil {
		return b.String(), err
	}
	errs := []error{judgeHealthy(healthy)}
	if err := victim.Pause(); err != nil {
		return b.String(), err
	}
	still, err := line("a sidecar stands still", others, 30)
	errs = append(errs, err, victim.Resume(), judgeWaited(still, w.Promise.MaxStaleness))
	if _, err := w.Back(ctx); err != nil {
		return b.String(), errors.Join(append(errs, err)...)
	}
	if err := victim.Kill(); err != nil {
		return b.String(), errors.Join(append(errs, err)...)
	}
	// It is waited for until the relay prunes it, which takes minutes.
	killed, err := line("a sidecar was killed", others, 10)
	errs = append(errs, err, judgeWaited(killed, w.Promise.MaxStaleness))
	fmt.Fprintf(&b, "\nPromised: healthy p50 at most 50 ms, p99 at most 150 ms; never later than L + %s; while an incarnation is silent, not before L after the revocation was sent.\n", receiptSlack)
	return b.String(), errors.Join(errs...)
}

func judgeHealthy(list []timedReceipt) error {
	d := make([]time.Duration, len(list))
	for i, r := range list {
		d[i] = r.asked
	}
	if p50, p99 := quantile(d, 0.5), quantile(d, 0.99); p50 > 50*time.Millisecond || p99 > 150*time.Millisecond {
		return fmt.Errorf("healthy receipts take %v (p50) and %v (p99)", p50, p99)
	}
	return nil
}

// judgeWaited: complete at L, neither before nor much later.
func judgeWaited(list []timedReceipt, bound time.Duration) error {
	var errs []error
	for _, r := range list {
		if r.took < bound {
			errs = append(errs, fmt.Errorf("%w: a receipt was complete %v after its revocation was sent, though an incarnation was silent", ErrBroken, r.took))
		}
		if r.asked > bound+receiptSlack {
			errs = append(errs, fmt.Errorf("a receipt was complete only %v after it was asked for", r.asked))
		}
	}
	return errors.Join(errs...)
}

// timeReceipts revokes n keys one after another and waits for each receipt.
func (w *World) timeReceipts(ctx context.Context, ask []*Sidecar, n int) ([]timedReceipt, error) {
	id := w.name("receipt")
	if err := w.Exec(ctx, fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT '%s_' || i, '%s', 'opaque' FROM generate_series(1, %d) i`, id, faultOwner, n)); err != nil {
		return nil, err
	}
	if err := cluster.Sleep(ctx, 2*w.Promise.FenceInterval); err != nil {
		return nil, err
	}
	var list []timedReceipt
	for i := range n {
		key := fmt.Sprintf("%s_%d", id, 1+i)
		sent := time.Now()
		acked, err := w.Cluster.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, key)
		if err != nil {
			return nil, err
		}
		r, err := ask[i%len(ask)].receipt(ctx, key)
		if err != nil {
			return nil, err
		}
		r.took, r.asked = time.Since(sent), time.Since(acked)
		list = append(list, r)
		// Fences that messages ask for are min_fence_gap apart: what came before must not
		// be in the way.
		if err := cluster.Sleep(ctx, receiptPause); err != nil {
			return nil, err
		}
	}
	return slices.Clip(list), nil
}

// receipt asks until the receipt is complete.
func (s *Sidecar) receipt(ctx context.Context, key string) (r timedReceipt, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Socket)
	}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://keysidecar/v1/receipts/"+key+"?wait=10s", nil)
		if err != nil {
			return r, err
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return r, err
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return r, err
		}
		var got struct {
			Complete     bool `json:"complete"`
			Acknowledged struct {
				Count int `json:"count"`
			} `json:"acknowledged"`
			Expired struct {
				Count int `json:"count"`
			} `json:"expired"`
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
			return r, fmt.Errorf("%s: status %d: %s", s.Name, resp.StatusCode, body)
		}
		if err := json.Unmarshal(body, &got); err != nil {
			return r, err
		}
		if got.Complete {
			return timedReceipt{acknowledged: got.Acknowledged.Count, expired: got.Expired.Count}, nil
		}
	}
}
