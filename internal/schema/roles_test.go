package schema_test

import (
	"testing"
)

func TestEachRoleMayDoItsWorkAndNothingElse(t *testing.T) {
	t.Parallel()
	const register = `SELECT keysidecar.register(gen_random_uuid(), 'i', 3000, 0, 'fail_closed', 'dev')`
	reads := func(tables ...string) (sql []string) {
		for _, t := range tables {
			sql = append(sql, `SELECT * FROM keysidecar.`+t)
		}
		return sql
	}
	// Nobody but the owner touches how the log is made, or rewrites it.
	never := []string{
		`INSERT INTO keysidecar.events (seq, kind, actor) VALUES (99, 'reset', 'x')`,
		`UPDATE keysidecar.events SET kind = 'reset'`,
		`TRUNCATE keysidecar.events`,
		`INSERT INTO keysidecar.staging (kind) VALUES ('reset')`,
		`INSERT INTO keysidecar.pending DEFAULT VALUES`,
		`DELETE FROM keysidecar.pending`,
		`SELECT nextval('keysidecar.seq')`,
		`DO 'BEGIN LOCK TABLE keysidecar.gate IN EXCLUSIVE MODE; END'`,
		`DELETE FROM keysidecar.watched`,
		`INSERT INTO keysidecar.settings VALUES ('x', 'y')`,
		`DELETE FROM keysidecar.schema_version`,
		`TRUNCATE keysidecar.public_keys`,
		`TRUNCATE keysidecar.owners CASCADE`,
		`ALTER TABLE keysidecar.public_keys DISABLE TRIGGER ALL`,
		`DROP TABLE keysidecar.public_keys`,
		`CREATE TABLE keysidecar.mine ()`,
		`SELECT keysidecar.reset()`,
		`SELECT keysidecar.watch('keysidecar.public_keys', 'key_id')`,
		`SELECT keysidecar.unwatch('keysidecar.public_keys')`,
		`SELECT * FROM keysidecar.grant_roles()`,
		`SELECT keysidecar.allow_unreported('3 s')`,
		`SELECT keysidecar.forget_instance('i')`,
		`TRUNCATE keysidecar.instances`,
		`CREATE TEMP TABLE t (key_id text, owner_id text); CREATE TRIGGER t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION keysidecar.capture_key()`,
	}
	keysWrites := []string{
		`INSERT INTO keysidecar.owners VALUES ('x')`,
		`UPDATE keysidecar.owners SET suspended_at = NULL`,
		`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('x', 'm_1', 'x')`,
		`UPDATE keysidecar.public_keys SET revoked_at = NULL`,
		`DELETE FROM keysidecar.public_keys`,
		`DELETE FROM keysidecar.owners`,
	}
	calls := []string{`SELECT keysidecar.revoke_key('a')`, `SELECT keysidecar.suspend_owner('m_1')`, `SELECT keysidecar.reactivate_owner('m_1')`}
	registry := []string{register, `SELECT keysidecar.sign_off(gen_random_uuid())`}
	receipts := []string{`SELECT * FROM keysidecar.receipt('a')`, `SELECT * FROM keysidecar.receipt(0)`, `SELECT keysidecar.receipt_seq('a'), keysidecar.receipt_owner_seq('m_1')`}
	reports := []string{`UPDATE keysidecar.instances SET cursor_seq = 1, cursor_event = gen_random_uuid(), timeline = '00000002', reported_at = now() WHERE instance = 'i'`}
	relay := []string{`UPDATE keysidecar.relay SET published_seq = greatest(published_seq, 1), published_at = now(), leader = 'me'`, `UPDATE keysidecar.instances SET marked_at = now()`,
		`DELETE FROM keysidecar.instances`, `UPDATE keysidecar.registry SET size = 3`,
		`DELETE FROM keysidecar.events WHERE seq < (SELECT max(seq) - 10000 FROM keysidecar.events)`, `DELETE FROM keysidecar.staging`}
	checks := []string{`SELECT keysidecar.capture_intact()`, `SELECT * FROM keysidecar.capture_problems()`}
	fence := []string{
		`WITH u AS (UPDATE keysidecar.instances SET cursor_seq = 0, cursor_event = gen_random_uuid(), reported_at = now()
			WHERE instance = 'i' AND EXISTS (SELECT 1 FROM keysidecar.events WHERE seq = 0) AND set_config('synchronous_commit', 'off', true) = 'off' RETURNING 1)
		SELECT pg_is_in_recovery(), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), EXISTS (SELECT 1 FROM u), (SELECT keysidecar.capture_intact()), e.*
		FROM keysidecar.events e WHERE e.seq >= 0 ORDER BY e.seq LIMIT 10`,
	}
	uses := []string{`INSERT INTO keysidecar.key_usage (key_id, last_used_at) VALUES ('a', now()) ON CONFLICT (relation, key_id) DO UPDATE SET last_used_at = excluded.last_used_at`,
		`DELETE FROM keysidecar.key_usage`}
	listen := []string{`LISTEN keysidecar`, `SELECT pg_try_advisory_lock(1), pg_advisory_unlock_all()`}

	for _, c := range []struct {
		role          string
		may, mayNot   [][]string
		alsoForbidden []string
	}{
		{role: "keysidecar_sidecar",
			may:    [][]string{reads("schema_version", "settings", "public_keys", "owners", "events", "watched", "instances", "registry", "key_usage"), registry, reports, fence, checks, receipts, uses},
			mayNot: [][]string{never, keysWrites, calls, relay, reads("staging", "pending", "relay")},
			alsoForbidden: []string{
				`INSERT INTO keysidecar.instances (registration, instance, max_staleness_ms, stale_limit_ms, policy, version) VALUES (gen_random_uuid(), 'i', 1, 0, 'fail_closed', 'dev')`,
				`UPDATE keysidecar.instances SET max_staleness_ms = 1`, `UPDATE keysidecar.instances SET registration = gen_random_uuid()`,
				`UPDATE keysidecar.instances SET marked_at = NULL`, `DELETE FROM keysidecar.events`,
				`UPDATE keysidecar.key_usage SET key_id = 'b'`, `TRUNCATE keysidecar.key_usage`}},
		{role: "keysidecar_relay",
			may:           [][]string{reads("schema_version", "settings", "events", "watched", "instances", "registry", "relay"), relay, checks, listen},
			mayNot:        [][]string{never, keysWrites, calls, registry[:1], reports, uses, reads("public_keys", "owners", "pending", "key_usage")},
			alsoForbidden: []string{`DELETE FROM keysidecar.relay`, `INSERT INTO keysidecar.relay (published_seq) VALUES (1)`}},
		{role: "keysidecar_app",
			may:    [][]string{reads("schema_version", "settings", "public_keys", "owners", "key_usage"), calls, keysWrites, receipts},
			mayNot: [][]string{never, registry, reports, relay, uses, reads("staging", "pending", "events", "instances", "relay", "watched")}},
	} {
		t.Run(c.role, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			s.do(cast)
			s.do(`SET ROLE ` + c.role)
			for _, list := range append(c.mayNot, c.alsoForbidden) {
				for _, sql := range list {
					if err := s.try(sql); !hasCode(err, "42501") {
						t.Errorf("may: %s (%v)", sql, err)
					}
				}
			}
			for _, list := range c.may {
				for _, sql := range list {
					if err := s.try(sql); err != nil {
						t.Errorf("may not: %s: %v", sql, err)
					}
				}
			}
		})
	}
}

// A function that a later migration adds is open to everybody unless it says
// otherwise.
func TestNoFunctionIsOpenToThePublicByAccident(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text); SELECT keysidecar.watch('k', 'id')`)
	open := one[string](s, `SELECT coalesce(string_agg(p.proname, ' ' ORDER BY p.proname), '') FROM pg_proc p
		WHERE p.pronamespace = 'keysidecar'::regnamespace AND (p.proacl IS NULL OR EXISTS (SELECT 1 FROM aclexplode(p.proacl) a WHERE a.grantee = 0))`)
	if open != "valid_scopes" {
		t.Errorf("open to the public: %s", open)
	}
	if n := one[int](s, `SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'keysidecar'::regnamespace AND p.prosecdef AND NOT coalesce(p.proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', false)`); n != 0 {
		t.Errorf("%d SECURITY DEFINER functions have no fixed search_path", n)
	}
}
