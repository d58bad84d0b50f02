package server

import (
	"time"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/keystore"
)

// eventBody is one event on a status page. The admin listener has no key data, so
// keys and owners are told by a part of their hash: enough to find one that is known.
type eventBody struct {
	Seq     int64  `json:"seq"`
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	// Path is "queue" if a message brought it, or "fence".
	Path       string `json:"path"`
	OccurredAt string `json:"occurred_at"`
	AppliedAt  string `json:"applied_at"`
	// AppliedUnixMicros is AppliedAt to the microsecond, for measurements.
	AppliedUnixMicros int64 `json:"applied_unix_us"`
	// Lag is between the database's clock and this machine's.
	Lag float64 `json:"lag_ms"`
}

func newEventBody(e *keystore.Applied) eventBody {
	b := eventBody{
		Seq: e.Seq, Kind: string(e.Kind), Path: "fence",
		OccurredAt: e.OccurredAt.UTC().Format(event.TimeLayout), AppliedAt: e.AppliedAt.UTC().Format(event.TimeLayout),
		AppliedUnixMicros: e.AppliedAt.UnixMicro(), Lag: float64(e.AppliedAt.Sub(e.OccurredAt)/time.Microsecond) / 1000,
	}
	if e.ByQueue {
		b.Path = "queue"
	}
	if id := e.KeyID + e.OwnerID; id != "" { // one of them is empty; both, of a reset
		b.Subject = event.Pseudonym(id)
	}
	return b
}
