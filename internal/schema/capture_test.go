package schema_test

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Each case starts with owners m_1 (active), m_2 (suspended) and keys a, b of m_1
// and c of m_2.
const cast = `
	DELETE FROM keysidecar.owners;
	INSERT INTO keysidecar.owners (owner_id, suspended_at) VALUES ('m_1', NULL), ('m_2', now());
	INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('a', 'm_1', 'ed25519'), ('b', 'm_1', 'ed25519'), ('c', 'm_2', 'ed25519');`

func TestEveryWritePathIsCaptured(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for _, c := range []struct {
		name, do string
		want     []string
	}{
		{"insert", `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('d', 'm_1', 'x')`, []string{"issued d m_1"}},
		{"revoke", `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'a'`, []string{"revoked a m_1"}},
		{"revoke with an infinite time", `UPDATE keysidecar.public_keys SET revoked_at = 'infinity' WHERE key_id = 'a'`, []string{"revoked a m_1"}},
		{"undo a revocation", `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'a'; UPDATE keysidecar.public_keys SET revoked_at = NULL WHERE key_id = 'a'`,
			[]string{"revoked a m_1", "changed a m_1"}},
		{"every column that counts", `
			UPDATE keysidecar.public_keys SET algorithm = 'y' WHERE key_id = 'a';
			UPDATE keysidecar.public_keys SET public_key = '\x01' WHERE key_id = 'a';
			UPDATE keysidecar.public_keys SET scopes = '{pay}' WHERE key_id = 'a';
			UPDATE keysidecar.public_keys SET not_before = now() WHERE key_id = 'a';
			UPDATE keysidecar.public_keys SET expires_at = now() WHERE key_id = 'a';
			UPDATE keysidecar.public_keys SET attributes = '{"env":"live"}' WHERE key_id = 'a';`,
			[]string{"changed a m_1", "changed a m_1", "changed a m_1", "changed a m_1", "changed a m_1", "changed a m_1"}},
		{"columns that do not count", `UPDATE keysidecar.public_keys SET note = 'n', revoked_reason = 'r', created_at = now()`, nil},
		{"an update that changes nothing", `UPDATE keysidecar.public_keys SET algorithm = algorithm, scopes = scopes; UPDATE keysidecar.owners SET suspended_at = suspended_at`, nil},
		{"delete", `DELETE FROM keysidecar.public_keys WHERE key_id = 'a'`, []string{"deleted a m_1"}},
		{"rename a key", `UPDATE keysidecar.public_keys SET key_id = 'a2' WHERE key_id = 'a'`, []string{"deleted a m_1", "issued a2 m_1"}},
		{"give a key to another owner", `UPDATE keysidecar.public_keys SET owner_id = 'm_2' WHERE key_id = 'a'`, []string{"deleted a m_1", "issued a m_2"}},
		{"twice in a transaction", `UPDATE keysidecar.public_keys SET algorithm = 'y' WHERE key_id = 'a'; DELETE FROM keysidecar.public_keys WHERE key_id = 'a'`,
			[]string{"changed a m_1", "deleted a m_1"}},
		{"insert and delete in a transaction", `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('d', 'm_1', 'x'); DELETE FROM keysidecar.public_keys WHERE key_id = 'd'`,
			[]string{"issued d m_1", "deleted d m_1"}},
		{"on conflict do update", `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('a', 'm_1', 'z'), ('d', 'm_1', 'z')
			ON CONFLICT (key_id) DO UPDATE SET algorithm = excluded.algorithm`, []string{"changed a m_1", "issued d m_1"}},
		{"on conflict do nothing", `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('a', 'm_1', 'z') ON CONFLICT DO NOTHING`, nil},
		{"merge", `MERGE INTO keysidecar.public_keys k USING (VALUES ('a'), ('b'), ('d')) AS v (id) ON k.key_id = v.id
			WHEN MATCHED AND v.id = 'a' THEN DELETE
			WHEN MATCHED THEN UPDATE SET revoked_at = now()
			WHEN NOT MATCHED THEN INSERT (key_id, owner_id, algorithm) VALUES (v.id, 'm_1', 'x')`, []string{"deleted a m_1", "revoked b m_1", "issued d m_1"}},
		{"in a WITH query", `WITH gone AS (DELETE FROM keysidecar.public_keys WHERE key_id = 'a' RETURNING *) SELECT * FROM gone`, []string{"deleted a m_1"}},
		{"through a view", `CREATE VIEW v AS SELECT * FROM keysidecar.public_keys; UPDATE v SET revoked_at = now() WHERE key_id = 'a'; DROP VIEW v`, []string{"revoked a m_1"}},
		{"by a BEFORE trigger of the application", `
			CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.revoked_at := now(); RETURN NEW; END';
			CREATE TRIGGER meddle BEFORE UPDATE ON keysidecar.public_keys FOR EACH ROW EXECUTE FUNCTION meddle();
			UPDATE keysidecar.public_keys SET note = 'innocent' WHERE key_id = 'a';
			DROP TRIGGER meddle ON keysidecar.public_keys; DROP FUNCTION meddle()`, []string{"revoked a m_1"}},
		{"as a replica", `SET LOCAL session_replication_role = replica; UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'a'; UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = 'm_1'`,
			[]string{"revoked a m_1", "owner_changed - m_1"}},
		{"as a replica from just before the commit", `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'a'; SET LOCAL session_replication_role = replica`, []string{"revoked a m_1"}},
		{"truncate", `TRUNCATE keysidecar.public_keys`, []string{"reset - -"}},
		{"truncate cascade", `TRUNCATE keysidecar.owners CASCADE`, []string{"reset - -", "reset - -"}},
		{"cascade of a deleted owner", `DELETE FROM keysidecar.owners WHERE owner_id = 'm_1'`, []string{"owner_changed - m_1", "deleted a m_1", "deleted b m_1"}},
		{"cascade of a renamed owner", `UPDATE keysidecar.owners SET owner_id = 'm_9' WHERE owner_id = 'm_1'`,
			[]string{"owner_changed - m_1", "owner_changed - m_9", "deleted a m_1", "issued a m_9", "deleted b m_1", "issued b m_9"}},
		{"suspend", `UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = 'm_1'`, []string{"owner_changed - m_1"}},
		{"reactivate", `UPDATE keysidecar.owners SET suspended_at = NULL WHERE owner_id = 'm_2'`, []string{"owner_changed - m_2"}},
		{"a new active owner", `INSERT INTO keysidecar.owners VALUES ('m_3')`, nil},
		{"a new suspended owner", `INSERT INTO keysidecar.owners VALUES ('m_3', now())`, []string{"owner_changed - m_3"}},
		{"reset", `SELECT keysidecar.reset()`, []string{"reset - -"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &session{Conn: s.Conn, t: t}
			s.do(cast)
			head := s.head()
			s.do(c.do)
			s.wantSince(head, c.want...)
			if left := one[int](s, "SELECT (SELECT count(*) FROM keysidecar.staging) + (SELECT count(*) FROM keysidecar.pending)"); left != 0 {
				t.Errorf("%d rows of finished transactions are left over", left)
			}
		})
	}
}

func TestCopyIsCaptured(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	head := s.head()
	var in strings.Builder
	for _, id := range []string{"a", "b", "c"} {
		in.WriteString(id + "\tm_1\ted25519\n")
	}
	if _, err := s.PgConn().CopyFrom(context.Background(), strings.NewReader(in.String()), "COPY keysidecar.public_keys (key_id, owner_id, algorithm) FROM STDIN"); err != nil {
		t.Fatal(err)
	}
	s.wantSince(head, "issued a m_1", "issued b m_1", "issued c m_1")
}

func TestTheLogSaysWhoAndNotTheOwnerOfTheFunctions(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	s.do(`CREATE ROLE alice_of_support; GRANT keysidecar_app TO alice_of_support`)
	t.Cleanup(func() { s.do(`DROP OWNED BY alice_of_support; DROP ROLE alice_of_support`) })
	for _, c := range []struct{ do, actor, claimed string }{
		{`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'a'`, "postgres", ""},
		// The role at the time of the change counts, not the one at COMMIT.
		{`SET LOCAL ROLE alice_of_support; UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'b'; RESET ROLE`, "alice_of_support", ""},
		{`SET LOCAL ROLE alice_of_support; SET LOCAL keysidecar.actor = 'ticket 7'; SELECT keysidecar.revoke_key('c')`, "alice_of_support", "ticket 7"},
		{`SET LOCAL keysidecar.actor = ''; DELETE FROM keysidecar.public_keys WHERE key_id = 'c'`, "postgres", ""},
	} {
		s.do(c.do)
		var actor, claimed string
		row := s.QueryRow(context.Background(), "SELECT actor, coalesce(claimed_actor, '') FROM keysidecar.events ORDER BY seq DESC LIMIT 1")
		if err := row.Scan(&actor, &claimed); err != nil || actor != c.actor || claimed != c.claimed {
			t.Errorf("%s: actor %q, claimed %q, %v", c.do, actor, claimed, err)
		}
	}
}

// What keystore.Key.Check refuses must not get into the table.
func TestRowsThatSidecarsCannotReadAreRefused(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	const check = "23514"
	for name, values := range map[string]string{
		"empty key_id":             `'', 'x', NULL, '{}', NULL, NULL, '{}'`,
		"key_id .":                 `'.', 'x', NULL, '{}', NULL, NULL, '{}'`,
		"key_id ..":                `'..', 'x', NULL, '{}', NULL, NULL, '{}'`,
		"key_id with a slash":      `'a/b', 'x', NULL, '{}', NULL, NULL, '{}'`,
		"key_id with a line feed":  `E'a\n', 'x', NULL, '{}', NULL, NULL, '{}'`,
		"key_id not ASCII":         `'ä', 'x', NULL, '{}', NULL, NULL, '{}'`,
		"key_id of 257 bytes":      `repeat('a', 257), 'x', NULL, '{}', NULL, NULL, '{}'`,
		"no algorithm":             `'k', '', NULL, '{}', NULL, NULL, '{}'`,
		"algorithm of 65 bytes":    `'k', repeat('x', 65), NULL, '{}', NULL, NULL, '{}'`,
		"empty public key":         `'k', 'x', '', '{}', NULL, NULL, '{}'`,
		"public key of 8193 bytes": `'k', 'x', convert_to(repeat('x', 8193), 'UTF8'), '{}', NULL, NULL, '{}'`,
		"65 scopes":                `'k', 'x', NULL, array_fill('s'::text, ARRAY[65]), NULL, NULL, '{}'`,
		"empty scope":              `'k', 'x', NULL, '{a,""}', NULL, NULL, '{}'`,
		"null scope":               `'k', 'x', NULL, '{a,NULL}', NULL, NULL, '{}'`,
		"scope of 257 bytes":       `'k', 'x', NULL, ARRAY[repeat('x', 257)], NULL, NULL, '{}'`,
		"scopes in two dimensions": `'k', 'x', NULL, '{{a,b},{c,d}}', NULL, NULL, '{}'`,
		"never begins":             `'k', 'x', NULL, '{}', 'infinity', NULL, '{}'`,
		"never expires":            `'k', 'x', NULL, '{}', NULL, 'infinity', '{}'`,
		"expired for ever":         `'k', 'x', NULL, '{}', NULL, '-infinity', '{}'`,
		"expires in the year 1":    `'k', 'x', NULL, '{}', NULL, '0001-01-01Z', '{}'`,
		"expires in 10000":         `'k', 'x', NULL, '{}', NULL, '10000-01-01Z', '{}'`,
		"attributes not an object": `'k', 'x', NULL, '{}', NULL, NULL, '[]'`,
		"attributes of 1025 bytes": `'k', 'x', NULL, '{}', NULL, NULL, jsonb_build_object('a', repeat('x', 1016))`,
	} {
		if err := s.try(`INSERT INTO keysidecar.public_keys (owner_id, key_id, algorithm, public_key, scopes, not_before, expires_at, attributes) VALUES ('m_1', ` + values + `)`); !hasCode(err, check) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, owner := range map[string]string{"empty": `''`, "257 bytes": `repeat('ü', 128) || 'x'`, "control character": `E'a\tb'`, "delete": `E'a\x7f'`} {
		if err := s.try(`INSERT INTO keysidecar.owners VALUES (` + owner + `)`); !hasCode(err, check) {
			t.Errorf("owner_id %s: %v", name, err)
		}
	}
	s.do(`INSERT INTO keysidecar.owners VALUES (repeat('ü', 128));
		INSERT INTO keysidecar.public_keys (owner_id, key_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes)
		VALUES (repeat('ü', 128), repeat('a', 256), repeat('x', 64), convert_to(repeat('x', 8192), 'UTF8'), array_fill(repeat('s', 256), ARRAY[64]),
			'1970-01-01Z', '9999-12-31 23:59:59.999Z', '-infinity', jsonb_build_object('a', repeat('x', 1015))),
		('m_1', 'AZaz09._~+=:-', 'x', NULL, '{}', NULL, NULL, NULL, '{}')`)
}

func TestChangesOfOneTransactionKeepTheirOrder(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	head := s.head()
	s.do(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'k' || lpad(i::text, 4, '0'), 'm_1', 'x' FROM generate_series(1, 2000) i`)
	if !one[bool](s, `SELECT array_agg(key_id ORDER BY seq) = array_agg(key_id ORDER BY key_id) FROM keysidecar.events WHERE seq > $1`, head) {
		t.Fatal("the log does not have the changes in their order")
	}
}

func TestNotifyReachesListeners(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	listener := s.another()
	listener.do("LISTEN keysidecar")
	s.do(cast)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := listener.WaitForNotification(ctx); err != nil {
		t.Fatal(err)
	}
}
