package admin

import (
	"errors"
	"fmt"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// What the store says no to. Every other error means that it could not be asked.
var (
	ErrNoKey   = errors.New("there is no such key")
	ErrNoOwner = errors.New("there is no such owner")
	ErrExists  = errors.New("the key exists already")
	// ErrRefused: the key breaks a rule.
	ErrRefused = errors.New("refused")
	// ErrNotOurs: the keys are in a table that keysidecar does not write.
	ErrNotOurs = errors.New("store.postgres.relation names a table or view that is not keysidecar's own; change keys there, with the application they belong to")
)

// Entry is a key with what its store knows about it beyond the key itself.
type Entry struct {
	keystore.FileKey
	OwnerSuspended bool       `json:"owner_suspended,omitempty"`
	RevokedReason  string     `json:"revoked_reason,omitempty"`
	CreatedAt      *time.Time `json:"created_at,omitempty"`
	// LastUsedAt is what sidecars with usage.enabled have noted; nil if they have not.
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
	// Now is the store's clock when it was read, by which State should judge.
	Now time.Time `json:"-"`
	// UsageKnown: LastUsedAt could be read, so that nil means never.
	UsageKnown bool `json:"-"`
}

// State is the verdict on e at now, in the words of the HTTP contract.
func (e *Entry) State(now time.Time) string {
	code := keystore.Active
	switch {
	case e.RevokedAt != nil:
		code = keystore.Revoked
	case e.OwnerSuspended:
		code = keystore.OwnerSuspended
	case e.ExpiresAt != nil && !now.Before(*e.ExpiresAt):
		code = keystore.Expired
	case e.NotBefore != nil && now.Before(*e.NotBefore):
		code = keystore.NotYetValid
	}
	return code.String()
}

// Owner is an owner and how many keys it has.
type Owner struct {
	OwnerID     string     `json:"owner_id"`
	SuspendedAt *time.Time `json:"suspended_at"`
	Keys        int64      `json:"keys"`
	Revoked     int64      `json:"revoked_keys"`
}

// Rotation says what Rotate is to do.
type Rotation struct {
	// Old is the key that is replaced; New takes its place. New must have a key_id
	// of its own.
	Old string
	New keystore.FileKey
	// Overlap is how long Old stays valid beside New; 0 revokes it at once.
	Overlap time.Duration
	// Reason is noted with the revocation.
	Reason string
}

// check reports whether a sidecar could read k.
func check(k *keystore.FileKey) (*keystore.Key, error) {
	key, err := k.Key()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return key, nil
}
