package schema_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/keysidecar/keysidecar/internal/schema"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// pg is the one server of this package's tests.
var pg *testenv.Postgres

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if pg, err = testenv.StartPostgresMain(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := pg.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestMigratingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	dsn := pg.NewDatabase(t)
	var said []string
	for range 2 {
		said = nil
		err := schema.Migrate(t.Context(), dsn, schema.Options{Progress: func(s string) { said = append(said, s) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(said)
	}
	if v, err := schema.Version(t.Context(), connect(t, dsn)); v != schema.Latest || err != nil {
		t.Fatal(v, err)
	}
}
