package load

// way is one of the ways in which applications turn keys off. Each is one
// statement, which takes the keys (or the owner) and returns how many it turned
// off, and one that finds the number of the event it made.
type way struct {
	name    string
	byOwner bool
	revoke  string
	seq     string
	restore string
}

const (
	seqOfKey   = `SELECT coalesce(max(seq), 0) FROM keysidecar.events WHERE key_id = $1 AND kind <> 'issued'`
	seqOfOwner = `SELECT coalesce(max(seq), 0) FROM keysidecar.events WHERE owner_id = $1 AND kind = 'owner_changed'`
)

// ways returns all of them.
func ways() []way {
	return []way{
		{
			name:    "update",
			revoke:  `WITH x AS (UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = ANY ($1) RETURNING 1) SELECT count(*) FROM x`,
			seq:     seqOfKey,
			restore: `WITH x AS (UPDATE keysidecar.public_keys SET revoked_at = NULL WHERE key_id = ANY ($1) RETURNING 1) SELECT count(*) FROM x`,
		},
		{
			name:    "function",
			revoke:  `SELECT count(*) FILTER (WHERE keysidecar.revoke_key(k)) FROM unnest($1::text[]) AS k`,
			seq:     seqOfKey,
			restore: `WITH x AS (UPDATE keysidecar.public_keys SET revoked_at = NULL WHERE key_id = ANY ($1) RETURNING 1) SELECT count(*) FROM x`,
		},
		{
			name:   "delete",
			revoke: `WITH x AS (DELETE FROM keysidecar.public_keys WHERE key_id = ANY ($1) RETURNING 1) SELECT count(*) FROM x`,
			seq:    seqOfKey,
		},
		{
			name:    "suspend",
			byOwner: true,
			revoke:  `SELECT CASE WHEN keysidecar.suspend_owner($1) THEN (SELECT count(*) FROM keysidecar.public_keys WHERE owner_id = $1) ELSE 0 END`,
			seq:     seqOfOwner,
			restore: `SELECT CASE WHEN keysidecar.reactivate_owner($1) THEN (SELECT count(*) FROM keysidecar.public_keys WHERE owner_id = $1) ELSE 0 END`,
		},
		{
			name:   "rename",
			revoke: `WITH x AS (UPDATE keysidecar.public_keys SET key_id = key_id || '.renamed' WHERE key_id = ANY ($1) RETURNING 1) SELECT count(*) FROM x`,
			seq:    seqOfKey,
		},
	}
}

const (
	issueOwners = `INSERT INTO keysidecar.owners (owner_id) SELECT DISTINCT o FROM unnest($1::text[]) AS o`
	issueKeys   = `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm)
		SELECT k, o, 'opaque' FROM unnest($1::text[], $2::text[]) AS t (k, o)`
)
