package admin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/resolve"
	"github.com/keysidecar/keysidecar/internal/schema"
)

// ownRelation is the table that migrate makes; no other is written.
const ownRelation = "keysidecar.public_keys"

// connectTimeout bounds the wait of a person for a connection.
const connectTimeout = 10 * time.Second

// Postgres changes the keys in a database. It holds one connection and serves
// one caller at a time.
type Postgres struct {
	conn     *pgx.Conn
	dsn      string
	relation string
	actor    string
	// usage: the role may read last uses.
	usage bool
}

// OpenPostgres connects to dsn and checks that its schema fits this program.
// Changes are put down in the log as claimed to be made by actor. relation is
// where sidecars read keys from.
func OpenPostgres(ctx context.Context, dsn, relation, actor string) (*Postgres, error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the connection string: %w", err)
	}
	c.LookupFunc = resolve.Host
	// Works through a pooler in transaction mode, too.
	c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "keysidecar command"
	}
	if c.ConnectTimeout == 0 || c.ConnectTimeout > connectTimeout {
		c.ConnectTimeout = connectTimeout
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	if err := schema.CheckCompatible(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	p := &Postgres{conn: conn, dsn: dsn, relation: relation, actor: actor}
	if err := conn.QueryRow(ctx, "SELECT has_table_privilege('keysidecar.key_usage', 'SELECT')").Scan(&p.usage); err != nil {
		return nil, errors.Join(fmt.Errorf("look at the role's rights: %w", err), conn.Close(ctx))
	}
	return p, nil
}

// Close ends the connection.
func (p *Postgres) Close(ctx context.Context) error { return p.conn.Close(ctx) }

// change runs work in a transaction under the actor's name.
func (p *Postgres) change(ctx context.Context, work func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, p.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('keysidecar.actor', $1, true)", p.actor); err != nil {
			return fmt.Errorf("name the actor: %w", err)
		}
		return work(tx)
	})
}

// changeKeys is change for the table of keys, which must be keysidecar's own.
func (p *Postgres) changeKeys(ctx context.Context, work func(pgx.Tx) error) error {
	if p.relation != ownRelation {
		return ErrNotOurs
	}
	return p.change(ctx, work)
}

// Issue adds k, which must not exist, and its owner if that does not exist.
func (p *Postgres) Issue(ctx context.Context, k keystore.FileKey) error {
	key, err := check(&k)
	if err != nil {
		return err
	}
	return p.changeKeys(ctx, func(tx pgx.Tx) error { return insert(ctx, tx, key, &k) })
}

func insert(ctx context.Context, tx pgx.Tx, key *keystore.Key, k *keystore.FileKey) error {
	if _, err := tx.Exec(ctx, "INSERT INTO keysidecar.owners (owner_id) VALUES ($1) ON CONFLICT DO NOTHING", key.OwnerID); err != nil {
		return refused(err, "add the owner")
	}
	tag, err := tx.Exec(ctx, `INSERT INTO keysidecar.public_keys
		(key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes, note)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (key_id) DO NOTHING`, columns(key, k)...)
	if err != nil {
		return refused(err, "add the key")
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%s: %w", key.ID, ErrExists)
	}
	return nil
}

// columns are the values of a row in the order in which they are inserted.
func columns(key *keystore.Key, k *keystore.FileKey) []any {
	scopes, attributes := key.Scopes, key.Attributes
	if scopes == nil {
		scopes = []string{}
	}
	if attributes == "" {
		attributes = "{}"
	}
	var note *string
	if k.Note != "" {
		note = &k.Note
	}
	return []any{key.ID, key.OwnerID, key.Algorithm, key.PublicKey, scopes, k.NotBefore, k.ExpiresAt, k.RevokedAt, attributes, note}
}

// refused tells a value that the database will not have (SQLSTATE classes 22 and
// 23) from a failure to ask it.
func refused(err error, doing string) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23")) {
		if pg.ConstraintName != "" {
			return fmt.Errorf("%w: %s", ErrRefused, strings.ReplaceAll(pg.ConstraintName, "_", " "))
		}
		return fmt.Errorf("%w: %s", ErrRefused, pg.Message)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Revoke revokes a key; already is true if it was revoked before. When it returns
// without an error the revocation is committed, and the promise's clock runs.
func (p *Postgres) Revoke(ctx context.Context, keyID, reason string) (already bool, err error) {
	err = p.changeKeys(ctx, func(tx pgx.Tx) error {
		already, err = revokeRow(ctx, tx, keyID, reason)
		return err
	})
	return already, err
}

func revokeRow(ctx context.Context, tx pgx.Tx, keyID, reason string) (already bool, err error) {
	tag, err := tx.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now(), revoked_reason = nullif($2, '')
		WHERE key_id = $1 AND revoked_at IS NULL`, keyID, reason)
	if err != nil {
		return false, fmt.Errorf("revoke the key: %w", err)
	}
	if tag.RowsAffected() > 0 {
		return false, nil
	}
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM keysidecar.public_keys WHERE key_id = $1)", keyID).Scan(&exists); err != nil {
		return false, fmt.Errorf("look for the key: %w", err)
	}
	if !exists {
		return false, fmt.Errorf("%s: %w", keyID, ErrNoKey)
	}
	return true, nil
}

// Rotate replaces a key by another, in one transaction; see Rotation.
func (p *Postgres) Rotate(ctx context.Context, r Rotation) error {
	key, err := check(&r.New)
	if err != nil {
		return err
	}
	return p.changeKeys(ctx, func(tx pgx.Tx) error {
		if err := p.endOld(ctx, tx, r); err != nil {
			return err
		}
		return insert(ctx, tx, key, &r.New)
	})
}

func (p *Postgres) endOld(ctx context.Context, tx pgx.Tx, r Rotation) error {
	if r.Overlap <= 0 {
		_, err := revokeRow(ctx, tx, r.Old, r.Reason)
		return err
	}
	tag, err := tx.Exec(ctx, `UPDATE keysidecar.public_keys
		SET expires_at = least(expires_at, now() + make_interval(secs => $2::double precision)) WHERE key_id = $1`, r.Old, r.Overlap.Seconds())
	if err != nil {
		return fmt.Errorf("let the old key expire: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%s: %w", r.Old, ErrNoKey)
	}
	return nil
}

// entrySQL reads what Entry holds from the relation that sidecars read. A view
// has only the columns that the contract names, so the others are left out there.
const entrySQL = `SELECT k.key_id::text, k.owner_id::text, k.algorithm::text, k.public_key::bytea, k.scopes::text[],
	k.not_before::timestamptz, k.expires_at::timestamptz, k.revoked_at::timestamptz, k.attributes::jsonb,
	o.suspended_at IS NOT NULL, now(), %s, %s
	FROM %s k LEFT JOIN keysidecar.owners o ON o.owner_id = k.owner_id::text %s
	WHERE %s ORDER BY k.key_id`

func (p *Postgres) entryQuery(where string) (string, error) {
	more := "k.revoked_reason, k.note, k.created_at"
	if p.relation != ownRelation {
		more = "NULL::text, NULL::text, NULL::timestamptz"
	}
	used, join := "NULL::timestamptz", ""
	if p.usage {
		used = "u.last_used_at"
		join = fmt.Sprintf(`LEFT JOIN keysidecar.key_usage u ON u.relation = '%s' AND u.key_id = k.key_id::text COLLATE "C"`, strings.ReplaceAll(p.relation, "'", "''"))
	}
	name, err := quoted(p.relation)
	return fmt.Sprintf(entrySQL, more, used, name, join, where), err
}

func quoted(relation string) (string, error) {
	schemaName, name, ok := strings.Cut(relation, ".")
	if !ok {
		return "", fmt.Errorf("store.postgres.relation %q must be schema.name", relation)
	}
	return pgx.Identifier{schemaName, name}.Sanitize(), nil
}

func (p *Postgres) scanEntry(row pgx.Row) (*Entry, error) {
	var (
		e            = Entry{UsageKnown: p.usage}
		der          []byte
		attributes   []byte
		reason, note *string
	)
	err := row.Scan(&e.KeyID, &e.OwnerID, &e.Algorithm, &der, &e.Scopes, &e.NotBefore, &e.ExpiresAt, &e.RevokedAt, &attributes,
		&e.OwnerSuspended, &e.Now, &reason, &note, &e.CreatedAt, &e.LastUsedAt)
	if err != nil {
		return nil, err
	}
	if der != nil {
		e.PublicKey = base64.StdEncoding.EncodeToString(der)
	}
	if reason != nil {
		e.RevokedReason = *reason
	}
	if note != nil {
		e.Note = *note
	}
	for _, t := range []*time.Time{e.NotBefore, e.ExpiresAt, e.RevokedAt, e.CreatedAt, e.LastUsedAt} {
		if t != nil {
			*t = t.UTC()
		}
	}
	if len(attributes) > 0 {
		if err := json.Unmarshal(attributes, &e.Attributes); err != nil {
			return nil, fmt.Errorf("key %s: attributes: %w", e.KeyID, err)
		}
	}
	return &e, nil
}

// Get returns one key.
func (p *Postgres) Get(ctx context.Context, keyID string) (Entry, error) {
	query, err := p.entryQuery("k.key_id = $1")
	if err != nil {
		return Entry{}, err
	}
	e, err := p.scanEntry(p.conn.QueryRow(ctx, query, keyID))
	if errors.Is(err, pgx.ErrNoRows) {
		return Entry{}, fmt.Errorf("%s: %w", keyID, ErrNoKey)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read the key: %w", err)
	}
	return *e, nil
}

// List calls yield for each key that f lets through, by key_id, until yield returns
// false. Keys are read as a stream. The error wraps ErrNotKnown if the store does not
// have what f asks for.
func (p *Postgres) List(ctx context.Context, f Filter, yield func(*Entry) bool) error {
	switch {
	case f.created() && p.relation != ownRelation:
		return fmt.Errorf("%w when keys were created: store.postgres.relation names a table or view of your own", ErrNotKnown)
	case f.used() && !p.usage:
		return fmt.Errorf("%w when keys were used: this role may not read keysidecar.key_usage (grant it keysidecar_app)", ErrNotKnown)
	}
	where, args := f.where()
	query, err := p.entryQuery(where)
	if err != nil {
		return err
	}
	if f.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	ctx, cancel := context.WithCancel(ctx) // an early end must not read the rest
	defer cancel()
	rows, err := p.conn.Query(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		e, err := p.scanEntry(rows)
		if err != nil {
			return fmt.Errorf("list keys: %w", err)
		}
		if !yield(e) {
			cancel()
			return nil
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	return nil
}

// Existing returns those of ids that are keys.
func (p *Postgres) Existing(ctx context.Context, ids []string) (map[string]bool, error) {
	name, err := quoted(p.relation)
	if err != nil {
		return nil, err
	}
	rows, err := p.conn.Query(ctx, fmt.Sprintf("SELECT k.key_id::text FROM %s k WHERE k.key_id = ANY ($1::text[])", name), ids)
	if err != nil {
		return nil, fmt.Errorf("look for keys: %w", err)
	}
	found := make(map[string]bool)
	var id string
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { found[id] = true; return nil }); err != nil {
		return nil, fmt.Errorf("look for keys: %w", err)
	}
	return found, nil
}

// Suspend turns off all keys of an owner; already is true if they were off.
func (p *Postgres) Suspend(ctx context.Context, ownerID string) (already bool, err error) {
	return p.setOwner(ctx, ownerID, "UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = $1 AND suspended_at IS NULL")
}

// Reactivate turns the keys of an owner on again; already is true if they were on.
func (p *Postgres) Reactivate(ctx context.Context, ownerID string) (already bool, err error) {
	return p.setOwner(ctx, ownerID, "UPDATE keysidecar.owners SET suspended_at = NULL WHERE owner_id = $1 AND suspended_at IS NOT NULL")
}

func (p *Postgres) setOwner(ctx context.Context, ownerID, update string) (already bool, err error) {
	err = p.change(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, update, ownerID)
		if err != nil {
			return fmt.Errorf("change the owner: %w", err)
		}
		if tag.RowsAffected() > 0 {
			return nil
		}
		already = true
		var exists bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM keysidecar.owners WHERE owner_id = $1)", ownerID).Scan(&exists); err != nil {
			return fmt.Errorf("look for the owner: %w", err)
		}
		if !exists {
			return fmt.Errorf("%s: %w", ownerID, ErrNoOwner)
		}
		return nil
	})
	return already, err
}

// Owner returns an owner.
func (p *Postgres) Owner(ctx context.Context, ownerID string) (Owner, error) {
	name, err := quoted(p.relation)
	if err != nil {
		return Owner{}, err
	}
	o := Owner{OwnerID: ownerID}
	err = p.conn.QueryRow(ctx, fmt.Sprintf(`SELECT o.suspended_at,
		(SELECT count(*) FROM %[1]s k WHERE k.owner_id::text = o.owner_id),
		(SELECT count(*) FROM %[1]s k WHERE k.owner_id::text = o.owner_id AND k.revoked_at IS NOT NULL)
		FROM keysidecar.owners o WHERE o.owner_id = $1`, name), ownerID).Scan(&o.SuspendedAt, &o.Keys, &o.Revoked)
	if errors.Is(err, pgx.ErrNoRows) {
		return Owner{}, fmt.Errorf("%s: %w", ownerID, ErrNoOwner)
	}
	if err != nil {
		return Owner{}, fmt.Errorf("read the owner: %w", err)
	}
	if o.SuspendedAt != nil {
		*o.SuspendedAt = o.SuspendedAt.UTC()
	}
	return o, nil
}
