package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/keysidecar/keysidecar/internal/receipt"
)

// Receipts waits for receipts. *receipt.Waiter is one.
type Receipts interface {
	// Wait returns the state of the receipt for t, when it is complete or atMost has
	// passed. The error wraps receipt.ErrNoEvent, receipt.ErrLost or
	// receipt.ErrNoRegistry, or says why the primary did not answer.
	Wait(ctx context.Context, t receipt.Target, atMost time.Duration) (receipt.Receipt, error)
}

const (
	// maxWait is how long one request may wait for a receipt.
	maxWait = 30 * time.Second
	// maxWaits is how many requests may wait at once.
	maxWaits = 64
)

// getReceipt answers GET /v1/receipts/{key_id}?wait=.
func (d *Data) getReceipt(x *exchange) error {
	if _, ok := x.headers.negotiate(setOf(mediaJSON)); !ok {
		return errNotAcceptable
	}
	id, err := decodeKeyID(x.rest, x.id)
	if err != nil {
		return err
	}
	wait, err := waitOf(x.req.Request.Header.RequestURI())
	if err != nil {
		return err
	}
	if d.opts.Receipts == nil {
		return errNoRegistry
	}
	select {
	case d.waits <- struct{}{}:
		defer func() { <-d.waits }()
	default:
		return errTooManyWaits
	}
	ctx, release := x.ctx, func() {}
	if wait > 0 {
		ctx, release = d.attended(x)
	}
	defer release() // also when Wait panics: nothing may look at x after this
	r, err := d.opts.Receipts.Wait(ctx, receipt.Target{KeyID: string(id)}, wait)
	if err != nil {
		d.metrics.receipts[receiptFailed].Inc()
		return receiptProblem(err)
	}
	status := http.StatusOK
	if !r.Complete {
		status = http.StatusAccepted
		d.metrics.receipts[receiptIncomplete].Inc()
	} else {
		d.metrics.receipts[receiptComplete].Inc()
		d.metrics.receiptTime.Observe(r.Elapsed.Seconds())
	}
	body, err := json.Marshal(r.Answer())
	if err != nil {
		return fmt.Errorf("encode the receipt: %w", err)
	}
	return x.answer(status, typeJSON, append(x.out[:0], body...))
}

func receiptProblem(err error) error {
	switch {
	case errors.Is(err, receipt.ErrNoEvent):
		return errNoEvent
	case errors.Is(err, receipt.ErrLost):
		return errEventLost
	case errors.Is(err, receipt.ErrNoRegistry):
		return errNoRegistry
	}
	return errReceiptUnavailable
}

// waitOf reads the query of a receipt's target: nothing, or wait= and a duration
// with its unit, such as 3s or 500ms.
func waitOf(target []byte) (time.Duration, error) {
	_, query, ok := bytes.Cut(target, []byte{'?'})
	if !ok {
		return 0, nil
	}
	value, ok := bytes.CutPrefix(query, []byte("wait="))
	if !ok {
		return 0, errQuery.with("the only query here is wait=, such as ?wait=3s")
	}
	wait, err := time.ParseDuration(string(value))
	if err != nil || wait < 0 || wait > maxWait {
		return 0, errBadWait
	}
	return wait, nil
}
