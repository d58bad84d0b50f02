package schema_test

import (
	"strings"
	"testing"
)

func TestWatchedTableOfAnOperatorIsCaptured(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	// json has no equality operator; quoted names must survive; a uuid is an id, too.
	s.do(`CREATE SCHEMA "Shop"; CREATE TABLE "Shop"."API keys" (
			"Key Id" uuid PRIMARY KEY, merchant int, off boolean, meta json, place point,
			shown text GENERATED ALWAYS AS (merchant::text || '!') STORED)`)
	head := s.head()
	s.do(`SELECT keysidecar.watch('"Shop"."API keys"', 'Key Id', 'merchant', NULL, 'off')`)
	s.wantSince(head, "reset - -") // what was changed before was not captured
	const (
		one_ = "11111111-1111-1111-1111-111111111111"
		two  = "22222222-2222-2222-2222-222222222222"
	)
	for _, c := range []struct {
		do   string
		want []string
	}{
		{`INSERT INTO "Shop"."API keys" VALUES ('` + one_ + `', 7, false, '{"a":1}')`, []string{"issued " + one_ + " 7"}},
		{`UPDATE "Shop"."API keys" SET meta = meta, place = place`, nil},
		{`UPDATE "Shop"."API keys" SET meta = '{"a":2}'`, []string{"changed " + one_ + " 7"}},
		{`UPDATE "Shop"."API keys" SET place = '(1,2)'`, []string{"changed " + one_ + " 7"}},
		{`UPDATE "Shop"."API keys" SET off = true`, []string{"revoked " + one_ + " 7"}},
		{`UPDATE "Shop"."API keys" SET off = NULL`, []string{"changed " + one_ + " 7"}},
		{`UPDATE "Shop"."API keys" SET merchant = 8`, []string{"deleted " + one_ + " 7", "issued " + one_ + " 8"}},
		{`UPDATE "Shop"."API keys" SET merchant = NULL`, []string{"deleted " + one_ + " 8", "issued " + one_ + " -"}},
		{`UPDATE "Shop"."API keys" SET "Key Id" = '` + two + `'`, []string{"deleted " + one_ + " -", "issued " + two + " -"}},
		{`DELETE FROM "Shop"."API keys"`, []string{"deleted " + two + " -"}},
		{`TRUNCATE "Shop"."API keys"`, []string{"reset - -"}},
	} {
		head := s.head()
		s.do(c.do)
		t.Log(c.do)
		s.wantSince(head, c.want...)
	}
	if !intact(s) {
		t.Error(problems(s))
	}
}

func TestOnlyTheNamedColumnsCount(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text PRIMARY KEY, owner text, dead_at timestamptz, scopes json, seen_at timestamptz)`)
	s.do(`SELECT keysidecar.watch('k', 'id', 'owner', '{scopes}', 'dead_at')`)
	s.do(`INSERT INTO k VALUES ('a', 'm')`)
	head := s.head()
	s.do(`UPDATE k SET seen_at = now()`)
	s.wantSince(head)
	s.do(`UPDATE k SET scopes = '[]'`)
	s.do(`UPDATE k SET dead_at = now()`)
	s.do(`UPDATE k SET owner = 'n'`)
	s.do(`UPDATE k SET id = 'b'`)
	s.wantSince(head, "changed a m", "revoked a m", "deleted a m", "issued a n", "deleted a n", "issued b n")
	// A column that a verdict depends on does not change its type behind our back.
	s.refuses("0A000", `ALTER TABLE k ALTER COLUMN scopes TYPE jsonb`)
}

// Ids that cannot be key_ids cannot be asked for; they must neither fail the
// application's statement nor reach the log.
func TestIdsThatAreNoKeyIdsAreLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text, owner text); SELECT keysidecar.watch('k', 'id', 'owner')`)
	head := s.head()
	s.do(`INSERT INTO k VALUES (NULL, 'm'), ('', 'm'), ('a b', 'm'), ('..', 'm'), (repeat('x', 257), 'm'), (E'a\n', 'm')`)
	s.do(`UPDATE k SET owner = 'n'; DELETE FROM k`)
	s.wantSince(head)
	s.do(`INSERT INTO k VALUES ('a', NULL), ('b', ''), ('c', repeat('o', 257))`)
	s.wantSince(head, "issued a -", "issued b -", "issued c -")
	head = s.head()
	s.do(`UPDATE k SET id = NULL WHERE id = 'a'; UPDATE k SET id = 'd' WHERE id IS NULL`)
	s.wantSince(head, "deleted a -", "issued d -")
}

func TestWatchedOwnersAreCaptured(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE merchants (id bigint, blocked boolean, name text); SELECT keysidecar.watch_owner('merchants', 'id', '{blocked}')`)
	for _, c := range []struct {
		do   string
		want []string
	}{
		{`INSERT INTO merchants VALUES (1, false, 'a')`, []string{"owner_changed - 1"}},
		{`UPDATE merchants SET name = 'b'`, nil},
		{`UPDATE merchants SET blocked = true`, []string{"owner_changed - 1"}},
		{`UPDATE merchants SET id = 2`, []string{"owner_changed - 1", "owner_changed - 2"}},
		{`UPDATE merchants SET id = NULL`, []string{"owner_changed - 2"}},
		{`DELETE FROM merchants`, nil},
		{`INSERT INTO merchants VALUES (3); DELETE FROM merchants`, []string{"owner_changed - 3", "owner_changed - 3"}},
		{`TRUNCATE merchants`, []string{"reset - -"}},
	} {
		head := s.head()
		s.do(c.do)
		t.Log(c.do)
		s.wantSince(head, c.want...)
	}
	s.do(`CREATE TABLE long (id text); SELECT keysidecar.watch_owner('long', 'id')`)
	head := s.head()
	s.do(`INSERT INTO long VALUES (repeat('x', 257))`)
	s.wantSince(head, "reset - -")
}

func TestOneTableMayHoldKeysAndOwners(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE both_ (key text, owner text, blocked boolean)`)
	s.do(`SELECT keysidecar.watch('both_', 'key', 'owner', '{}'), keysidecar.watch_owner('both_', 'owner', '{blocked}')`)
	s.do(`INSERT INTO both_ VALUES ('k', 'm')`)
	head := s.head()
	s.do(`UPDATE both_ SET blocked = true`)
	s.wantSince(head, "owner_changed - m")
	s.do(`SELECT keysidecar.unwatch('both_')`)
	head = s.head()
	s.do(`DELETE FROM both_`)
	s.wantSince(head)
	if n := one[int](s, `SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch\_%' AND proname NOT IN ('watch_owner')`); n != 0 {
		t.Errorf("%d functions were left behind", n)
	}
	if !intact(s) {
		t.Error(problems(s))
	}
}

func TestWatchingAgainReplacesTheWatch(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text, a text, b text); SELECT keysidecar.watch('k', 'id', NULL, '{a}'); SELECT keysidecar.watch('k', 'id', NULL, '{b}')`)
	s.do(`INSERT INTO k VALUES ('x', 'a', 'b')`)
	head := s.head()
	s.do(`UPDATE k SET a = 'c'`)
	s.wantSince(head)
	s.do(`UPDATE k SET b = 'c'`)
	s.wantSince(head, "changed x -")
}

func TestPartitionsAreCaptured(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
		CREATE TABLE k_eu PARTITION OF k FOR VALUES IN ('eu') PARTITION BY HASH (id);
		CREATE TABLE k_eu_0 PARTITION OF k_eu FOR VALUES WITH (MODULUS 1, REMAINDER 0)`)
	s.do(`SELECT keysidecar.watch('k', 'id')`)
	s.do(`CREATE TABLE k_us PARTITION OF k FOR VALUES IN ('us')`) // after the watch
	if !intact(s) {
		t.Fatal(problems(s))
	}
	head := s.head()
	s.do(`INSERT INTO k VALUES ('a', 'eu'), ('b', 'us')`)
	s.do(`UPDATE k SET region = 'us' WHERE id = 'a'`) // moves the row
	s.do(`DELETE FROM k_us WHERE id = 'a'`)           // straight at the leaf
	s.do(`INSERT INTO k_eu_0 VALUES ('c', 'eu')`)
	s.do(`SET session_replication_role = replica; DELETE FROM k WHERE id = 'b'; RESET session_replication_role`)
	s.wantSince(head, "issued a -", "issued b -", "deleted a -", "issued a -", "deleted a -", "issued c -", "deleted b -")
	head = s.head()
	s.do(`TRUNCATE k_eu_0`)
	s.wantSince(head, "reset - -")
	head = s.head()
	s.do(`TRUNCATE k`)
	if got := s.since(head); len(got) == 0 || strings.Join(got, "") != strings.Repeat("reset - -", len(got)) {
		t.Errorf("TRUNCATE of the whole gave %q", got)
	}
	// A leaf's own trigger may be disabled, too.
	s.do(`ALTER TABLE k_eu_0 DISABLE TRIGGER keysidecar_key_row`)
	if intact(s) || problems(s) == "" {
		t.Error("a disabled trigger on a partition goes unnoticed")
	}
	s.do(`ALTER TABLE k_eu_0 ENABLE ALWAYS TRIGGER keysidecar_key_row`)
	// Dropping old partitions is routine and must not stop the fleet.
	s.do(`DROP TABLE k_us`)
	if !intact(s) {
		t.Error(problems(s))
	}
	s.do(`CREATE UNLOGGED TABLE k_asia PARTITION OF k FOR VALUES IN ('asia')`)
	if intact(s) || !strings.Contains(problems(s), "k_asia") {
		t.Errorf("an unlogged partition goes unnoticed: %s", problems(s))
	}
	s.do(`DROP TABLE k_asia; SELECT keysidecar.unwatch('k')`)
	if n := one[int](s, `SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'keysidecar%' AND tgrelid IN ('k'::regclass, 'k_eu'::regclass, 'k_eu_0'::regclass)`); n != 0 {
		t.Errorf("%d triggers were left behind", n)
	}
}

func TestWatchRefusesWhatItCannotCapture(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE plain (id text, blob bytea, at timestamptz, folded char(10));
		CREATE VIEW v AS SELECT * FROM plain; CREATE MATERIALIZED VIEW mv AS SELECT * FROM plain;
		CREATE UNLOGGED TABLE u (id text); CREATE TEMP TABLE tmp (id text); CREATE SEQUENCE seq;
		CREATE TABLE parent (id text); CREATE TABLE child () INHERITS (parent);
		CREATE TABLE p (id text) PARTITION BY LIST (id); CREATE TABLE p_a PARTITION OF p FOR VALUES IN ('a');
		CREATE TABLE q (id text) PARTITION BY LIST (id); CREATE UNLOGGED TABLE q_a PARTITION OF q FOR VALUES IN ('a')`)
	s.do(`CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE f (id text) SERVER files OPTIONS (filename '/dev/null')`)
	const wrongObject, undefinedTable, undefinedColumn, wrongType = "42809", "42P01", "42703", "42804"
	for _, c := range []struct{ call, code, says string }{
		{`watch('v', 'id')`, wrongObject, "a view"},
		{`watch('mv', 'id')`, wrongObject, "a view"},
		{`watch('f', 'id')`, wrongObject, "a foreign table"},
		{`watch('u', 'id')`, wrongObject, "unlogged"},
		{`watch('tmp', 'id')`, wrongObject, "temporary"},
		{`watch('seq', 'id')`, wrongObject, "not a table"},
		{`watch('parent', 'id')`, wrongObject, "inherit"},
		{`watch('child', 'id')`, wrongObject, "inherit"},
		{`watch('p_a', 'id')`, wrongObject, "a partition"},
		{`watch('q', 'id')`, wrongObject, "q_a"},
		{`watch('keysidecar.public_keys', 'key_id')`, wrongObject, "watched always"},
		{`watch(4294967295::oid::regclass, 'id')`, undefinedTable, "no such relation"},
		{`watch('plain', 'Id')`, undefinedColumn, `"Id"`},
		{`watch('plain', 'id', 'merchant')`, undefinedColumn, "merchant"},
		{`watch('plain', 'id', NULL, '{nope}')`, undefinedColumn, "nope"},
		{`watch('plain', 'id', NULL, NULL, 'nope')`, undefinedColumn, "nope"},
		{`watch('plain', 'blob')`, wrongType, "bytea"},
		{`watch('plain', 'at')`, wrongType, "timestamp"},
		{`watch('plain', 'folded')`, wrongType, "character"},
		{`watch_owner('v', 'id')`, wrongObject, "a view"},
		{`watch_owner('plain', 'nope')`, undefinedColumn, "nope"},
		{`watch_owner('plain', 'id', '{nope}')`, undefinedColumn, "nope"},
		{`unwatch('keysidecar.owners')`, wrongObject, "watched always"},
		{`unwatch('plain')`, "55000", "not watched"},
	} {
		if e := s.refuses(c.code, `SELECT keysidecar.`+c.call); !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %q does not say %q", c.call, e.Message, c.says)
		}
	}
	if e := s.refuses(undefinedColumn, `SELECT keysidecar.watch('plain', 'Id')`); !strings.Contains(e.Hint, "id, blob") {
		t.Errorf("the hint does not list the columns: %q", e.Hint)
	}
}

// Whoever owns the table must not be able to run code as keysidecar's owner.
func TestCaptureRunsNoCodeOfTheTablesOwner(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text, gone timestamptz); SELECT keysidecar.watch('k', 'id', NULL, NULL, 'gone')`)
	// The column that capture reads becomes one of a type with a cast to text.
	s.do(`ALTER TABLE k RENAME COLUMN id TO old; CREATE TYPE evil AS (a text);
		CREATE TABLE traces (who text);
		CREATE FUNCTION evil(evil) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO traces VALUES (current_user); RETURN 'x'; END $$;
		CREATE CAST (evil AS text) WITH FUNCTION evil(evil) AS IMPLICIT; ALTER TABLE k ADD COLUMN id evil`)
	head := s.head()
	s.do(`INSERT INTO k (id) VALUES (ROW('x'))`)
	if n := one[int](s, `SELECT count(*) FROM traces`); n != 0 {
		t.Errorf("the owner's code ran %d times", n)
	}
	s.wantSince(head) // (x) is no key_id
}

func TestUncapturedTablesOfAViewAreListed(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text, m text); CREATE TABLE m (id text, blocked bool);
		CREATE VIEW inner_ AS SELECT k.id AS key_id, m.id AS owner_id, m.blocked FROM k JOIN m ON m.id = k.m;
		CREATE VIEW outer_ AS SELECT * FROM inner_ WHERE EXISTS (SELECT 1 FROM keysidecar.owners)`)
	list := func() string {
		return one[string](s, `SELECT coalesce(string_agg(u::text, ' ' ORDER BY u::text), '') FROM keysidecar.uncaptured('outer_') u`)
	}
	if got := list(); got != "k m" {
		t.Errorf("uncaptured: %q", got)
	}
	s.do(`SELECT keysidecar.watch('k', 'id', 'm'), keysidecar.watch_owner('m', 'id')`)
	if got := list(); got != "" {
		t.Errorf("uncaptured after watching: %q", got)
	}
}

// A dropped table stops the fleet until somebody says that it is not needed.
func TestADroppedTableCanBeUnwatchedByNumber(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE TABLE k (id text); SELECT keysidecar.watch('k', 'id'); DROP TABLE k`)
	if intact(s) {
		t.Error("a dropped table goes unnoticed")
	}
	s.do(`SELECT keysidecar.unwatch(relation) FROM (SELECT DISTINCT relation FROM keysidecar.watched WHERE relation_name = 'public.k') w`)
	if !intact(s) {
		t.Error(problems(s))
	}
}

// The owner of the keysidecar schema need not be a superuser, nor the one who
// owns the operator's table; one who is a member of both can watch.
func TestWatchWorksWithoutSuperuser(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`CREATE ROLE shop_owner; CREATE SCHEMA shop AUTHORIZATION shop_owner; CREATE TABLE shop.k (id text); ALTER TABLE shop.k OWNER TO shop_owner`)
	t.Cleanup(func() { s.do(`RESET ROLE; DROP OWNED BY shop_owner; DROP ROLE shop_owner`) })
	s.do(`SELECT keysidecar.watch('shop.k', 'id')`)
	head := s.head()
	s.do(`SET ROLE shop_owner`)
	s.do(`INSERT INTO shop.k VALUES ('a')`)
	s.refuses("42501", `SELECT keysidecar.watch('shop.k', 'id')`)
	s.do(`RESET ROLE`)
	s.wantSince(head, "issued a -")
}
