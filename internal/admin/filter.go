package admin

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// States are what Entry.State can be, in the order in which people think of them.
var States = []string{
	keystore.Active.String(), keystore.Revoked.String(), keystore.Expired.String(), keystore.NotYetValid.String(), keystore.OwnerSuspended.String(),
}

// ErrNotKnown: the store does not keep what a Filter asks for.
var ErrNotKnown = errors.New("the store does not know")

// Filter says which keys List shows; everything that is set must hold. The zero
// value shows all. Bounds in time: from After on, and before Before.
type Filter struct {
	Owner, Algorithm string
	// States are some of States; none means any.
	States []string

	CreatedAfter, CreatedBefore time.Time
	// Keys without an end never match these.
	ExpiresAfter, ExpiresBefore time.Time
	// UsedAfter: a sidecar has noted a use since. UnusedSince: none has.
	UsedAfter, UnusedSince time.Time

	// After is a key_id: only those that follow it in order.
	After string
	// Limit is how many are shown at most; 0 for all.
	Limit int
}

func (f *Filter) created() bool { return !f.CreatedAfter.IsZero() || !f.CreatedBefore.IsZero() }
func (f *Filter) used() bool    { return !f.UsedAfter.IsZero() || !f.UnusedSince.IsZero() }

// match is Filter for entries that are in memory. It does not look at Limit.
func (f *Filter) match(e *Entry) bool {
	switch {
	case f.Owner != "" && e.OwnerID != f.Owner,
		f.Algorithm != "" && e.Algorithm != f.Algorithm,
		len(f.States) > 0 && !slices.Contains(f.States, e.State(e.Now)),
		f.After != "" && e.KeyID <= f.After,
		(!f.ExpiresAfter.IsZero() || !f.ExpiresBefore.IsZero()) && e.ExpiresAt == nil,
		!f.ExpiresAfter.IsZero() && e.ExpiresAt.Before(f.ExpiresAfter),
		!f.ExpiresBefore.IsZero() && !e.ExpiresAt.Before(f.ExpiresBefore):
		return false
	}
	return true
}

// stateSQL is Entry.State.
const stateSQL = `CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN o.suspended_at IS NOT NULL THEN 'owner_suspended'
	WHEN k.expires_at <= now() THEN 'expired' WHEN k.not_before > now() THEN 'not_yet_valid' ELSE 'active' END`

// where returns the conditions of f and their values.
func (f *Filter) where() (sql string, args []any) {
	conditions := []string{"true"}
	add := func(condition string, value any) {
		args = append(args, value)
		conditions = append(conditions, fmt.Sprintf(condition, len(args)))
	}
	for _, c := range []struct{ condition, value string }{
		{"k.owner_id::text = $%d", f.Owner}, {"k.algorithm::text = $%d", f.Algorithm}, {"k.key_id > $%d", f.After},
	} {
		if c.value != "" {
			add(c.condition, c.value)
		}
	}
	for _, c := range []struct {
		condition string
		at        time.Time
	}{
		{"k.created_at >= $%d", f.CreatedAfter}, {"k.created_at < $%d", f.CreatedBefore},
		{"k.expires_at >= $%d", f.ExpiresAfter}, {"k.expires_at < $%d", f.ExpiresBefore},
		{"u.last_used_at >= $%d", f.UsedAfter}, {"(u.last_used_at IS NULL OR u.last_used_at < $%d)", f.UnusedSince},
	} {
		if !c.at.IsZero() {
			add(c.condition, c.at)
		}
	}
	if len(f.States) > 0 {
		add(stateSQL+" = ANY ($%d::text[])", f.States)
	}
	return strings.Join(conditions, " AND "), args
}
