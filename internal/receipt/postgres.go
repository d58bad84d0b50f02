package receipt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Querier is the part of a pgx connection or pool that Read needs.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const receiptSQL = `SELECT r.receipt_seq, r.event_id, r.kind, coalesce(r.key_id, ''), coalesce(r.owner_id, ''), r.actor,
	r.occurred_at, r.committed_at, r.superseded, r.acknowledged, r.awaited, r.awaited_ms, r.wait_ms, r.registry, r.trusted_registry
FROM keysidecar.receipt(%s) AS r WHERE r.receipt_seq IS NOT NULL`

// Read asks the primary about t, in one snapshot. The error is ErrNoEvent if the
// log has nothing of it.
//
// TRUNCATE is the exception: it empties the registry for snapshots, too, that were taken
// before it and do not see yet that the registry is distrusted. So where nobody is
// awaited, a second look, taken later, must trust the same registry.
func Read(ctx context.Context, db Querier, t Target) (State, error) {
	for {
		s, err := read(ctx, db, t)
		if err != nil || len(s.Awaited) > 0 {
			return s, err
		}
		var trusted string
		err = db.QueryRow(ctx, `SELECT r.trusted_registry FROM keysidecar.receipt($1::bigint) AS r WHERE r.receipt_seq IS NOT NULL`, s.Seq).Scan(&trusted)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return State{}, ErrNoEvent // pruned meanwhile
		case err != nil:
			return State{}, fmt.Errorf("read the registry: %w", err)
		}
		if trusted == s.Trusted {
			return s, nil
		}
	}
}

func read(ctx context.Context, db Querier, t Target) (State, error) {
	var (
		of  string
		arg any
	)
	switch {
	case t.HasSeq:
		of, arg = "$1::bigint", t.Seq
	case t.KeyID != "":
		of, arg = "keysidecar.receipt_seq($1::text)", t.KeyID
	case t.OwnerID != "":
		of, arg = "keysidecar.receipt_owner_seq($1::text)", t.OwnerID
	default:
		return State{}, errors.New("a receipt for nothing: neither key, owner nor seq")
	}
	var (
		s         State
		committed *time.Time
		names     []string
		bounds    []int64
		wait      int64
	)
	err := db.QueryRow(ctx, fmt.Sprintf(receiptSQL, of), arg).Scan(&s.Seq, &s.EventID, &s.Kind, &s.KeyID, &s.OwnerID, &s.Actor,
		&s.OccurredAt, &committed, &s.Superseded, &s.Acknowledged, &names, &bounds, &wait, &s.Registry, &s.Trusted)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return State{}, ErrNoEvent
	case err != nil:
		return State{}, fmt.Errorf("read the registry: %w", err)
	case len(names) != len(bounds):
		return State{}, fmt.Errorf("read the registry: %d names and %d bounds", len(names), len(bounds))
	}
	if committed != nil {
		s.CommittedAt = *committed
	}
	s.Wait = time.Duration(wait) * time.Millisecond
	for i := range names {
		s.Awaited = append(s.Awaited, Awaited{names[i], time.Duration(bounds[i]) * time.Millisecond})
	}
	return s, nil
}
