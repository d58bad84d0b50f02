// Package schematest makes databases with the keysidecar schema for tests. A
// server is migrated once, into a template; each test gets a copy of that.
package schematest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/schema"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

const (
	template = "keysidecar_template"
	// templateLock is an advisory lock of database postgres: tests may ask for
	// their first database at the same time.
	templateLock = 7_310_001
	timeout      = time.Minute
)

// NewDatabase makes a database with the newest schema on pg, dropped at the end
// of the test, and returns its URL for the superuser.
func NewDatabase(tb testing.TB, pg *testenv.Postgres) string {
	tb.Helper()
	if err := makeTemplate(pg); err != nil {
		tb.Fatalf("make the template database: %v", err)
	}
	dsn := pg.DSN(pg.NewDatabaseFrom(tb, template))
	if err := trustRegistry(dsn); err != nil {
		tb.Fatalf("trust the copy's registry: %v", err)
	}
	return dsn
}

// trustRegistry says of a copy what the relay would say after a wait: its registry
// is another one than the template's, and complete.
func trustRegistry(dsn string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, "UPDATE keysidecar.registry SET identity = keysidecar.registry_identity()")
	return err
}

func makeTemplate(pg *testenv.Postgres) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, pg.DSN("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", templateLock); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", template).Scan(&exists); err != nil || exists {
		return err
	}
	const building = template + "_building"
	if err := errors.Join(pg.DropDatabase(building), pg.CreateDatabase(building, "")); err != nil {
		return err
	}
	if err := schema.Migrate(ctx, pg.DSN(building), schema.Options{}); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", building, template))
	return err
}
