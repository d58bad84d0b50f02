package keystore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/receipt"
	"github.com/keysidecar/keysidecar/internal/resolve"
)

// PostgresOptions is what NewPostgres needs.
type PostgresOptions struct {
	// DSN returns the connection string; it is asked before each new connection,
	// so that a rotated password is used without a restart.
	DSN func() (string, error)
	// Relation is the table or view keys are read from, as "schema.name".
	Relation string
	// MaxConns counts the fence's own connection; the others serve fills. At
	// least 2.
	MaxConns int
	// ExecMode is how statements are sent; cache_describe behind PgBouncer.
	ExecMode pgx.QueryExecMode
	// ConnectTimeout bounds the making of a connection.
	ConnectTimeout time.Duration
	// ApplicationName shows in pg_stat_activity.
	ApplicationName string
	Logger          *zap.Logger
}

// Postgres reads keys and the log from a Postgres primary.
//
// The fence has a connection of its own, which also warms (in a warm there is
// nothing to fence from); fills share a pool, so that however many of them hang,
// a fence never waits for one. Every statement refuses the answer of a server in
// recovery, and a statement is a snapshot of its own: the questions are plain
// SELECTs, never functions, because a VOLATILE function sees several.
type Postgres struct {
	opts PostgresOptions
	pool *pgxpool.Pool
	// server is where the fence's connection leads; nil or "" while there is none.
	server atomic.Pointer[string]

	mu     sync.Mutex // guards what follows; held by the one fence or warm under way
	making *making    // the next conn, if it is wanted
	conn   *pgx.Conn
	sql    *statements // the newest
	// captureIntact is what the last check of the triggers found, at captureAt.
	captureIntact bool
	captureAt     time.Time
}

// captureEvery is how long a check of the capture triggers is good for. Every
// fence of the regular interval makes one; those that follow messages closely
// need not.
const captureEvery = 500 * time.Millisecond

var _ Source = (*Postgres)(nil)

// NewPostgres checks the options and the connection string's form, and begins to
// connect: nothing else that a start waits for takes as long. It asks for no key, and
// Close must be called.
func NewPostgres(o PostgresOptions) (*Postgres, error) {
	if o.MaxConns < 2 {
		return nil, errors.New("store.postgres.max_conns must be at least 2: one connection is the fence's own")
	}
	if _, err := relationName(o.Relation); err != nil {
		return nil, err
	}
	p := &Postgres{opts: o}
	cfg, err := p.poolConfig()
	if err != nil {
		return nil, err
	}
	if p.pool, err = pgxpool.NewWithConfig(context.Background(), cfg); err != nil {
		return nil, fmt.Errorf("make the pool of connections for fills: %w", err)
	}
	if p.making, err = p.connect(); err != nil {
		p.pool.Close()
		return nil, err
	}
	return p, nil
}

// Kind implements Source.
func (p *Postgres) Kind() string { return "postgres" }

// pingAfter is how long a connection for fills lies idle before it is asked whether
// it still works, ahead of the fill that somebody waits for.
const pingAfter = time.Second

// canFail marks the context of a question that is asked again before long. It needs no
// connection that was tried before: that would double what it costs.
type canFail struct{}

func (p *Postgres) poolConfig() (*pgxpool.Config, error) {
	conn, err := p.connConfig()
	if err != nil {
		return nil, err
	}
	dsn, err := p.opts.DSN()
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, scrub(err)
	}
	cfg.ConnConfig = conn
	cfg.MaxConns = int32(p.opts.MaxConns - 1) //nolint:gosec // a handful
	cfg.MinConns, cfg.MinIdleConns = 0, 1
	cfg.MaxConnLifetime, cfg.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	cfg.MaxConnIdleTime = 10 * time.Minute
	cfg.HealthCheckPeriod = 15 * time.Second
	cfg.PingTimeout = 2 * time.Second
	cfg.ShouldPing = func(ctx context.Context, idle pgxpool.ShouldPingParams) bool {
		return idle.IdleDuration > pingAfter && ctx.Value(canFail{}) == nil
	}
	cfg.AfterConnect = p.rehearse
	cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		fresh, err := p.connConfig()
		if err != nil {
			return err
		}
		*c = *fresh
		return nil
	}
	return cfg, nil
}

// connConfig parses the DSN as it is now.
func (p *Postgres) connConfig() (*pgx.ConnConfig, error) {
	dsn, err := p.opts.DSN()
	if err != nil {
		return nil, fmt.Errorf("store.postgres: %w", err)
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, scrub(err)
	}
	cfg.LookupFunc = resolve.Host
	cfg.DefaultQueryExecMode = p.opts.ExecMode
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > p.opts.ConnectTimeout {
		cfg.ConnectTimeout = p.opts.ConnectTimeout
	}
	if _, set := cfg.RuntimeParams["application_name"]; !set {
		cfg.RuntimeParams["application_name"] = p.opts.ApplicationName
	}
	if p.opts.ExecMode == pgx.QueryExecModeCacheStatement {
		// A range whose bound is a parameter never gets a generic plan by itself,
		// and planning is most of a fence's cost. Poolers refuse the parameter, so
		// only direct connections ask for it.
		cfg.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	}
	if len(cfg.Fallbacks) > 0 && cfg.ValidateConnect == nil {
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	return cfg, nil
}

// scrub keeps a DSN's password out of an error: pgx quotes the string it could
// not parse, with its own masking, which an odd string can defeat.
func scrub(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return errors.New("store.postgres.dsn cannot be parsed; want postgres://user@host:5432/database?sslmode=verify-full or key=value pairs")
	}
	return err
}

// making is a connection for fences on its way. That takes many round trips, and
// a host that is gone takes its whole time-out before the next one is tried: more
// than a fence has. So it outlives the fence that wanted it, and a later fence
// finds it.
type making struct {
	cancel context.CancelFunc
	done   chan struct{}

	// Written before done is closed.
	conn *pgx.Conn
	sql  *statements
	err  error
}

// connect begins to make a connection for fences.
func (p *Postgres) connect() (*making, error) {
	cfg, err := p.connConfig()
	if err != nil {
		return nil, err
	}
	// ConnectTimeout is for each host; one more for the questions that follow.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(len(cfg.Fallbacks)+2)*cfg.ConnectTimeout)
	m := &making{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		defer cancel()
		if m.conn, m.err = pgx.ConnectConfig(ctx, cfg); m.err != nil {
			m.err = fmt.Errorf("connect for fences: %w", m.err)
			return
		}
		if m.sql, m.err = p.statements(ctx, m.conn); m.err != nil {
			closeQuietly(m.conn)
		}
	}()
	return m, nil
}

// dedicated returns the fence's connection, making it if need be. The caller
// holds mu.
func (p *Postgres) dedicated(ctx context.Context) (conn *pgx.Conn, err error) {
	if p.conn != nil && !p.conn.IsClosed() {
		return p.conn, nil
	}
	if p.making == nil {
		if p.making, err = p.connect(); err != nil {
			return nil, err
		}
	}
	select {
	case <-p.making.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("connect for fences: %w", context.Cause(ctx))
	}
	made := p.making
	p.making = nil
	if made.err != nil {
		return nil, made.err
	}
	p.conn = made.conn
	server := made.conn.PgConn().Conn().RemoteAddr().String()
	p.server.Store(&server)
	p.use(made.sql)
	return p.conn, nil
}

// use makes sql the newest statements. If the relation is another one than it was,
// fills have to look at it anew, too.
func (p *Postgres) use(sql *statements) {
	if p.sql != nil && *p.sql != *sql {
		p.pool.Reset()
	}
	p.sql = sql
}

// dropOn closes the fence's connection after an error, so that the next fence
// makes a new one, perhaps to another server.
func (p *Postgres) dropOn(err error) {
	if err != nil && p.conn != nil {
		closeQuietly(p.conn)
		p.conn = nil
		p.server.Store(nil)
	}
}

// Connections is what a Postgres holds open, for status pages.
type Connections struct {
	// Server is the address that the fence's connection leads to; empty while there is
	// none.
	Server string
	// Open are those that are open, the fence's included, of at most Most.
	Open, Most int
}

// Connections returns what is open now.
func (p *Postgres) Connections() Connections {
	c := Connections{Open: int(p.pool.Stat().TotalConns()), Most: p.opts.MaxConns}
	if server := p.server.Load(); server != nil {
		c.Server = *server
		c.Open++
	}
	return c
}

func closeQuietly(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx)
}

// Fence implements Source with one range scan: its first row is the proof of the
// cursor, its last the head.
func (p *Postgres) Fence(ctx context.Context, q FenceQuestion) (page Page, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.dropOn(err) }()
	conn, err := p.dedicated(ctx)
	if err != nil {
		return Page{}, err
	}
	if q.Report {
		page, err = p.fence(ctx, conn, p.sql.report, q, q.By.Registration, q.At.ID, q.Timeline)
		if pg := (*pgconn.PgError)(nil); !errors.As(err, &pg) {
			page.Reported = err == nil
			return page, err
		}
		// A primary that takes no reports (read-only, a full disk, a right that is
		// missing) still tells the truth; or it is a standby, which the plain question
		// tells.
	}
	if q.By.Registration == uuid.Nil {
		return p.fence(ctx, conn, p.sql.unregisteredFence, q, ceilMillis(q.By.Bound))
	}
	return p.fence(ctx, conn, p.sql.fence, q, q.By.Registration)
}

// readOnly: the server or the session refuses to write.
func readOnly(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "25006"
}

func ceilMillis(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func (p *Postgres) fence(ctx context.Context, conn *pgx.Conn, sql string, q FenceQuestion, more ...any) (page Page, err error) {
	at := q.At
	check := p.captureDue()
	rows, err := conn.Query(ctx, sql, append([]any{at.Seq, q.Limit + 1, check}, more...)...)
	if err != nil {
		return Page{}, classify(err)
	}
	defer rows.Close()
	var (
		standby  bool
		timeline *string
		intact   *bool
		row      logRow
	)
	// The first row is the cursor's own event, with what the statement says of
	// itself; what it says of itself is the same in every other row.
	for n := 0; rows.Next(); n++ {
		if n > 0 {
			if err := row.scan(rows, nil, nil, nil, nil, nil, nil); err != nil {
				return Page{}, fmt.Errorf("read a fence's row: %w", err)
			}
			page.Events = append(page.Events, row.event())
			continue
		}
		if err := row.scan(rows, &standby, &timeline, &page.Time, &intact, &page.Member, &page.Fleet); err != nil {
			return Page{}, fmt.Errorf("read a fence's row: %w", err)
		}
		if standby || timeline == nil {
			return Page{}, ErrStandby
		}
		if intact != nil {
			p.captureIntact, p.captureAt = *intact, time.Now() //nolint:forbidigo // see captureDue
		}
		page.CaptureIntact = p.captureIntact
		page.Timeline = *timeline
		page.Known = row.seq == at.Seq && row.id == at.ID
		if !page.Known {
			break
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return Page{}, classify(err)
	}
	page.Full = len(page.Events) == q.Limit
	if !page.Known {
		// No such row is also what a standby without the log's tail would say.
		return Page{Member: true}, notStandby(ctx, conn) // the end of the history matters more than who asked
	}
	return page, nil
}

// logRow receives the columns of an event, row after row: a page has thousands.
type logRow struct {
	seq        int64
	id         uuid.UUID
	kind       string
	key, owner *string
	occurredAt time.Time
}

// scan reads a fence's row: what the statement says of itself, nil to skip it, and an
// event.
func (r *logRow) scan(rows pgx.Rows, standby, timeline, now, intact, member, fleet any) error {
	return rows.Scan(standby, timeline, now, intact, member, fleet, &r.seq, &r.id, &r.kind, &r.key, &r.owner, &r.occurredAt)
}

func (r *logRow) event() event.Event {
	e := event.Event{Seq: r.seq, ID: r.id, Prev: -1, Kind: event.Kind(r.kind), OccurredAt: r.occurredAt}
	if r.key != nil {
		e.KeyID = *r.key
	}
	if r.owner != nil {
		e.OwnerID = *r.owner
	}
	return e
}

// captureDue says whether the next fence shall check the triggers.
func (p *Postgres) captureDue() bool {
	return !p.captureIntact || time.Since(p.captureAt) > captureEvery //nolint:forbidigo // how often to ask, not what to answer
}

// notStandby makes sure that it is a primary which gave an odd answer.
func notStandby(ctx context.Context, conn *pgx.Conn) error {
	var standby bool
	if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return classify(err)
	}
	if standby {
		return ErrStandby
	}
	return nil
}

// registerSQL is asked once, and so not prepared.
const registerSQL = `SELECT keysidecar.register($1::uuid, $2::text, $3::bigint, $4::bigint, $5::text, $6::text, $7::text[]::uuid[], $8::boolean)`

// Register implements Source with a row in keysidecar.instances.
func (p *Postgres) Register(ctx context.Context, i Incarnation) (fleet int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.dropOn(err) }()
	conn, err := p.dedicated(ctx)
	if err != nil {
		return 0, err
	}
	policy := "fail_closed"
	if i.StaleLimit > 0 {
		policy = "serve_stale"
	}
	failed := uuidTexts(i.Failed)
	register := func(q receipt.Querier) error {
		return q.QueryRow(ctx, registerSQL, pgx.QueryExecModeExec, i.Registration, i.Instance, ceilMillis(i.MaxStaleness), ceilMillis(i.StaleLimit), policy, i.Version, failed, i.Starting).Scan(&fleet)
	}
	err = register(conn)
	if readOnly(err) {
		if err := notStandby(ctx, conn); err != nil {
			return 0, err
		}
		// A database that is read-only by its default still serves keys.
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error { return register(tx) })
	}
	if err != nil {
		return 0, fmt.Errorf("register: %w", classify(err))
	}
	return fleet, nil
}

const signOffSQL = `SELECT keysidecar.sign_off(r) FROM unnest($1::text[]::uuid[]) AS r`

// SignOff implements Source.
//
// The end of a fence under way may have cost the fence's connection; those for fills
// take its place then. They may have been idle for long and have called no function, so
// that it takes longer there, and a successor of this process may wait for its end.
func (p *Postgres) SignOff(ctx context.Context, registrations []uuid.UUID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := uuidTexts(registrations)
	if p.conn != nil && !p.conn.IsClosed() {
		if _, err := p.conn.Exec(ctx, signOffSQL, pgx.QueryExecModeExec, ids); err == nil {
			return nil
		}
	}
	if _, err := p.pool.Exec(ctx, signOffSQL, pgx.QueryExecModeExec, ids); err != nil {
		return fmt.Errorf("sign off: %w", classify(err))
	}
	return nil
}

// uuidTexts are ids in the form that every way of sending statements knows.
func uuidTexts(ids []uuid.UUID) []string {
	texts := make([]string, len(ids))
	for n, id := range ids {
		texts[n] = id.String()
	}
	return texts
}

// Receipt implements receipt.Reader, on a connection of those for fills.
func (p *Postgres) Receipt(ctx context.Context, t receipt.Target) (receipt.State, error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return receipt.State{}, fmt.Errorf("connect for a receipt: %w", err)
	}
	defer conn.Release()
	s, err := receipt.Read(ctx, conn, t)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55000" { // it led to a standby
		p.discard(conn)
	}
	return s, err
}

// Fill implements Source. A connection that turns out to have ended meanwhile, as when
// somebody ends all of a role's, is worth a second attempt on another.
func (p *Postgres) Fill(ctx context.Context, keyID string, at Cursor, by Membership, use func(Filled)) error {
	used := false
	once := func(f Filled) {
		used = true
		use(f)
	}
	broken, err := p.fill(ctx, keyID, at, by, once)
	if broken && !used && ctx.Err() == nil {
		_, err = p.fill(ctx, keyID, at, by, once)
	}
	return err
}

// fill is one attempt. It reports whether the connection broke.
func (p *Postgres) fill(ctx context.Context, keyID string, at Cursor, by Membership, use func(Filled)) (broken bool, err error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("connect for a fill: %w", err)
	}
	defer func() {
		broken = err != nil && conn.Conn().IsClosed()
		conn.Release()
	}()
	sql, err := p.fillStatements(ctx, conn.Conn())
	if err != nil {
		return false, err
	}
	question, right := sql.fill, any(by.Registration)
	if by.Registration == uuid.Nil {
		question, right = sql.unregisteredFill, ceilMillis(by.Bound)
	}
	rows, err := conn.Query(ctx, question, p.rawMode(), pgx.QueryResultFormats{pgx.BinaryFormatCode}, keyID, at.Seq, at.ID, right)
	if err != nil {
		return false, classify(err)
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return false, classify(err)
		}
		return false, errors.New("a fill's statement returned no row")
	}
	got, err := decodeFill(rows.RawValues())
	if err != nil {
		if errors.Is(err, ErrStandby) {
			p.discard(conn)
		}
		return false, err
	}
	if got.Row != nil && string(got.Row.ID) != keyID {
		return false, fmt.Errorf("%w: the relation takes another key_id for the one asked for", ErrBadRow)
	}
	use(got)
	if rows.Next() {
		return false, ErrAmbiguous
	}
	return false, classify(rows.Err())
}

// rehearse makes a new connection ready for fills, so that the first one need not wait
// for what all later ones find done: it looks at the schema, and asks for a key that
// there is not, by no right, only to have the statement prepared and planned. What
// fails here fails again when it matters, and is told then.
func (p *Postgres) rehearse(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.ConnectTimeout)
	defer cancel()
	sql, err := p.fillStatements(ctx, conn)
	if err == nil {
		_, err = conn.Exec(ctx, sql.fill, p.rawMode(), "", noCursor.Seq, noCursor.ID, uuid.Nil)
	}
	if conn.IsClosed() {
		return fmt.Errorf("connect for fills: %w", err)
	}
	return nil
}

// FillOwner implements Source.
func (p *Postgres) FillOwner(ctx context.Context, ownerID string, limit int, at Cursor, by Membership, row func(*Row) bool) (Filled, error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return Filled{}, fmt.Errorf("connect for an owner's keys: %w", err)
	}
	defer conn.Release()
	sql, err := p.fillStatements(ctx, conn.Conn())
	if err != nil {
		return Filled{}, err
	}
	question, right := sql.owned, any(by.Registration)
	if by.Registration == uuid.Nil {
		question, right = sql.unregisteredOwned, ceilMillis(by.Bound)
	}
	rows, err := conn.Query(ctx, question, p.rawMode(), pgx.QueryResultFormats{pgx.BinaryFormatCode}, ownerID, at.Seq, at.ID, right, limit)
	if err != nil {
		return Filled{}, classify(err)
	}
	defer rows.Close()
	got, err := readOwned(rows, ownerID, row)
	if errors.Is(err, ErrStandby) {
		p.discard(conn)
	}
	return got, err
}

// readOwned reads the rows of ownedSQL.
func readOwned(rows pgx.Rows, ownerID string, use func(*Row) bool) (got Filled, err error) {
	var row Row
	n, more := 0, true
	for ; rows.Next(); n++ {
		v := rows.RawValues()
		if n == 0 {
			if got, err = decodeFilled(v); err != nil {
				return Filled{}, err
			}
		}
		if v[6] == nil || !more { // an owner without keys; or the rest is not wanted
			continue
		}
		if err := decodeKey(v[6:], &row); err != nil {
			return Filled{}, err
		}
		if string(row.OwnerID) != ownerID {
			return Filled{}, fmt.Errorf("%w: the relation takes another owner_id for the one asked for", ErrBadRow)
		}
		more = use(&row)
	}
	switch err := rows.Err(); {
	case err != nil:
		return Filled{}, classify(err)
	case n == 0:
		return Filled{}, errors.New("the statement for an owner's keys returned no row")
	}
	return got, nil
}

// rawMode is how statements are sent whose answers are taken as raw binary
// values. In exec and simple_protocol mode those would come as text, so they use
// cache_describe, which passes the same poolers.
func (p *Postgres) rawMode() pgx.QueryExecMode {
	if p.opts.ExecMode == pgx.QueryExecModeCacheStatement {
		return p.opts.ExecMode
	}
	return pgx.QueryExecModeCacheDescribe
}

// discard closes a pooled connection that leads to the wrong server.
func (p *Postgres) discard(conn *pgxpool.Conn) { closeQuietly(conn.Conn()) }

// Warm implements Source in one REPEATABLE READ snapshot. Rows are taken as raw
// binary values: COPY would not be faster, and does not pass every pooler.
func (p *Postgres) Warm(ctx context.Context, limit int, head func(Head) error, row func(*Row) error) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.dropOn(err) }()
	conn, err := p.dedicated(ctx)
	if err != nil {
		return err
	}
	sql, err := p.statements(ctx, conn) // anew: perhaps we warm because it changed
	if err != nil {
		return err
	}
	p.use(sql)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return classify(err)
	}
	if err := p.prepareWarm(ctx, tx, sql); err != nil {
		return err
	}
	h, err := readHead(ctx, tx, sql)
	if err != nil {
		return err
	}
	if err := head(h); err != nil {
		return err
	}
	suspended, err := suspendedOwners(ctx, tx, sql.suspended)
	if err != nil {
		return err
	}
	err = streamKeys(ctx, tx, sql.warm, limit, func(r *Row) error {
		if len(suspended) > 0 && !r.OwnerSuspended {
			_, r.OwnerSuspended = suspended[string(r.OwnerID)]
		}
		return row(r)
	})
	if err != nil {
		return err
	}
	return classify(tx.Rollback(ctx))
}

// prepareWarm makes sure that what the snapshot will show is all there (the lock
// comes before anything that takes the snapshot), and that keys can be read one by
// one later.
func (p *Postgres) prepareWarm(ctx context.Context, tx pgx.Tx, sql *statements) error {
	if sql.lock != "" {
		if _, err := tx.Exec(ctx, sql.lock); err != nil {
			return fmt.Errorf("lock what a warm reads: %w", classify(err))
		}
	}
	if _, err := tx.Conn().PgConn().Prepare(ctx, "", sql.fill, nil); err != nil {
		return fmt.Errorf("ask %s for one key: %w", p.opts.Relation, classify(err))
	}
	return nil
}

func readHead(ctx context.Context, tx pgx.Tx, sql *statements) (Head, error) {
	var (
		standby  bool
		timeline *string
		h        Head
		id       uuid.UUID
	)
	err := tx.QueryRow(ctx, sql.head).Scan(&standby, &timeline, &h.CaptureIntact, &h.Cursor.Seq, &id, &h.Keys)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Head{}, fmt.Errorf("%w: keysidecar.events is empty; run keysidecar migrate", ErrSchema)
	case err != nil:
		return Head{}, classify(err)
	case standby || timeline == nil:
		return Head{}, ErrStandby
	}
	h.Cursor.ID, h.Timeline = id, *timeline
	return h, nil
}

func suspendedOwners(ctx context.Context, tx pgx.Tx, sql string) (map[string]struct{}, error) {
	if sql == "" {
		return nil, nil
	}
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return nil, classify(err)
	}
	suspended := make(map[string]struct{})
	var id string
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error { suspended[id] = struct{}{}; return nil })
	return suspended, classify(err)
}

func streamKeys(ctx context.Context, tx pgx.Tx, sql string, limit int, use func(*Row) error) error {
	// Described afresh: a warm is rare, and the relation may have changed.
	rows, err := tx.Query(ctx, sql, pgx.QueryExecModeCacheDescribe, pgx.QueryResultFormats{pgx.BinaryFormatCode}, limit)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	var row Row
	for rows.Next() {
		if err := decodeKey(rows.RawValues(), &row); err != nil {
			return err
		}
		if err := use(&row); err != nil {
			return err
		}
	}
	return classify(rows.Err())
}

// Watch implements Source: what changes in Postgres is told by the queue, not
// from here.
func (p *Postgres) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// closeTimeout is how long Close waits for a server that does not answer. What is
// left then ends within 15 s by itself (pgx), or with the process.
const closeTimeout = 300 * time.Millisecond

// Close implements Source.
func (p *Postgres) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.making != nil {
		p.making.cancel()
		<-p.making.done
		if p.making.err == nil {
			closeQuietly(p.making.conn)
		}
		p.making = nil
	}
	if p.conn != nil {
		closeQuietly(p.conn)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
	}
}

// classify tells a database that is not ready from one that does not answer.
func classify(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "42P01", "3F000", "42703", "42883": // no such table, schema, column, function
		return fmt.Errorf("%w: %w; run keysidecar migrate", ErrSchema, err)
	case "42501": // insufficient privilege
		return fmt.Errorf("%w: %w; grant the role keysidecar_sidecar", ErrSchema, err)
	}
	return err
}

// refusedLogin: the server does not take the user, the password or the client's
// certificate (class 28, invalid authorization).
func refusedLogin(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28")
}

// refusedTLS: one side does not trust the other's certificate. What the server
// says against ours arrives as an alert, with the first read after the handshake.
func refusedTLS(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert *net.OpError
	return errors.As(err, &certificate) || errors.As(err, &alert) && alert.Op == "remote error"
}
