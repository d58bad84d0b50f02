package receipt

import (
	"time"
)

// listed is how many names a group of an answer carries at most.
const listed = 100

// Group is how many incarnations are in one state, and the first of their names.
type Group struct {
	Count int      `json:"count"`
	Names []string `json:"names"`
}

// Answer is a receipt as programs read it, over HTTP and from the command line.
// Times are RFC 3339 in UTC.
type Answer struct {
	Complete   bool   `json:"complete"`
	Seq        int64  `json:"seq"`
	EventID    string `json:"event_id"`
	Kind       string `json:"kind"`
	KeyID      string `json:"key_id,omitempty"`
	OwnerID    string `json:"owner_id,omitempty"`
	Superseded bool   `json:"superseded"`
	Actor      string `json:"actor"`
	OccurredAt string `json:"occurred_at"`
	// CommittedAt is there if the server keeps the time of commits.
	CommittedAt  string `json:"committed_at,omitempty"`
	Acknowledged Group  `json:"acknowledged"`
	Expired      Group  `json:"expired"`
	Awaited      Group  `json:"awaited"`
	// ElapsedMS is the time since the waiter knew of the event; LeftMS is how much
	// longer it takes at most.
	ElapsedMS int64 `json:"elapsed_ms"`
	LeftMS    int64 `json:"left_ms"`
}

// Answer returns r as programs read it.
func (r *Receipt) Answer() Answer {
	return Answer{
		Complete: r.Complete, Seq: r.Seq, EventID: r.EventID.String(), Kind: r.Kind, KeyID: r.KeyID, OwnerID: r.OwnerID,
		Superseded: r.Superseded, Actor: r.Actor, OccurredAt: timeText(r.OccurredAt), CommittedAt: timeText(r.CommittedAt),
		Acknowledged: groupOf(r.Acknowledged), Expired: groupOf(r.Expired), Awaited: groupOf(r.Missing),
		ElapsedMS: r.Elapsed.Milliseconds(), LeftMS: int64((r.Left + time.Millisecond - 1) / time.Millisecond),
	}
}

func groupOf(names []string) Group {
	return Group{Count: len(names), Names: append([]string{}, names[:min(len(names), listed)]...)}
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
