// Package event is the vocabulary of the revocation log: one Event for each row
// of keysidecar.events, and its wire form on the RabbitMQ exchange.
//
// # Wire form
//
// A message is one CloudEvents 1.0 event in structured JSON (media type
// application/cloudevents+json), about 350 bytes, never more than MaxMessageBytes:
//
//	{"specversion":"1.0","id":"<event_id>","source":"keysidecar",
//	 "type":"io.keysidecar.key.revoked.v1","subject":"pk_live_1",
//	 "time":"2026-11-21T10:00:00.000Z","datacontenttype":"application/json",
//	 "data":{"seq":42,"prev":41,"kind":"revoked","owner_id":"m_1",
//	         "occurred_at":"2026-11-21T10:00:00.000Z"}}
//
// It carries no key material. The number (seq) and the identity (id) say where
// the event stands in the log, prev is the number of the event before it, so
// that a receiver can tell a lost message (prev is missing) from a hole in the
// numbering (a transaction that failed after it took its number).
//
// # Trust
//
// Anyone who can publish to the exchange can write these messages. A receiver
// may therefore use one only to distrust what it has in memory; only a fence
// against Postgres adds trust (docs/guarantees.md, S2).
package event

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/google/uuid"
)

// pseudonymBytes of a hash tell a few million keys apart.
const pseudonymBytes = 6

// Pseudonym names a key or owner by the beginning of its identifier's SHA-256, for
// pages that have no key data: enough to find one that is known.
func Pseudonym(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:pseudonymBytes])
}

// Kind says what an event is about. The set is closed; Postgres checks it too.
type Kind string

const (
	// Issued: a key that did not exist before (or not under this key_id).
	Issued Kind = "issued"
	// Changed: a column a verdict depends on changed, an undone revocation included.
	Changed Kind = "changed"
	// Revoked: revoked_at went from null to a value.
	Revoked Kind = "revoked"
	// Deleted: the row is gone (or its key_id or owner became another).
	Deleted Kind = "deleted"
	// OwnerChanged: every key of OwnerID must be judged anew. KeyID is empty.
	OwnerChanged Kind = "owner_changed"
	// Reset: forget everything, for what happened cannot be named key by key
	// (TRUNCATE, keysidecar.reset()). KeyID and OwnerID are empty. The first row
	// of every log is one.
	Reset Kind = "reset"
)

// Valid reports whether k is one of the kinds above.
func (k Kind) Valid() bool {
	switch k {
	case Issued, Changed, Revoked, Deleted, OwnerChanged, Reset:
		return true
	}
	return false
}

// Event is one row of keysidecar.events.
type Event struct {
	// Seq numbers events in commit order, from 0 (the genesis event). Numbers may
	// have holes.
	Seq int64
	// ID tells two histories apart that use the same numbers.
	ID uuid.UUID
	// Prev is the Seq of the event before this one; -1 for the first. Only the
	// relay fills it in; it is absent (-1) on events read by a fence.
	Prev int64
	Kind Kind
	// KeyID names the key; empty for OwnerChanged and Reset.
	KeyID string
	// OwnerID names the key's owner at the time of the event; empty for Reset.
	OwnerID string
	// OccurredAt is the database's wall clock at the change, before the commit.
	OccurredAt time.Time
}
