package load

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

// ReceiptsOptions says what Receipts asks for.
type ReceiptsOptions struct {
	// Sockets are the sidecars that may be asked, one of them at random each time.
	Sockets []string
	History *history.Writer
	// Share is the part of the revocations that a receipt is wanted for (default 1).
	Share float64
	// Workers is how many are waited for at a time (default 16); what comes while all
	// are busy and as many wait is let go.
	Workers int
	// Wait is how long a sidecar is asked to wait (default 3 s), GiveUp when a
	// receipt is written down as incomplete (default 60 s).
	Wait, GiveUp time.Duration
	Seed         uint64
}

// Receipts asks sidecars whether revocations are over.
type Receipts struct {
	opts  ReceiptsOptions
	queue chan history.Revocation
	mu    sync.Mutex
	rng   *rand.Rand
	// wanted and let go, complete and not.
	dropped, complete, incomplete atomic.Int64
}

// NewReceipts returns a driver; Run starts it. Its Revoked is to be a Revoker's
// OnRevoked.
func NewReceipts(o ReceiptsOptions) *Receipts {
	setDefault(&o.Share, 1)
	setDefault(&o.Workers, 16)
	setDefault(&o.Wait, 3*time.Second)
	setDefault(&o.GiveUp, time.Minute)
	return &Receipts{opts: o, queue: make(chan history.Revocation, o.Workers), rng: rand.New(rand.NewPCG(o.Seed, 2))}
}

// Revoked may ask for a receipt for rev, later. It does not block.
func (r *Receipts) Revoked(rev history.Revocation) {
	r.mu.Lock()
	wanted := r.rng.Float64() < r.opts.Share
	r.mu.Unlock()
	if !wanted {
		return
	}
	select {
	case r.queue <- rev:
	default:
		r.dropped.Add(1)
	}
}

// Counts returns how many receipts came complete, how many were given up, and
// how many were not asked for because all workers were busy.
func (r *Receipts) Counts() (complete, incomplete, dropped int64) {
	return r.complete.Load(), r.incomplete.Load(), r.dropped.Load()
}

// Run asks until ctx ends, and returns nil then.
func (r *Receipts) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range r.opts.Workers {
		wg.Go(func() {
			conns := make(map[string]*Conn)
			defer func() {
				for _, c := range conns {
					_ = c.Close()
				}
			}()
			for {
				select {
				case <-ctx.Done():
					return
				case rev := <-r.queue:
					r.receipt(ctx, conns, rev)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// receipt is what is read of a sidecar's answer.
type receipt struct {
	Complete     bool  `json:"complete"`
	Seq          int64 `json:"seq"`
	Superseded   bool  `json:"superseded"`
	Acknowledged struct {
		Count int `json:"count"`
	} `json:"acknowledged"`
	Expired struct {
		Count int `json:"count"`
	} `json:"expired"`
}

// receipt asks until the receipt is complete, or superseded, or it gives up.
func (r *Receipts) receipt(ctx context.Context, conns map[string]*Conn, rev history.Revocation) {
	rec := history.Receipt{KeyID: rev.KeyID, Seq: rev.Seq, AskedAt: history.Now()}
	for ctx.Err() == nil && history.Now()-rec.AskedAt < int64(r.opts.GiveUp) {
		r.mu.Lock()
		socket := r.opts.Sockets[r.rng.IntN(len(r.opts.Sockets))]
		r.mu.Unlock()
		got, err := r.ask(ctx, conns, socket, rev.KeyID)
		at := history.Now()
		if err != nil {
			if !wait(ctx, firstBackOff) {
				break
			}
			continue
		}
		rec.Seq, rec.Acknowledged, rec.Expired = got.Seq, got.Acknowledged.Count, got.Expired.Count
		if got.Superseded {
			break // the key was issued again: nothing is claimed about it any more
		}
		if got.Complete {
			rec.CompleteAt = at
			break
		}
	}
	if rec.CompleteAt > 0 {
		r.complete.Add(1)
	} else {
		r.incomplete.Add(1)
	}
	r.opts.History.Add(&rec)
}

func (r *Receipts) ask(ctx context.Context, conns map[string]*Conn, socket, keyID string) (receipt, error) {
	c := conns[socket]
	if c == nil {
		var err error
		if c, err = Dial(ctx, socket); err != nil {
			return receipt{}, err
		}
		conns[socket] = c
	}
	// The run's end does not wait for an answer.
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	var got receipt
	status, body, err := c.Get("/v1/receipts/", keyID, fmt.Sprintf("?wait=%dms", r.opts.Wait.Milliseconds()), r.opts.Wait+2*time.Second)
	if err != nil || c.last {
		_ = c.Close()
		delete(conns, socket)
	}
	if err != nil {
		return got, err
	}
	if status != http.StatusOK && status != http.StatusAccepted {
		return got, fmt.Errorf("status %d", status)
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return got, fmt.Errorf("%w: %w", errAnswer, err)
	}
	got.Complete = got.Complete && status == http.StatusOK
	return got, nil
}
