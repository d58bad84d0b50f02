package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// ImportBatch is how many keys Import should be given at a time. A transaction
// holds the gate while it commits, about 10 ms for so many, and other key changes
// wait that long.
func (p *Postgres) ImportBatch() int { return 1000 }

// Import adds keys in one transaction and returns, in their order, why each was
// refused, or nil. Where the database will not have one of them, the others are
// added all the same, in smaller transactions.
func (p *Postgres) Import(ctx context.Context, keys []keystore.FileKey) ([]error, error) {
	if p.relation != ownRelation {
		return nil, ErrNotOurs
	}
	verdicts := make([]error, len(keys))
	rows := make([]importRow, 0, len(keys))
	first := make(map[string]bool, len(keys))
	for i := range keys {
		key, err := check(&keys[i])
		switch {
		case err != nil:
			verdicts[i] = err
		case first[key.ID]:
			verdicts[i] = fmt.Errorf("%s: %w", key.ID, ErrExists)
		default:
			first[key.ID] = true
			rows = append(rows, importRow{at: i, id: key.ID, columns: columns(key, &keys[i])})
		}
	}
	return verdicts, p.importRows(ctx, rows, verdicts)
}

// importRow is a key on its way into the database.
type importRow struct {
	at      int // place in the verdicts
	id      string
	columns []any
}

// importRows adds rows. If the database refuses one of them it halves the rows
// until that one is alone.
func (p *Postgres) importRows(ctx context.Context, rows []importRow, verdicts []error) error {
	if len(rows) == 0 {
		return nil
	}
	added, err := p.copyRows(ctx, rows)
	switch {
	case errors.Is(err, ErrRefused) && len(rows) == 1:
		verdicts[rows[0].at] = fmt.Errorf("%s: %w", rows[0].id, err)
		return nil
	case errors.Is(err, ErrRefused):
		half := len(rows) / 2
		if err := p.importRows(ctx, rows[:half], verdicts); err != nil {
			return err
		}
		return p.importRows(ctx, rows[half:], verdicts)
	case err != nil:
		return err
	}
	for _, r := range rows {
		if !added[r.id] {
			verdicts[r.at] = fmt.Errorf("%s: %w", r.id, ErrExists)
		}
	}
	return nil
}

// importColumns are the columns of importRow.columns.
var importColumns = []string{"key_id", "owner_id", "algorithm", "public_key", "scopes", "not_before", "expires_at", "revoked_at", "attributes", "note"}

// copyRows adds rows in one transaction and returns the ids that were not there
// before.
func (p *Postgres) copyRows(ctx context.Context, rows []importRow) (map[string]bool, error) {
	added := make(map[string]bool, len(rows))
	err := p.changeKeys(ctx, func(tx pgx.Tx) error {
		// COPY knows no ON CONFLICT, so that rows go through a table of this session.
		if _, err := tx.Exec(ctx, `CREATE TEMPORARY TABLE keysidecar_import (key_id text, owner_id text, algorithm text, public_key bytea,
			scopes text[], not_before timestamptz, expires_at timestamptz, revoked_at timestamptz, attributes jsonb, note text) ON COMMIT DROP`); err != nil {
			return fmt.Errorf("make a place for the rows: %w", err)
		}
		source := pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) { return rows[i].columns, nil })
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"pg_temp", "keysidecar_import"}, importColumns, source); err != nil {
			return refused(err, "send the rows")
		}
		if _, err := tx.Exec(ctx, `INSERT INTO keysidecar.owners (owner_id) SELECT DISTINCT owner_id FROM pg_temp.keysidecar_import
			ORDER BY owner_id ON CONFLICT DO NOTHING`); err != nil {
			return refused(err, "add the owners")
		}
		inserted, err := tx.Query(ctx, `INSERT INTO keysidecar.public_keys
			(key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes, note)
			SELECT key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes, note
			FROM pg_temp.keysidecar_import ON CONFLICT (key_id) DO NOTHING RETURNING key_id`)
		if err != nil {
			return refused(err, "add the keys")
		}
		var id string
		if _, err := pgx.ForEachRow(inserted, []any{&id}, func() error { added[id] = true; return nil }); err != nil {
			return refused(err, "add the keys")
		}
		return nil
	})
	return added, err
}
