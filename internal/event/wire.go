package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	// ContentType is the media type of a message's body (CloudEvents HTTP and AMQP
	// bindings, structured mode).
	ContentType = "application/cloudevents+json"
	// MaxMessageBytes bounds a body that Decode will look at. The largest Encode
	// produces is below 2 KiB (key and owner ids of 256 characters, escaped).
	MaxMessageBytes = 4096

	source     = "keysidecar"
	typePrefix = "io.keysidecar.key."
	typeSuffix = ".v1"
	// TimeLayout is RFC 3339 in UTC with milliseconds, as on every surface.
	TimeLayout = "2006-01-02T15:04:05.000Z"
	maxID      = 256
)

// ErrMalformed wraps every reason for which Decode refuses a message. A receiver
// that gets it has lost a message it cannot name, and must fence.
var ErrMalformed = errors.New("malformed event message")

// message is the CloudEvents envelope; pointers tell absent from zero.
type message struct {
	SpecVersion     string  `json:"specversion"`
	ID              string  `json:"id"`
	Source          string  `json:"source"`
	Type            string  `json:"type"`
	Subject         string  `json:"subject,omitempty"`
	Time            string  `json:"time"`
	DataContentType string  `json:"datacontenttype"`
	Data            payload `json:"data"`
}

type payload struct {
	Seq        *int64 `json:"seq"`
	Prev       *int64 `json:"prev"`
	Kind       Kind   `json:"kind"`
	OwnerID    string `json:"owner_id,omitempty"`
	OccurredAt string `json:"occurred_at"`
}

// Encode returns e's message body.
func Encode(e Event) ([]byte, error) {
	at := e.OccurredAt.UTC().Format(TimeLayout)
	m := message{
		SpecVersion:     "1.0",
		ID:              e.ID.String(),
		Source:          source,
		Type:            typePrefix + string(e.Kind) + typeSuffix,
		Subject:         e.KeyID,
		Time:            at,
		DataContentType: "application/json",
		Data:            payload{Seq: &e.Seq, Prev: &e.Prev, Kind: e.Kind, OwnerID: e.OwnerID, OccurredAt: at},
	}
	if err := check(e); err != nil {
		return nil, fmt.Errorf("event %d cannot be sent: %w", e.Seq, err)
	}
	return json.Marshal(m)
}

// Decode reads a message body. Unknown members are allowed, as CloudEvents
// extensions are; everything that is known must be well-formed and agree with
// itself. The error wraps ErrMalformed.
func Decode(body []byte) (Event, error) {
	if len(body) > MaxMessageBytes {
		return Event{}, fmt.Errorf("%w: %d bytes, at most %d are read", ErrMalformed, len(body), MaxMessageBytes)
	}
	if !utf8.Valid(body) {
		return Event{}, fmt.Errorf("%w: not UTF-8", ErrMalformed)
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return Event{}, fmt.Errorf("%w: not JSON: %v", ErrMalformed, err)
	}
	return m.event()
}

func (m *message) event() (Event, error) {
	if m.SpecVersion != "1.0" {
		return Event{}, fmt.Errorf("%w: specversion %q, want 1.0", ErrMalformed, m.SpecVersion)
	}
	if want := typePrefix + string(m.Data.Kind) + typeSuffix; m.Type != want {
		return Event{}, fmt.Errorf("%w: type %q does not go with kind %q", ErrMalformed, m.Type, m.Data.Kind)
	}
	id, err := uuid.Parse(m.ID)
	if err != nil || len(m.ID) != 36 {
		return Event{}, fmt.Errorf("%w: id is not a UUID", ErrMalformed)
	}
	if m.Data.Seq == nil || m.Data.Prev == nil {
		return Event{}, fmt.Errorf("%w: data.seq and data.prev are required", ErrMalformed)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Data.OccurredAt)
	if err != nil {
		return Event{}, fmt.Errorf("%w: data.occurred_at: %v", ErrMalformed, err)
	}
	e := Event{
		Seq: *m.Data.Seq, Prev: *m.Data.Prev, ID: id, Kind: m.Data.Kind,
		KeyID: m.Subject, OwnerID: m.Data.OwnerID, OccurredAt: at.UTC(),
	}
	if err := check(e); err != nil {
		return Event{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return e, nil
}

// check holds the rules that both directions share.
func check(e Event) error {
	switch {
	case !e.Kind.Valid():
		return fmt.Errorf("unknown kind %q", e.Kind)
	case e.Seq < 0:
		return fmt.Errorf("seq %d is negative", e.Seq)
	case e.Prev < -1 || e.Prev >= e.Seq:
		return fmt.Errorf("prev %d is not below seq %d", e.Prev, e.Seq)
	case len(e.KeyID) > maxID || len(e.OwnerID) > maxID:
		return fmt.Errorf("key or owner id is longer than %d bytes", maxID)
	case e.Kind == Reset && (e.KeyID != "" || e.OwnerID != ""):
		return errors.New("a reset names no key and no owner")
	case e.Kind == OwnerChanged && (e.KeyID != "" || e.OwnerID == ""):
		return errors.New("owner_changed names an owner and no key")
	case e.Kind != Reset && e.Kind != OwnerChanged && e.KeyID == "":
		return fmt.Errorf("%s names no key", e.Kind)
	}
	return nil
}
