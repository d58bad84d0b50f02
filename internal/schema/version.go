package schema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is the part of a pgx connection or pool that Version needs.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// The reasons for which a database cannot be used as it is. Errors of Version and
// CheckCompatible wrap one of them if it is not the connection that failed.
var (
	ErrAbsent = errors.New("the database has no keysidecar schema")
	ErrOlder  = errors.New("the database's keysidecar schema is older than this program")
	ErrNewer  = errors.New("the database's keysidecar schema is newer than this program")
	ErrRights = errors.New("the database role may not use the keysidecar schema")
)

// SQLSTATEs that tell an absent schema, missing rights and tables in use from other
// failures.
const (
	undefinedTable        = "42P01"
	invalidSchemaName     = "3F000"
	insufficientPrivilege = "42501"
	lockNotAvailable      = "55P03"
)

const versionSQL = `SELECT coalesce(max(v.version_id), 0),
	coalesce((SELECT s.value::bigint FROM keysidecar.settings s WHERE s.name = 'schema.serves_from'), max(v.version_id))
FROM keysidecar.schema_version v`

const versionAloneSQL = `SELECT coalesce(max(version_id), 0) FROM keysidecar.schema_version`

// Version returns the version of the schema in conn's database. The error wraps
// ErrAbsent if there is none and ErrRights if the role may not read it.
func Version(ctx context.Context, conn Querier) (int64, error) {
	var v int64
	if err := classify(conn.QueryRow(ctx, versionAloneSQL).Scan(&v)); err != nil {
		return 0, err
	}
	if v == 0 {
		return 0, fmt.Errorf("%w: run keysidecar migrate", ErrAbsent)
	}
	return v, nil
}

// CheckCompatible returns nil if this program can use conn's database. A newer
// schema is one it can use if the migrations between say so (the setting
// schema.serves_from), so that the database can be migrated before the fleet is
// updated. Otherwise the error wraps one of the reasons above and says what to do.
func CheckCompatible(ctx context.Context, conn Querier) error {
	found, err := Version(ctx, conn)
	if err != nil {
		return err
	}
	if found < Latest {
		return fmt.Errorf("%w: it has version %d, this program needs %d: run keysidecar migrate", ErrOlder, found, Latest)
	}
	if found == Latest {
		return nil
	}
	var servesFrom int64
	if err := classify(conn.QueryRow(ctx, versionSQL).Scan(&found, &servesFrom)); err != nil {
		return err
	}
	if servesFrom > Latest {
		return fmt.Errorf("%w: it has version %d and serves programs built for %d and later, this one is built for %d: update the program",
			ErrNewer, found, servesFrom, Latest)
	}
	return nil
}

// classify puts a name on what Postgres answered.
func classify(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case undefinedTable, invalidSchemaName:
		return fmt.Errorf("%w: run keysidecar migrate: %w", ErrAbsent, err)
	case insufficientPrivilege:
		return fmt.Errorf("%w: grant it keysidecar_sidecar, keysidecar_relay or keysidecar_app, whichever it works as: %w", ErrRights, err)
	}
	return err
}
