package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// auditBody is what POST /v1/audit answers.
type auditBody struct {
	Differences int                         `json:"differences"`
	Kinds       map[keystore.Difference]int `json:"kinds"`
	Keys        []auditedKey                `json:"keys"`

	Compared  int  `json:"compared"`
	Newer     int  `json:"newer"`
	Unclaimed int  `json:"unclaimed"`
	Complete  bool `json:"complete"`
	// Listed is null if the store's keys were not looked for in memory.
	Listed *int `json:"listed"`

	OldestEntry int64 `json:"oldest_entry_ms"`
	LeaseAge    int64 `json:"lease_age_ms"`
	Duration    int64 `json:"duration_ms"`
}

type auditedKey struct {
	KeyID string              `json:"key_id"`
	Kind  keystore.Difference `json:"kind"`
}

func newAuditBody(r *keystore.AuditReport) auditBody {
	b := auditBody{
		Differences: r.Total(), Kinds: map[keystore.Difference]int{}, Keys: make([]auditedKey, 0, len(r.Keys)),
		Compared: r.Compared, Newer: r.Newer, Unclaimed: r.Unclaimed, Complete: r.Complete,
		OldestEntry: milliseconds(r.OldestEntry), LeaseAge: milliseconds(r.LeaseAge), Duration: milliseconds(r.Duration),
	}
	if r.Complete && !r.CannotList {
		b.Listed = &r.Listed
	}
	maps.Copy(b.Kinds, r.Differences)
	for _, k := range r.Keys {
		b.Keys = append(b.Keys, auditedKey(k))
	}
	return b
}

// audit answers POST /v1/audit: it compares all of memory with the store, which
// takes as long as it takes. It ends with the client's connection, and as soon as
// the daemon is asked to stop.
func (d *Data) audit(x *exchange) error {
	if _, ok := x.headers.negotiate(setOf(mediaJSON)); !ok {
		return errNotAcceptable
	}
	ctx, release := d.attended(x)
	defer release() // also when Audit panics: nothing may look at x after this
	r, err := d.keys.Audit(ctx)
	switch {
	case errors.Is(err, keystore.ErrAuditRunning):
		return errAuditRunning
	case errors.Is(err, keystore.ErrAuditUnavailable), errors.Is(err, context.Canceled):
		return errAuditUnavailable
	case err != nil:
		return err
	}
	body, err := json.Marshal(newAuditBody(r))
	if err != nil {
		return fmt.Errorf("encode the audit's report: %w", err)
	}
	return x.answer(http.StatusOK, typeJSON, append(x.out[:0], body...))
}

// attended returns a context for a long request: it ends when the client has gone
// or the daemon stops. release must be called before the request is answered.
func (d *Data) attended(x *exchange) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancel(x.ctx)
	c := x.req.Conn().(*conn) //nolint:forcetypeassert // every connection is made by listener.serve
	var watching sync.WaitGroup
	watching.Go(func() {
		defer cancel()
		d.awaitEnd(ctx, c)
	})
	return ctx, func() {
		cancel()
		watching.Wait()
	}
}

// lookAfter is how often a long request looks whether anybody still waits for it.
const lookAfter = 50 * time.Millisecond

// awaitEnd returns when ctx ends, the client has gone or the daemon stops. The
// library reads nothing while a request is handled, and so would not notice.
func (d *Data) awaitEnd(ctx context.Context, c *conn) {
	look := time.NewTicker(lookAfter)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if d.stopping.Load() || c.gone() {
				return
			}
		}
	}
}

// gone reports whether the client has closed the connection, or its half of it:
// nobody that does so waits for an answer. It looks at the socket and takes
// nothing from it.
func (c *conn) gone() bool {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil || errors.Is(err, unix.ECONNRESET)
	})
	return gone || err != nil
}
