package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// What Wait returns besides ErrUnavailable and ErrMalformedKey, for errors.Is.
var (
	// ErrPending: some sidecar may still accept the key. The error is a *PendingError.
	ErrPending = errors.New("keysidecar: the receipt is not complete yet")
	// ErrNoEvent: the log has nothing of this key but its issue.
	ErrNoEvent = errors.New("keysidecar: the log has no change of this key")
	// ErrEventLost: the database has lost the change while it was waited for. Look at
	// the key and change it again.
	ErrEventLost = errors.New("keysidecar: the change that was waited for is lost")
	// ErrNoRegistry: the keys come from a file, so that there is no fleet to ask.
	ErrNoRegistry = errors.New("keysidecar: there is no registry of sidecars")
)

// Group is some sidecars: how many, and the first 100 of their names.
type Group struct {
	Count int      `json:"count"`
	Names []string `json:"names"`
}

// Receipt says how far the fleet is with the event that ended a key.
type Receipt struct {
	// Complete: no sidecar accepts by what was before the event any more.
	Complete bool
	Seq      int64
	EventID  string
	// Kind is what the event was: revoked or deleted; owner_changed or reset, if that
	// came after it; changed, if the key was neither revoked nor deleted. Look at it:
	// a complete receipt of a change is no revocation.
	Kind string
	// KeyID is empty for a reset and a change of the owner.
	KeyID   string
	OwnerID string
	// Superseded: the key was made valid again since.
	Superseded bool
	// Actor is the database role that made the change.
	Actor      string
	OccurredAt time.Time
	// CommittedAt is zero unless the database keeps it.
	CommittedAt time.Time
	// Acknowledged have reported the change; Expired have not, and cannot answer by
	// what was before it any more; Awaited are neither.
	Acknowledged, Expired, Awaited Group
	// Elapsed is the time since the sidecar that answers knew of the event, Left how
	// much longer it takes at most.
	Elapsed, Left time.Duration
}

// PendingError says that a receipt is not complete yet.
type PendingError struct{ Receipt Receipt }

func (e *PendingError) Error() string {
	return fmt.Sprintf("keysidecar: %d sidecars are still awaited, for at most %v", e.Receipt.Awaited.Count, e.Receipt.Left)
}

// Is makes errors.Is find ErrPending.
func (e *PendingError) Is(target error) bool { return target == ErrPending }

// maxWait is how long the sidecar lets one request wait.
const maxWait = 30 * time.Second

// Wait waits until no sidecar of the fleet accepts the key by what was before its
// revocation, deletion or newest change, at most for the time given, which may be 0.
// Ask it after the change was committed. The error is nil only if the receipt is
// complete; a *PendingError holds one that is not.
//
// Timeouts of the context come on top; an ended context is ErrUnavailable.
func (c *Client) Wait(ctx context.Context, keyID string, atMost time.Duration) (*Receipt, error) {
	if err := checkKeyID(keyID); err != nil {
		return nil, err
	}
	if atMost < 0 {
		return nil, &QuestionError{Code: "bad_wait", Member: "wait", Detail: "the time is negative"}
	}
	for left := atMost; ; {
		wait := min(left, maxWait)
		receipt, err := c.receipt(ctx, keyID, wait)
		if err != nil || receipt.Complete {
			return receipt, err
		}
		if left -= wait; left < time.Millisecond {
			return nil, &PendingError{*receipt}
		}
	}
}

// receipt asks once.
func (c *Client) receipt(ctx context.Context, keyID string, wait time.Duration) (*Receipt, error) {
	r := &request{method: http.MethodGet, path: "/v1/receipts/" + keyID, longer: wait, limit: maxAnswer}
	if wait >= time.Millisecond {
		r.query = url.Values{"wait": {strconv.FormatInt(wait.Milliseconds(), 10) + "ms"}}.Encode()
	}
	a, err := c.send(ctx, r)
	if err != nil {
		return nil, &UnavailableError{Err: err}
	}
	if a.media != "application/json" || a.status != http.StatusOK && a.status != http.StatusAccepted {
		return nil, receiptError(a)
	}
	w := struct {
		Complete     *bool     `json:"complete"`
		Seq          int64     `json:"seq"`
		EventID      string    `json:"event_id"`
		Kind         string    `json:"kind"`
		KeyID        string    `json:"key_id"`
		OwnerID      string    `json:"owner_id"`
		Superseded   bool      `json:"superseded"`
		Actor        string    `json:"actor"`
		OccurredAt   time.Time `json:"occurred_at"`
		CommittedAt  time.Time `json:"committed_at"`
		Acknowledged Group     `json:"acknowledged"`
		Expired      Group     `json:"expired"`
		Awaited      Group     `json:"awaited"`
		ElapsedMS    int64     `json:"elapsed_ms"`
		LeftMS       int64     `json:"left_ms"`
	}{}
	err = json.Unmarshal(a.body, &w)
	switch {
	case err != nil, w.Complete == nil, w.EventID == "", w.Kind == "":
		return nil, &UnavailableError{Status: a.status, Err: errors.Join(errNoReceipt, err)}
	case *w.Complete != (a.status == http.StatusOK), *w.Complete && w.Awaited.Count > 0:
		return nil, &UnavailableError{Status: a.status, Err: errContradicts}
	case w.KeyID != keyID && !(w.KeyID == "" && (w.Kind == "owner_changed" || w.Kind == "reset")):
		return nil, &UnavailableError{Status: a.status, Err: errOtherKey}
	}
	return &Receipt{
		Complete: *w.Complete, Seq: w.Seq, EventID: w.EventID, Kind: w.Kind, KeyID: w.KeyID, OwnerID: w.OwnerID,
		Superseded: w.Superseded, Actor: w.Actor, OccurredAt: w.OccurredAt, CommittedAt: w.CommittedAt,
		Acknowledged: w.Acknowledged, Expired: w.Expired, Awaited: w.Awaited,
		Elapsed: time.Duration(w.ElapsedMS) * time.Millisecond, Left: time.Duration(w.LeftMS) * time.Millisecond,
	}, nil
}

var errNoReceipt = errors.New("the answer is no receipt")

// receiptError gives names to what the sidecar says of an event.
func receiptError(a *reply) error {
	err := a.noVerdict()
	var u *UnavailableError
	if !errors.As(err, &u) {
		return err
	}
	switch u.Code {
	case "no_event":
		return ErrNoEvent
	case "event_lost":
		return ErrEventLost
	case "no_registry":
		return ErrNoRegistry
	}
	return err
}
