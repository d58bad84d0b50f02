package schema_test

import (
	"testing"
)

func intact(s *session) bool { return one[bool](s, `SELECT keysidecar.capture_intact()`) }

// problems lists what capture_problems says, "" if nothing.
func problems(s *session) string {
	return one[string](s, `SELECT coalesce(string_agg(concat_ws(' ', relation_name, trigger_name, problem), '; '), '') FROM keysidecar.capture_problems()`)
}

// Each of these makes sidecars miss changes without any other sign. The fast
// question and the one that explains must agree.
func TestEveryBreachOfCaptureIsNoticed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, do, undo string }{
		{"trigger disabled", `ALTER TABLE keysidecar.public_keys DISABLE TRIGGER keysidecar_key_update`,
			`ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_update`},
		{"all triggers disabled and enabled again, as pg_restore does", `ALTER TABLE keysidecar.owners DISABLE TRIGGER ALL; ALTER TABLE keysidecar.owners ENABLE TRIGGER ALL`, ``},
		{"trigger enabled for replicas only", `ALTER TABLE keysidecar.public_keys ENABLE REPLICA TRIGGER keysidecar_key_row`, ``},
		{"trigger dropped", `DROP TRIGGER keysidecar_key_truncate ON keysidecar.public_keys`, ``},
		{"trigger replaced", `CREATE OR REPLACE TRIGGER keysidecar_key_row AFTER INSERT ON keysidecar.public_keys FOR EACH ROW EXECUTE FUNCTION keysidecar.capture_key()`, ``},
		{"trigger renamed", `ALTER TRIGGER keysidecar_key_row ON keysidecar.public_keys RENAME TO other`, `ALTER TRIGGER other ON keysidecar.public_keys RENAME TO keysidecar_key_row`},
		{"second stage disabled", `ALTER TABLE keysidecar.pending ENABLE TRIGGER number_events`, `ALTER TABLE keysidecar.pending ENABLE ALWAYS TRIGGER number_events`},
		{"table swapped by renaming", `CREATE TABLE keysidecar.new_keys (LIKE keysidecar.public_keys INCLUDING ALL);
			ALTER TABLE keysidecar.public_keys RENAME TO old_keys; ALTER TABLE keysidecar.new_keys RENAME TO public_keys`, ``},
		{"table moved to another schema", `ALTER TABLE keysidecar.public_keys SET SCHEMA public`, `ALTER TABLE public.public_keys SET SCHEMA keysidecar`},
		{"table dropped", `DROP TABLE keysidecar.public_keys`, ``},
		{"table made unlogged", `ALTER TABLE keysidecar.public_keys SET UNLOGGED`, `ALTER TABLE keysidecar.public_keys SET LOGGED`},
		{"table inherited from", `CREATE TABLE more_keys () INHERITS (keysidecar.public_keys)`, `DROP TABLE more_keys`},
		{"list emptied", `DELETE FROM keysidecar.watched`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			if !intact(s) || problems(s) != "" {
				t.Fatalf("a new schema is not intact: %s", problems(s))
			}
			s.do(c.do)
			if intact(s) {
				t.Error("capture_intact() does not notice")
			}
			if why := problems(s); why == "" {
				t.Error("capture_problems() does not notice")
			} else {
				t.Log(why)
			}
			if c.undo == "" {
				return
			}
			s.do(c.undo)
			if !intact(s) || problems(s) != "" {
				t.Errorf("not intact after the repair: %s", problems(s))
			}
		})
	}
}

// A sidecar may read a view over a table whose schema is closed to it.
func TestTheCheckNeedsNoRightOnTheWatchedTables(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE SCHEMA closed; CREATE TABLE closed.keys (id text PRIMARY KEY); SELECT keysidecar.watch('closed.keys', 'id')`)
	s.do(`SET ROLE keysidecar_sidecar`)
	if !intact(s) || problems(s) != "" {
		t.Errorf("not intact: %s", problems(s))
	}
}

// A fence carries many rows; the check must run once for all of them.
func TestTheCheckIsOneSubquery(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`SET track_functions = 'all'`)
	s.do(`SELECT (SELECT keysidecar.capture_intact()), i FROM generate_series(1, 1000) i`)
	eventually(t, "the call is counted", func() bool {
		s.do(`SELECT pg_stat_force_next_flush()`)
		s.do(`SELECT 1`)
		return one[int64](s, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions WHERE funcname = 'capture_intact'`) > 0
	})
	if n := one[int64](s, `SELECT sum(calls)::bigint FROM pg_stat_user_functions WHERE funcname = 'capture_intact'`); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}
