package keystore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var _ Auditor = (*Postgres)(nil)

// Kinds of rows in an audit's answer.
const (
	auditHead   = 0 // one: the server and the cursor
	auditLater  = 1 // a key with an event of its own after the cursor
	auditRow    = 2 // a row of the relation; "later" tells of its owner's events
	auditListed = 3
)

// auditSQL answers an AuditQuery in one statement, and so in one snapshot, whose
// parts have a shape in common. Rows are read through the same relation, columns
// and join as by a fill.
const auditSQL = `
SELECT 0, pg_is_in_recovery(), ` + timelineSQL + `,
       EXISTS (SELECT 1 FROM keysidecar.events c WHERE c.seq = $2 AND c.event_id = $3)
       AND NOT EXISTS (SELECT 1 FROM keysidecar.events e WHERE e.seq > $2 AND e.kind = 'reset'),
       NULL::text, NULL::text, NULL::text, NULL::bytea, NULL::text[], NULL::timestamptz, NULL::timestamptz, false, NULL::jsonb, false
UNION ALL
SELECT 1, NULL, NULL, true, q.id, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, false
FROM unnest($1::text[]) q(id)
WHERE EXISTS (SELECT 1 FROM keysidecar.events e WHERE e.key_id = q.id AND e.seq > $2)
UNION ALL
SELECT 2, NULL, NULL,
       EXISTS (SELECT 1 FROM keysidecar.events e WHERE e.kind = 'owner_changed' AND e.owner_id = k.owner_id::text AND e.seq > $2),
       ` + keyColumns + `, %[2]s
FROM %[1]s k %[3]s WHERE k.key_id = ANY ($1::text[])`

// The number of keys stands in the statement itself: for a parameter, a generic
// plan would reckon with a tenth of all keys.
const (
	auditListSQL = `
UNION ALL
SELECT 3, NULL, NULL, NULL, l.id, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, false
FROM (%s) l`
	listFirstSQL = `SELECT k.key_id::text AS id FROM %s k ORDER BY k.key_id LIMIT %d`
	listFromSQL  = `SELECT k.key_id::text AS id FROM %s k WHERE k.key_id > $4::text ORDER BY k.key_id LIMIT %d`
)

// cheapList is the cost, as the planner reckons it, up to which a relation's first
// keys are listed: some milliseconds. A table with an index on key_id is far below
// it, a large view that has to be sorted far above.
const cheapList = 2000

// auditStatements is what is known about the relation for audits, kept beside the
// pooled connection.
type auditStatements struct {
	relation string
	compare  string
	canList  bool
}

func (p *Postgres) auditStatements(ctx context.Context, conn *pgx.Conn) (*auditStatements, error) {
	const name = "keysidecar audit"
	if sql, ok := conn.PgConn().CustomData()[name].(*auditStatements); ok {
		return sql, nil
	}
	fill, err := p.fillStatements(ctx, conn)
	if err != nil {
		return nil, err
	}
	relation, err := relationName(p.opts.Relation)
	if err != nil {
		return nil, err
	}
	owner, join := ownerJoined, ownerJoin
	if fill.suspended == "" { // the relation says it itself
		owner, join = ownerOwn, ""
	}
	sql := &auditStatements{relation: relation, compare: fmt.Sprintf(auditSQL, relation, owner, join)}
	if sql.canList, err = p.canList(ctx, conn, relation); err != nil {
		return nil, err
	}
	conn.PgConn().CustomData()[name] = sql
	return sql, nil
}

// canList asks the planner what the first few keys would cost.
func (p *Postgres) canList(ctx context.Context, conn *pgx.Conn, relation string) (bool, error) {
	var text string
	explain := "EXPLAIN (FORMAT JSON) " + fmt.Sprintf(listFirstSQL, relation, auditPage)
	if err := conn.QueryRow(ctx, explain, pgx.QueryExecModeExec).Scan(&text); err != nil {
		return false, fmt.Errorf("ask what listing keys costs: %w", classify(err))
	}
	var plans []struct {
		Plan struct {
			Cost float64 `json:"Total Cost"`
		} `json:"Plan"`
	}
	if err := json.Unmarshal([]byte(text), &plans); err != nil || len(plans) != 1 {
		return false, errShape
	}
	return plans[0].Plan.Cost <= cheapList, nil
}

// Audit implements Auditor on a connection for fills, if one is free.
func (p *Postgres) Audit(ctx context.Context, q AuditQuery) (AuditPage, error) {
	if st := p.pool.Stat(); st.AcquiredConns() >= st.MaxConns() {
		return AuditPage{}, ErrBusy
	}
	conn, err := p.pool.Acquire(context.WithValue(ctx, canFail{}, true))
	if err != nil {
		return AuditPage{}, fmt.Errorf("connect for an audit: %w", err)
	}
	defer conn.Release()
	return p.audit(ctx, conn, q)
}

func (p *Postgres) audit(ctx context.Context, conn *pgxpool.Conn, q AuditQuery) (AuditPage, error) {
	sql, err := p.auditStatements(ctx, conn.Conn())
	if err != nil {
		return AuditPage{}, err
	}
	text := sql.compare
	args := []any{p.rawMode(), pgx.QueryResultFormats{pgx.BinaryFormatCode}, q.Keys, q.At.Seq, q.At.ID}
	switch {
	case q.List == 0 || !sql.canList:
	case q.From == "":
		text += fmt.Sprintf(auditListSQL, fmt.Sprintf(listFirstSQL, sql.relation, q.List))
	default:
		text += fmt.Sprintf(auditListSQL, fmt.Sprintf(listFromSQL, sql.relation, q.List))
		args = append(args, q.From)
	}
	rows, err := conn.Query(ctx, text, args...)
	if err != nil {
		return AuditPage{}, classify(err)
	}
	defer rows.Close()
	page := AuditPage{Keys: make(map[string]AuditedKey, len(q.Keys)), CannotList: q.List > 0 && !sql.canList}
	for rows.Next() {
		if err := page.read(rows.RawValues()); err != nil {
			if errors.Is(err, ErrStandby) {
				p.discard(conn)
			}
			return AuditPage{}, err
		}
	}
	if err := rows.Err(); err != nil {
		return AuditPage{}, classify(err)
	}
	if page.Timeline == "" {
		return AuditPage{}, errShape
	}
	return page, nil
}

// read takes in one row of the answer.
func (p *AuditPage) read(v [][]byte) error {
	if len(v) != 4+10 || len(v[0]) != 4 {
		return errShape
	}
	is := func(b []byte) bool { return len(b) == 1 && b[0] != 0 }
	switch id := string(v[4]); v[0][3] {
	case auditHead:
		if is(v[1]) || v[2] == nil {
			return ErrStandby
		}
		p.Timeline, p.Clean = string(v[2]), is(v[3])
	case auditLater:
		k := p.Keys[id]
		k.Later = true
		p.Keys[id] = k
	case auditRow:
		return p.readRow(v[4:], id, is(v[3]))
	case auditListed:
		p.Listed = append(p.Listed, id)
	}
	return nil
}

func (p *AuditPage) readRow(v [][]byte, id string, later bool) error {
	var row Row
	if err := decodeKey(v, &row); err != nil {
		return err
	}
	k := p.Keys[id]
	k.Later = k.Later || later
	if !k.Record.IsZero() || k.Unusable || row.check() != nil {
		k.Unusable = true
	} else {
		k.Record, k.OwnerSuspended = Record{packed: string(row.pack(nil, 0))}, row.OwnerSuspended
	}
	p.Keys[id] = k
	return nil
}
