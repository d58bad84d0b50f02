package schema_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// pg is the one server of this package's tests. Prepared transactions are allowed,
// to see them refused for the right reason.
var pg *testenv.Postgres

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if pg, err = testenv.StartPostgresMain(testenv.WithSetting("max_prepared_transactions", "10")); err != nil {
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

// session is one connection to a database, with helpers that fail the test.
type session struct {
	*pgx.Conn
	t testing.TB
}

func newSession(t testing.TB) *session {
	t.Helper()
	return connect(t, schematest.NewDatabase(t, pg))
}

func connect(t testing.TB, dsn string) *session {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &session{Conn: conn, t: t}
}

// another connects to the same database again.
func (s *session) another() *session {
	s.t.Helper()
	return connect(s.t, s.Config().ConnString())
}

// try runs statements, in one transaction unless they say otherwise.
func (s *session) try(sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := s.Exec(ctx, sql, args...)
	return err
}

func (s *session) do(sql string, args ...any) {
	s.t.Helper()
	if err := s.try(sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// refuses fails the test unless sql fails with the SQLSTATE code, and returns the
// error for closer looks.
func (s *session) refuses(code, sql string) *pgconn.PgError {
	s.t.Helper()
	var e *pgconn.PgError
	if err := s.try(sql); !errors.As(err, &e) || e.Code != code {
		s.t.Fatalf("%s: got %v, want an error %s", sql, err, code)
	}
	return e
}

// one returns the single value that a query gives.
func one[T any](s *session, sql string, args ...any) T {
	s.t.Helper()
	var v T
	if err := s.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// head returns the newest event's number.
func (s *session) head() int64 {
	s.t.Helper()
	return one[int64](s, "SELECT max(seq) FROM keysidecar.events")
}

// since lists the events after seq as "kind key_id owner_id", - for none.
func (s *session) since(seq int64) []string {
	s.t.Helper()
	rows, err := s.Query(context.Background(),
		"SELECT concat_ws(' ', kind, coalesce(key_id, '-'), coalesce(owner_id, '-')) FROM keysidecar.events WHERE seq > $1 ORDER BY seq", seq)
	if err != nil {
		s.t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	return events
}

func (s *session) wantSince(seq int64, want ...string) {
	s.t.Helper()
	if got := s.since(seq); !slices.Equal(got, want) {
		s.t.Fatalf("events:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// eventually waits until done returns true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func hasCode(err error, code string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == code
}
