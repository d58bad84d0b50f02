package schema

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/resolve"
)

// minServer is the oldest PostgreSQL that has everything used here
// (idle_session_timeout, which the relay's leader needs).
const minServer = 140000

// lockTimeout is how long a migration waits for a table that somebody else uses.
// Whoever comes after it waits behind it, sidecars' fences among them, so that it
// must be well below any bound of the promise; the migration then stands back for
// lockRetry and tries again.
const (
	lockTimeout = 300 * time.Millisecond
	lockRetry   = 2 * time.Second
)

// unlockTimeout bounds giving the lock back after the caller has given up.
const unlockTimeout = 5 * time.Second

// Options are for Migrate. The zero value is usable.
type Options struct {
	// Progress is told what is being done, a line at a time.
	Progress func(string)
	Logger   *zap.Logger
}

func (o Options) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// Migrate brings the database of dsn to the version Latest and returns when that
// is done and committed, migration by migration. It may be run again, and by
// several at once: they take turns. dsn must not lead through a pooler in
// transaction mode, for the turn is held by the session.
//
// A database that is newer already is left alone, with an error that wraps
// ErrNewer.
//
// What runs is not disturbed: a migration that finds a table in use (by a dump, say)
// waits for it for a moment only, lets others pass, and tries again until ctx ends.
func Migrate(ctx context.Context, dsn string, o Options) error {
	return withTurn(ctx, dsn, o, func(ctx context.Context, m *migrator) error { return m.up(ctx) })
}

// Rollback takes the database of dsn back to an older version; 0 removes all
// tables and with them all keys. It is for the way back from a bad upgrade: stop
// what uses the database first.
func Rollback(ctx context.Context, dsn string, to int64, o Options) error {
	return withTurn(ctx, dsn, o, func(ctx context.Context, m *migrator) error { return m.down(ctx, to) })
}

// migrator does the work while it is the only one in its database.
type migrator struct {
	Options
	conn     *sql.Conn // holds the lock
	provider *goose.Provider
}

// withTurn connects, waits for the turn of this migrator, makes sure that the
// schema and the table of versions exist, and calls work.
func withTurn(ctx context.Context, dsn string, o Options, work func(context.Context, *migrator) error) (err error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return fmt.Errorf("read the database's address: %w", err)
	}
	config.LookupFunc = resolve.Host
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, fmt.Sprintf("SET lock_timeout = '%dms'", lockTimeout.Milliseconds()))
		return err
	}))
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()

	if err := checkServer(ctx, conn); err != nil {
		return err
	}
	o.say("waiting for other migrations to end")
	// Nobody but another migration waits for this.
	if _, err := conn.ExecContext(ctx, "SET lock_timeout = 0"); err != nil {
		return fmt.Errorf("lock the migrations: %w", err)
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(advisoryLock)); err != nil {
		return fmt.Errorf("lock the migrations: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		_, unlockErr := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", int64(advisoryLock))
		err = errors.Join(err, unlockErr)
	}()
	if err := prepare(ctx, conn); err != nil {
		return err
	}
	provider, err := newProvider(db)
	if err != nil {
		return err
	}
	return work(ctx, &migrator{Options: o, conn: conn, provider: provider})
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	dir, err := fs.Sub(files, "migrations")
	if err != nil {
		return nil, err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, dir, goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	return p, nil
}

// checkServer refuses a server that the migrations cannot work on, before they
// fail half-way with a message about something else.
func checkServer(ctx context.Context, conn *sql.Conn) error {
	var version int
	var encoding string
	var standby bool
	err := conn.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), pg_is_in_recovery()").
		Scan(&version, &encoding, &standby)
	switch {
	case err != nil:
		return fmt.Errorf("ask the server for its version: %w", err)
	case version < minServer:
		return fmt.Errorf("the server is PostgreSQL %d, at least %d is needed", version/10000, minServer/10000)
	case encoding != "UTF8":
		return fmt.Errorf("the database's encoding is %s, it must be UTF8", encoding)
	case standby:
		return errors.New("the server is a standby: migrate on the primary")
	}
	return nil
}

// prepare makes the schema and the table of versions if they are not there. The
// check comes first, because CREATE ... IF NOT EXISTS wants the right to create
// even when there is nothing to do.
func prepare(ctx context.Context, conn *sql.Conn) error {
	var exists bool
	err := conn.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = 'keysidecar' AND tablename = 'schema_version')`).Scan(&exists)
	if err != nil {
		return fmt.Errorf("look for the schema: %w", err)
	}
	if exists {
		return nil
	}
	// One string without arguments is one transaction.
	if _, err := conn.ExecContext(ctx, prologue); err != nil {
		return fmt.Errorf("create the schema keysidecar (the migrating role needs CREATE on the database): %w", err)
	}
	return nil
}

func (m *migrator) up(ctx context.Context) error {
	from, err := m.provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if from > Latest {
		return fmt.Errorf("%w: it has version %d, this program makes %d: nothing was done", ErrNewer, from, Latest)
	}
	for at := from; at < Latest; at++ {
		m.say("applying migration %d of %d", at+1, Latest)
		result, err := m.step(ctx, m.provider.UpByOne)
		if err != nil {
			return fmt.Errorf("migrate from version %d: %w", at, err)
		}
		m.Logger.Info("migration applied", zap.Int64("version", result.Source.Version), zap.Duration("took", result.Duration))
	}
	if err := m.grant(ctx); err != nil {
		return err
	}
	if from == Latest {
		m.say("the schema has version %d already: nothing to do", Latest)
	} else {
		m.say("migrated the schema from version %d to %d", from, Latest)
	}
	return nil
}

// step does one migration, as often as it takes to get its locks.
func (m *migrator) step(ctx context.Context, migrate func(context.Context) (*goose.MigrationResult, error)) (*goose.MigrationResult, error) {
	for {
		result, err := migrate(ctx)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != lockNotAvailable {
			return result, err
		}
		m.say("waiting for %s", m.users(ctx))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, while tables were in use: %w", context.Cause(ctx), err)
		case <-time.After(lockRetry):
		}
	}
}

// users says who has used tables of the schema for longest.
func (m *migrator) users(ctx context.Context) string {
	var text string
	err := m.conn.QueryRowContext(ctx, `SELECT coalesce(string_agg(line, ', '), 'others who use the tables') FROM (
		SELECT format('process %s (%s, in its transaction for %s s)', a.pid, coalesce(nullif(a.application_name, ''), a.usename), round(extract(epoch FROM clock_timestamp() - a.xact_start))) AS line
		FROM pg_stat_activity a
		WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL AND EXISTS (
			SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = a.pid AND l.granted AND c.relnamespace = 'keysidecar'::regnamespace)
		ORDER BY a.xact_start LIMIT 3) AS longest`).Scan(&text)
	if err != nil {
		return "others who use the tables"
	}
	return text
}

// grant gives the group roles their rights, each time, since they may have been
// created after the last migration.
func (m *migrator) grant(ctx context.Context) error {
	var missing string
	if err := m.conn.QueryRowContext(ctx, "SELECT array_to_string(missing, ', ') FROM keysidecar.grant_roles()").Scan(&missing); err != nil {
		return fmt.Errorf("grant rights to the group roles: %w", err)
	}
	if missing != "" {
		m.say("roles not created, for want of CREATEROLE: %s; let an administrator create them (CREATE ROLE ... NOLOGIN) and migrate again", missing)
		m.Logger.Warn("group roles are missing", zap.Strings("roles", strings.Split(missing, ", ")))
	}
	return nil
}

func (m *migrator) down(ctx context.Context, to int64) error {
	if to < 0 || to > Latest {
		return fmt.Errorf("there is no version %d", to)
	}
	for {
		at, err := m.provider.GetDBVersion(ctx)
		if err != nil {
			return fmt.Errorf("read the schema's version: %w", err)
		}
		if at > Latest {
			return fmt.Errorf("%w: it has version %d, roll back with the program that made it", ErrNewer, at)
		}
		if at <= to {
			m.say("the schema has version %d", at)
			return nil
		}
		m.say("rolling back migration %d", at)
		if _, err := m.step(ctx, m.provider.Down); err != nil {
			return fmt.Errorf("roll back version %d: %w", at, err)
		}
	}
}
