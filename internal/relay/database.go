package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/resolve"
	"github.com/keysidecar/keysidecar/internal/schema"
)

const (
	// lockKey is the advisory lock of the leader ("keysrlay" in ASCII).
	lockKey = 0x6b657973726c6179
	// minServer has idle_session_timeout.
	minServer = 140000
	// appName is how the database's lists show a relay that leads or would; the
	// other connections of a leader have a suffix.
	appName = "keysidecar-relay"
	// connectTimeout bounds a connection attempt whose DSN says nothing.
	connectTimeout = 3 * time.Second
	closeTimeout   = 300 * time.Millisecond
)

var (
	errDSN        = errors.New("not a valid connection string") // and no more: what is wrong with it may be its password
	errStandby    = errors.New("the server is a standby: the relay needs the primary")
	errPooled     = errors.New("the connection goes through a pooler: the relay needs a direct one")
	errOld        = fmt.Errorf("PostgreSQL %d or later is needed", minServer/10000)
	errBrokerless = errors.New("no broker reached and others are waiting to lead")
)

// database is one connection. It is used by one goroutine at a time.
type database struct {
	conn    *pgx.Conn
	timeout time.Duration
}

// open connects for one of the relay's purposes and sees that the server will do.
func (r *Relay) open(ctx context.Context, purpose string, timeout time.Duration) (*database, error) {
	dsn, err := r.opts.DSN()
	if err != nil {
		return nil, fmt.Errorf("read the connection string: %w", err)
	}
	return open(ctx, dsn, appName+purpose, timeout)
}

func open(ctx context.Context, dsn, name string, timeout time.Duration) (*database, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errDSN
	}
	config.LookupFunc = resolve.Host
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 3}}).DialContext
	config.RuntimeParams["application_name"] = name
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	db := &database{conn: conn, timeout: timeout}
	if err := db.vet(ctx); err != nil {
		db.close()
		return nil, err
	}
	return db, nil
}

// vet refuses a server that cannot hold the lock as it must be held, and a
// database that this program cannot use.
func (db *database) vet(ctx context.Context) error {
	var standby bool
	var pid uint32
	var version int
	err := db.row(ctx, "SELECT pg_is_in_recovery(), pg_backend_pid(), current_setting('server_version_num')::int", nil, &standby, &pid, &version)
	switch {
	case err != nil:
		return fmt.Errorf("ask the server what it is: %w", err)
	case standby:
		return errStandby
	case pid != db.conn.PgConn().PID():
		return errPooled
	case version < minServer:
		return errOld
	}
	return schema.CheckCompatible(ctx, db.conn)
}

// connect opens the connection that holds the lock.
func (r *Relay) connect(ctx context.Context) (*database, error) {
	db, err := r.open(ctx, "", r.limits.db)
	if err != nil {
		return nil, err
	}
	// The mark may be lost, so nobody waits for the disk or a standby; what is read
	// over and over needs no new plan.
	err = db.exec(ctx, fmt.Sprintf(
		"SET idle_session_timeout = '%dms'; SET statement_timeout = '%dms'; SET synchronous_commit = off; SET plan_cache_mode = force_generic_plan",
		r.limits.idleSession.Milliseconds(), r.limits.db.Milliseconds()))
	if err != nil {
		db.close()
		return nil, fmt.Errorf("set up the session: %w", err)
	}
	return db, nil
}

func (db *database) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = db.conn.Close(ctx) // it is gone either way
}

// exec runs one statement, or several without arguments.
func (db *database) exec(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	_, err := db.conn.Exec(ctx, sql, args...)
	return err
}

// row runs a statement that returns one row.
func (db *database) row(ctx context.Context, sql string, args []any, into ...any) error {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	return db.conn.QueryRow(ctx, sql, args...).Scan(into...)
}

func (db *database) tryLock(ctx context.Context) (got bool, err error) {
	if err := db.row(ctx, "SELECT pg_try_advisory_lock($1)", []any{int64(lockKey)}, &got); err != nil {
		return false, fmt.Errorf("ask for the lead: %w", err)
	}
	return got, nil
}

// othersWait reports whether another relay is connected and could lead.
func (db *database) othersWait(ctx context.Context) (bool, error) {
	var n int
	err := db.row(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()", []any{appName}, &n)
	return n > 0, err
}

// position is the state of the log as one statement saw it.
type position struct {
	published int64
	head      int64
}

func (db *database) position(ctx context.Context) (p position, err error) {
	err = db.row(ctx, "SELECT r.published_seq, (SELECT coalesce(max(seq), -1) FROM keysidecar.events) FROM keysidecar.relay r", nil, &p.published, &p.head)
	if err != nil {
		return p, fmt.Errorf("read the position: %w", err)
	}
	return p, nil
}

// takeLead writes who leads.
func (db *database) takeLead(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	tag, err := db.conn.Exec(ctx, "UPDATE keysidecar.relay SET leader = $1", name)
	if err != nil {
		return fmt.Errorf("write who leads: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return errors.New("keysidecar.relay has no row: migrate the database")
	}
	return nil
}

// before returns the seq of the newest event up to seq; -1 if there is none.
func (db *database) before(ctx context.Context, seq int64) (prev int64, err error) {
	err = db.row(ctx, "SELECT coalesce(max(seq), -1) FROM keysidecar.events WHERE seq <= $1", []any{seq}, &prev)
	return prev, err
}

// page reads at most n events after seq, oldest first. Each is told its
// predecessor, the first one prev.
func (db *database) page(ctx context.Context, seq, prev int64, n int) ([]event.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	rows, err := db.conn.Query(ctx, "SELECT seq, event_id, kind, key_id, owner_id, occurred_at FROM keysidecar.events WHERE seq > $1 ORDER BY seq LIMIT $2", seq, n)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	var events []event.Event
	for rows.Next() {
		e := event.Event{Prev: prev}
		var id [16]byte
		var kind string
		var key, owner *string
		if err := rows.Scan(&e.Seq, &id, &kind, &key, &owner, &e.OccurredAt); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		e.ID, e.Kind = id, event.Kind(kind)
		if key != nil {
			e.KeyID = *key
		}
		if owner != nil {
			e.OwnerID = *owner
		}
		prev = e.Seq
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return events, nil
}

// mark moves published_seq from from to to and returns the database's time; ok is
// false if it was not at from.
func (db *database) mark(ctx context.Context, from, to int64) (at time.Time, ok bool, err error) {
	err = db.row(ctx, "UPDATE keysidecar.relay SET published_seq = $2, published_at = clock_timestamp() WHERE published_seq = $1 RETURNING published_at", []any{from, to}, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return at, false, nil
	}
	if err != nil {
		return at, false, fmt.Errorf("mark events as published: %w", err)
	}
	return at, true, nil
}

// rewind lowers a published_seq that lies beyond the log, to just before the
// newest n events.
func (db *database) rewind(ctx context.Context, from int64, n int) (to int64, err error) {
	err = db.row(ctx, `UPDATE keysidecar.relay SET published_seq =
		(SELECT coalesce(min(seq), 0) - 1 FROM (SELECT seq FROM keysidecar.events ORDER BY seq DESC LIMIT $2) newest)
		WHERE published_seq = $1 RETURNING published_seq`, []any{from, n}, &to)
	if err != nil {
		return 0, fmt.Errorf("rewind: %w", err)
	}
	return to, nil
}

// databaseError is err in a few words without particulars, for a status page.
func databaseError(err error) string {
	var server *pgconn.PgError
	var network net.Error
	var certificate *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case err == nil, errors.Is(err, errBrokerless):
		return ""
	case errors.Is(err, errStandby):
		return "standby"
	case errors.Is(err, errPooled):
		return "pooled"
	case errors.Is(err, errDSN):
		return "bad_dsn"
	case errors.As(err, &server):
		return "sqlstate_" + server.Code
	case errors.As(err, &certificate), errors.As(err, &alert) && alert.Op == "remote error":
		return "tls"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	}
	return "connection"
}

// Replay has every event from fromSeq on published again, by whichever relay
// leads: it lowers published_seq, which the leader notices within half a second.
// It returns how many events that concerns, those not yet published anyway not
// counted, and the number of the oldest event that the log still holds: what came
// before it was pruned, and cannot be published again.
func Replay(ctx context.Context, dsn string, fromSeq int64) (events, oldest int64, err error) {
	if fromSeq < 0 {
		return 0, 0, errors.New("replay: the first seq cannot be negative")
	}
	db, err := open(ctx, dsn, appName+"-replay", 30*time.Second)
	if err != nil {
		return 0, 0, fmt.Errorf("replay: %w", err)
	}
	defer db.close()
	err = pgx.BeginFunc(ctx, db.conn, func(pgx.Tx) error {
		var published int64
		if err := db.row(ctx, "SELECT published_seq FROM keysidecar.relay FOR UPDATE", nil, &published); err != nil {
			return err
		}
		if err := db.row(ctx, "SELECT count(*) FILTER (WHERE seq >= $1 AND seq <= $2), min(seq) FROM keysidecar.events", []any{fromSeq, published}, &events, &oldest); err != nil {
			return err
		}
		_, err := db.conn.Exec(ctx, "UPDATE keysidecar.relay SET published_seq = least(published_seq, $1)", fromSeq-1)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("replay: %w", err)
	}
	return events, oldest, nil
}

// Replay is the function of this name with the relay's own connection string.
func (r *Relay) Replay(ctx context.Context, fromSeq int64) (events, oldest int64, err error) {
	dsn, err := r.opts.DSN()
	if err != nil {
		return 0, 0, fmt.Errorf("replay: read the connection string: %w", err)
	}
	events, oldest, err = Replay(ctx, dsn, fromSeq)
	if err == nil {
		r.opts.Logger.Info("replay asked for", zap.Int64("from_seq", fromSeq), zap.Int64("events", events))
	}
	return events, oldest, err
}
