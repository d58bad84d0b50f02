package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// statusBody is what GET /v1/status answers. It has no member valid: only a
// verdict has.
type statusBody struct {
	Instance string `json:"instance"`
	Version  string `json:"version"`
	Store    string `json:"store"`
	Policy   string `json:"policy"`

	Warmed        bool `json:"warmed"`
	Fresh         bool `json:"fresh"`
	ServesStale   bool `json:"serves_stale"`
	Complete      bool `json:"complete"`
	CaptureIntact bool `json:"capture_intact"`

	MaxStaleness   int64 `json:"max_staleness_ms"`
	LeaseRemaining int64 `json:"lease_remaining_ms"`
	// StaleLimit is null under fail_closed.
	StaleLimit *int64 `json:"stale_limit_ms"`
	// AsOf is null before the first warm.
	AsOf json.RawMessage `json:"as_of"`
	// LastFenceError is a category, null after success.
	LastFenceError *string `json:"last_fence_error"`

	Entries  int `json:"entries"`
	Marks    int `json:"marks"`
	Negative int `json:"negative"`
	Capacity int `json:"capacity"`

	Audit auditStatus `json:"audit"`

	Promise promise `json:"promise"`
}

// auditStatus is what comparing memory with the store found.
type auditStatus struct {
	Compared        int64 `json:"compared"`
	Differences     int64 `json:"differences"`
	LastDifferences int   `json:"last_differences"`
	// Age is null before the first audit.
	Age *int64 `json:"age_ms"`
}

// promise is the bound the daemon was configured to keep.
type promise struct {
	RefusedWithin int64  `json:"refused_within_ms"`
	Text          string `json:"text"`
}

func newStatusBody(instance, version string, s *keystore.Status) statusBody {
	b := statusBody{
		Instance: instance, Version: version, Store: s.StoreKind, Policy: "fail_closed",
		Warmed: s.Warmed, Fresh: s.Fresh, ServesStale: s.ServesStale, Complete: s.Complete, CaptureIntact: s.CaptureIntact,
		MaxStaleness: milliseconds(s.MaxStaleness), LeaseRemaining: int64(s.LeaseRemaining / time.Millisecond),
		AsOf:    appendAsOf(nil, &s.AsOf),
		Entries: s.Entries, Marks: s.Marks, Negative: s.Negative, Capacity: s.Capacity,
	}
	if s.StaleLimit > 0 {
		limit := milliseconds(s.StaleLimit)
		b.Policy, b.StaleLimit = "serve_stale", &limit
	}
	if s.LastFenceError != "" {
		b.LastFenceError = &s.LastFenceError
	}
	b.Audit = auditStatus{Compared: s.Audit.Compared, Differences: s.Audit.Differences, LastDifferences: s.Audit.LastDifferences}
	if s.Audit.Done {
		age := milliseconds(s.Audit.Age)
		b.Audit.Age = &age
	}
	within := s.MaxPromise()
	b.Promise = promise{
		RefusedWithin: milliseconds(within),
		Text:          fmt.Sprintf("a request sent more than %s after a revocation was acknowledged is not answered valid", within),
	}
	return b
}

// status answers GET /v1/status: how fresh this instance is.
func (d *Data) status(x *exchange) error {
	if _, ok := x.headers.negotiate(setOf(mediaJSON)); !ok {
		return errNotAcceptable
	}
	s := d.keys.Status()
	body, err := json.Marshal(newStatusBody(d.opts.Instance, d.opts.Version, &s))
	if err != nil {
		return fmt.Errorf("encode the status: %w", err)
	}
	return x.answer(http.StatusOK, typeJSON, append(x.out[:0], body...))
}

func appendInt(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }
