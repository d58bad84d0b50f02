package loss

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// prober asks one subscriber for every key that was revoked, until it refuses it.
type prober struct {
	client *http.Client

	mu      sync.Mutex
	waiting []*revoked
}

// revoked is one key at one subscriber.
type revoked struct {
	keyID string
	at    time.Time
	// accepted is how long after at the last request was sent that was answered with
	// yes; 0 if none was.
	accepted time.Duration
	refused  bool
}

func newProber(socket string) *prober {
	return &prober{client: &http.Client{
		Timeout: time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
	}}
}

// add has the prober ask for a key that was revoked at at.
func (p *prober) add(keyID string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, &revoked{keyID: keyID, at: at})
}

// pause is how long a prober waits after it has asked for all keys once.
const pause = 2 * time.Millisecond

// run asks until ctx ends, and returns every key with what became of it.
func (p *prober) run(ctx context.Context) []*revoked {
	defer p.client.CloseIdleConnections()
	var done, open []*revoked
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for ctx.Err() == nil {
		p.mu.Lock()
		open = append(open, p.waiting...)
		p.waiting = nil
		p.mu.Unlock()
		var still []*revoked
		for _, r := range open {
			if p.ask(ctx, r); r.refused {
				done = append(done, r)
			} else {
				still = append(still, r)
			}
		}
		open = still
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return append(append(done, open...), p.waiting...)
}

// ask asks once. No answer, or one that cannot tell, is neither yes nor no.
func (p *prober) ask(ctx context.Context, r *revoked) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://subscriber"+keyPath+r.keyID, nil)
	if err != nil {
		return
	}
	sent := time.Now()
	resp, err := p.client.Do(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		r.accepted = sent.Sub(r.at)
	case resp.StatusCode < http.StatusInternalServerError:
		r.refused = true
	}
}
