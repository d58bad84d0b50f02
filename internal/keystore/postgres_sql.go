package keystore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/schema"
)

// statements are the questions, written for one relation.
type statements struct {
	fence, report, fill, head, warm string
	// For a process that does not register: fence and fill, allowed by the setting.
	unregisteredFence, unregisteredFill string
	// What fill is to a key, for the keys of an owner.
	owned, unregisteredOwned string
	// lock keeps changes that are not MVCC-safe away from a warm.
	lock string
	// suspended lists the suspended owners; empty if each row says it itself.
	suspended string
}

// timelineSQL is NULL on a standby, where the function would fail.
const timelineSQL = `CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END`

// Whether the membership holds in the snapshot; see Membership.
const (
	registeredSQL = `EXISTS (SELECT 1 FROM keysidecar.instances i WHERE i.registration = %s AND i.marked_at IS NULL)`
	allowedSQL    = `coalesce((SELECT s.value::bigint >= %s FROM keysidecar.settings s WHERE s.name = 'fleet.unreported_ms'), false)`
)

// The sub-selects do not depend on the row, so Postgres evaluates each once. The
// check of the capture triggers costs several times the rest; $3 says whether to
// make it. $4 is by what right this is asked.
const fenceSQL = `
SELECT (SELECT pg_is_in_recovery()), (SELECT ` + timelineSQL + `), statement_timestamp(),
       (SELECT CASE WHEN $3::boolean THEN keysidecar.capture_intact() END), (SELECT %s), %s,
       e.seq, e.event_id, e.kind, e.key_id, e.owner_id, e.occurred_at
FROM keysidecar.events e WHERE e.seq >= $1 ORDER BY e.seq LIMIT $2`

// reportSQL is a fence that also puts down the cursor it was asked from: the one
// held when asking, never the head that it brings; only one that this log holds ($5
// is its identity); and only while the timeline is the one it was read under ($6).
// It need not be durable: a report that is lost is made again.
const reportSQL = `
WITH reported AS (
	UPDATE keysidecar.instances i SET cursor_seq = $1, cursor_event = $5, timeline = $6, reported_at = clock_timestamp()
	WHERE i.registration = $4 AND i.marked_at IS NULL AND $6 = (SELECT ` + timelineSQL + `)
		AND EXISTS (SELECT 1 FROM keysidecar.events c WHERE c.seq = $1 AND c.event_id = $5)
		AND set_config('synchronous_commit', 'off', true) = 'off'
	RETURNING 1)` + fenceSQL

const fleetSizeSQL = `(SELECT r.size FROM keysidecar.registry r)`

const headSQL = `
SELECT pg_is_in_recovery(), ` + timelineSQL + `, (SELECT keysidecar.capture_intact()), e.seq, e.event_id,
       coalesce((SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c WHERE c.oid = to_regclass('%[1]s')), 0)
FROM keysidecar.events e ORDER BY e.seq DESC LIMIT 1`

// lockSQL comes before the warm's snapshot. A change that rewrites a table (ALTER
// TABLE, pg_repack) leaves it empty for snapshots from before, and a reader that
// waited for it would find neither keys nor suspended owners. Through a view, it
// locks the tables beneath.
const lockSQL = `LOCK TABLE %s IN ACCESS SHARE MODE`

// keyColumns casts, so that a view over an operator's table may have cousins of
// the types.
const keyColumns = `k.key_id::text, k.owner_id::text, k.algorithm::text, k.public_key::bytea, k.scopes::text[],
       k.not_before::timestamptz, k.expires_at::timestamptz, k.revoked_at IS NOT NULL, k.attributes::jsonb`

const fillSQL = `
SELECT pg_is_in_recovery(), ` + timelineSQL + `, statement_timestamp(), %[4]s,
       EXISTS (SELECT 1 FROM keysidecar.events c WHERE c.seq = $2 AND c.event_id = $3),
       NOT EXISTS (SELECT 1 FROM keysidecar.events e WHERE e.seq > $2 AND
           (e.key_id = $1 OR e.kind = 'reset' OR (e.kind = 'owner_changed' AND e.owner_id = k.owner_id::text))),
       ` + keyColumns + `, %[2]s
FROM (VALUES (1)) one(x) LEFT JOIN %[1]s k ON k.key_id = $1 %[3]s`

// ownedSQL reads the keys of an owner ($1) that may make a set, and asks the questions
// of fillSQL. The first columns are the same in each row; of an owner without such keys
// there is one row with nothing else. An event that names no owner may be of any. The
// order and the limit make any plan read the log from $2 on, and no more of it.
const ownedSQL = `
WITH owned (key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked, attributes, suspended) AS MATERIALIZED (
	SELECT ` + keyColumns + `, %[2]s FROM %[1]s k %[3]s
	WHERE k.owner_id::text = $1 AND k.revoked_at IS NULL AND k.public_key IS NOT NULL
		AND (k.expires_at IS NULL OR k.expires_at::timestamptz > statement_timestamp())
	LIMIT $5),
later AS MATERIALIZED (
	SELECT e.owner_id, e.key_id FROM keysidecar.events e WHERE e.seq > $2 ORDER BY e.seq LIMIT 10000)
SELECT (SELECT pg_is_in_recovery()), (SELECT ` + timelineSQL + `), statement_timestamp(), (SELECT %[4]s),
       (SELECT EXISTS (SELECT 1 FROM keysidecar.events c WHERE c.seq = $2 AND c.event_id = $3)),
       (SELECT NOT EXISTS (SELECT 1 FROM later l WHERE l.owner_id = $1 OR l.owner_id IS NULL
           OR l.key_id IN (SELECT o.key_id COLLATE "C" FROM owned o)) AND (SELECT count(*) FROM later) < 10000),
       o.*
FROM (VALUES (1)) one(x) LEFT JOIN owned o ON true`

const warmSQL = `SELECT ` + keyColumns + `, %[2]s FROM %[1]s k LIMIT $1`

// suspendedSQL is asked in the warm's snapshot before the keys: few owners are
// suspended, and a join would cost each of a million rows.
const suspendedSQL = `SELECT owner_id FROM keysidecar.owners WHERE suspended_at IS NOT NULL`

// An operator's view may say itself whether the owner is suspended; otherwise
// keysidecar.owners does.
const (
	ownerOwn    = `k.owner_suspended::boolean IS TRUE`
	ownerJoined = `o.suspended_at IS NOT NULL`
	ownerJoin   = `LEFT JOIN keysidecar.owners o ON o.owner_id = k.owner_id::text`
)

func writeStatements(relation string, lockable, ownOwner bool) *statements {
	var locked []string
	if lockable {
		locked = append(locked, relation)
	}
	if !ownOwner {
		locked = append(locked, "keysidecar.owners")
	}
	lock := ""
	if len(locked) > 0 {
		lock = fmt.Sprintf(lockSQL, strings.Join(locked, ", "))
	}
	owner, warmOwner, join, suspended := ownerJoined, "false", ownerJoin, suspendedSQL
	if ownOwner {
		owner, warmOwner, join, suspended = ownerOwn, ownerOwn, "", ""
	}
	return &statements{
		fence:  fmt.Sprintf(fenceSQL, fmt.Sprintf(registeredSQL, "$4"), "0"),
		report: fmt.Sprintf(reportSQL, fmt.Sprintf(registeredSQL, "$4"), fleetSizeSQL),
		head:   fmt.Sprintf(headSQL, strings.ReplaceAll(relation, "'", "''")),
		fill:   fmt.Sprintf(fillSQL, relation, owner, join, fmt.Sprintf(registeredSQL, "$4")),
		warm:   fmt.Sprintf(warmSQL, relation, warmOwner),
		owned:  fmt.Sprintf(ownedSQL, relation, owner, join, fmt.Sprintf(registeredSQL, "$4")),

		unregisteredFence: fmt.Sprintf(fenceSQL, fmt.Sprintf(allowedSQL, "$4::bigint"), "0"),
		unregisteredFill:  fmt.Sprintf(fillSQL, relation, owner, join, fmt.Sprintf(allowedSQL, "$4::bigint")),
		unregisteredOwned: fmt.Sprintf(ownedSQL, relation, owner, join, fmt.Sprintf(allowedSQL, "$4::bigint")),

		suspended: suspended,
		lock:      lock,
	}
}

// relationName quotes "schema.name" for use in a statement.
func relationName(configured string) (string, error) {
	schemaName, name, ok := strings.Cut(configured, ".")
	if !ok || schemaName == "" || name == "" || strings.ContainsAny(configured, "\x00\"") || strings.Contains(name, ".") {
		return "", fmt.Errorf("store.postgres.relation %q must be schema.name, without quotes", configured)
	}
	return pgx.Identifier{schemaName, name}.Sanitize(), nil
}

// statements looks at the relation once per connection and writes the questions.
func (p *Postgres) statements(ctx context.Context, conn *pgx.Conn) (*statements, error) {
	relation, err := relationName(p.opts.Relation)
	if err != nil {
		return nil, err
	}
	if err := schema.CheckCompatible(ctx, conn); err != nil {
		for _, unready := range []error{schema.ErrAbsent, schema.ErrOlder, schema.ErrNewer, schema.ErrRights} {
			if errors.Is(err, unready) {
				return nil, fmt.Errorf("%w: %w", ErrSchema, err)
			}
		}
		return nil, fmt.Errorf("look at the schema: %w", err)
	}
	var exists, lockable, own bool
	err = conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL,
		EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'v')),
		EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attname = 'owner_suspended' AND NOT a.attisdropped)`,
		relation).Scan(&exists, &lockable, &own)
	if err != nil {
		return nil, fmt.Errorf("look at store.postgres.relation: %w", classify(err))
	}
	if !exists {
		return nil, fmt.Errorf("%w: store.postgres.relation %s does not exist; run keysidecar migrate, or create the view", ErrSchema, p.opts.Relation)
	}
	return writeStatements(relation, lockable, own), nil
}

// fillStatements remembers the statements beside the pooled connection.
func (p *Postgres) fillStatements(ctx context.Context, conn *pgx.Conn) (*statements, error) {
	if sql, ok := conn.PgConn().CustomData()["keysidecar"].(*statements); ok {
		return sql, nil
	}
	sql, err := p.statements(ctx, conn)
	if err != nil {
		return nil, err
	}
	conn.PgConn().CustomData()["keysidecar"] = sql
	return sql, nil
}

var errShape = fmt.Errorf("%w: the answer has an unexpected shape", ErrSchema)

// decodeFill reads the binary columns of fillSQL. The values are valid until the
// next call on the rows.
func decodeFill(v [][]byte) (Filled, error) {
	f, err := decodeFilled(v)
	if err != nil || v[6] == nil {
		return f, err
	}
	f.Row = &Row{}
	if err := decodeKey(v[6:], f.Row); err != nil {
		return Filled{}, err
	}
	if err := f.Row.check(); err != nil {
		return Filled{}, fmt.Errorf("%w: %w", ErrBadRow, err)
	}
	return f, nil
}

// decodeFilled reads the columns before the key's.
func decodeFilled(v [][]byte) (Filled, error) {
	if len(v) != 6+10 || len(v[0]) != 1 || len(v[2]) != 8 || len(v[3]) != 1 || len(v[4]) != 1 || len(v[5]) != 1 {
		return Filled{}, errShape
	}
	if v[0][0] != 0 || v[1] == nil {
		return Filled{}, ErrStandby
	}
	f := Filled{Timeline: string(v[1]), Time: time.UnixMicro(pgMicros(v[2])), Member: v[3][0] != 0, Known: v[4][0] != 0}
	f.Clean = f.Known && v[5][0] != 0
	return f, nil
}

// decodeKey reads keyColumns and the owner's state from binary values into row,
// reusing its slices.
func decodeKey(v [][]byte, row *Row) error {
	if len(v) != 10 || len(v[7]) != 1 {
		return errShape
	}
	row.ID, row.OwnerID, row.Algorithm, row.PublicKey = v[0], v[1], v[2], v[3]
	row.Scopes, row.bad = decodeTextArray(v[4], row.Scopes[:0])
	row.NotBefore, row.ExpiresAt = Never, Always
	if v[5] != nil {
		row.NotBefore = pgMicros(v[5])
	}
	if v[6] != nil {
		row.ExpiresAt = pgMicros(v[6])
	}
	row.Revoked = v[7][0] != 0
	row.Attributes = nil
	if len(v[8]) > 0 {
		row.Attributes = v[8][1:] // jsonb's binary form: a version byte, then text
	}
	row.OwnerSuspended = len(v[9]) == 1 && v[9][0] != 0
	return nil
}

// postgresEpoch is 2000-01-01 in microseconds since 1970.
const postgresEpoch = 946_684_800_000_000

// pgMicros converts a binary timestamptz; infinity becomes Always, -infinity Never.
// Postgres's last 30 years, which end in the year 294276, become Always, too: 64
// bits do not hold them from 1970 on.
func pgMicros(b []byte) int64 {
	if len(b) != 8 {
		return Never
	}
	n := int64(binary.BigEndian.Uint64(b)) //nolint:gosec // two's complement on the wire
	switch {
	case n > math.MaxInt64-postgresEpoch:
		return Always
	case n == math.MinInt64:
		return Never
	}
	return n + postgresEpoch
}

// decodeTextArray reads a one-dimensional text[] without NULLs; nil is empty.
func decodeTextArray(b []byte, into [][]byte) ([][]byte, error) {
	if b == nil {
		return into, nil
	}
	bad := func(why string) ([][]byte, error) { return nil, errors.New("scopes " + why) }
	if len(b) < 12 {
		return bad("are no array")
	}
	switch binary.BigEndian.Uint32(b) {
	case 0:
		return into, nil
	case 1:
	default:
		return bad("have more than one dimension")
	}
	if len(b) < 20 {
		return bad("are no array")
	}
	n := binary.BigEndian.Uint32(b[12:])
	for b = b[20:]; n > 0; n-- {
		if len(b) < 4 {
			return bad("end early")
		}
		size := binary.BigEndian.Uint32(b)
		if size == math.MaxUint32 {
			return bad("hold a NULL")
		}
		if int64(len(b)-4) < int64(size) {
			return bad("end early")
		}
		into = append(into, b[4:4+size])
		b = b[4+size:]
	}
	return into, nil
}
