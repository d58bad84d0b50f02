package schema_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/keysidecar/keysidecar/internal/schema"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// migrate migrates and returns what it said.
func migrate(t *testing.T, dsn string) []string {
	t.Helper()
	var said []string
	if err := schema.Migrate(t.Context(), dsn, schema.Options{Progress: func(s string) { said = append(said, s) }}); err != nil {
		t.Fatal(err)
	}
	return said
}

// shape describes everything in the schema, to compare two of them.
func shape(s *session) string {
	s.t.Helper()
	return one[string](s, `SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
		SELECT format('%s %s %s %s %s', c.relkind, c.relname, c.relpersistence, c.reloptions, c.relacl) FROM pg_class c WHERE c.relnamespace = 'keysidecar'::regnamespace
		UNION ALL SELECT format('%s.%s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attacl)
			FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'keysidecar'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
		UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'keysidecar'::regnamespace
		UNION ALL SELECT pg_get_functiondef(oid) || coalesce(proacl::text, '') FROM pg_proc WHERE pronamespace = 'keysidecar'::regnamespace
		UNION ALL SELECT pg_get_triggerdef(t.oid) || t.tgenabled::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = 'keysidecar'::regnamespace AND NOT t.tgisinternal
		UNION ALL SELECT format('watched %s %s', relation_name, trigger_name) FROM keysidecar.watched
		UNION ALL SELECT format('setting %s=%s', name, value) FROM keysidecar.settings
		UNION ALL SELECT format('event %s %s', seq, kind) FROM keysidecar.events
		UNION ALL SELECT format('version %s', version_id) FROM keysidecar.schema_version
	) AS x (line)`)
}

func TestMigratingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	dsn := pg.NewDatabase(t)
	first := migrate(t, dsn)
	s := connect(t, dsn)
	before := shape(s)
	again := migrate(t, dsn)
	if shape(s) != before {
		t.Error("the second migration changed something")
	}
	if v, err := schema.Version(t.Context(), s); v != schema.Latest || err != nil {
		t.Errorf("version %d, %v", v, err)
	}
	if err := schema.CheckCompatible(t.Context(), s); err != nil {
		t.Error(err)
	}
	if last := first[len(first)-1]; last != fmt.Sprintf("migrated the schema from version 0 to %d", schema.Latest) || len(first) != 2+schema.Latest {
		t.Errorf("the first migration said %q", first)
	}
	if last := again[len(again)-1]; last != fmt.Sprintf("the schema has version %d already: nothing to do", schema.Latest) {
		t.Errorf("the second migration said %q", again)
	}
}

func TestMigratorsTakeTurns(t *testing.T) {
	t.Parallel()
	dsn := pg.NewDatabase(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := schema.Migrate(t.Context(), dsn, schema.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s := connect(t, dsn)
	if n := one[int](s, `SELECT count(*) FROM keysidecar.schema_version`); n != 1+schema.Latest {
		t.Errorf("%d versions were recorded", n)
	}
	if shape(s) != shape(newSession(t)) {
		t.Error("the schema is not the one that a single migrator makes")
	}
}

// On a new cluster two databases' migrators create the same roles at once.
func TestMigratorsOfTwoDatabasesShareTheRoles(t *testing.T) {
	t.Parallel()
	fresh := testenv.StartPostgres(t)
	var all sync.WaitGroup
	for range 3 {
		dsn := fresh.NewDatabase(t)
		all.Go(func() {
			if err := schema.Migrate(t.Context(), dsn, schema.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// A role without CREATEROLE can migrate; what it could not do is said and done
// later.
func TestMigratingWithoutTheRightToCreateRoles(t *testing.T) {
	t.Parallel()
	fresh := testenv.StartPostgres(t)
	dsn := fresh.NewDatabase(t)
	super := connect(t, dsn)
	super.do(`CREATE ROLE plain LOGIN`)
	name := super.Config().Database
	if err := schema.Migrate(t.Context(), fresh.DSN(name, "plain"), schema.Options{}); !hasCode(err, "42501") || !strings.Contains(err.Error(), "CREATE on the database") {
		t.Fatalf("migrating without any right: %v", err)
	}
	super.do(`DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database()); END $$`)
	said := migrate(t, fresh.DSN(name, "plain"))
	if !slices.ContainsFunc(said, func(s string) bool {
		return strings.Contains(s, "keysidecar_app, keysidecar_relay, keysidecar_sidecar") && strings.Contains(s, "CREATEROLE")
	}) {
		t.Errorf("nothing was said about the missing roles: %q", said)
	}
	super.do(`CREATE ROLE keysidecar_app; CREATE ROLE keysidecar_relay; CREATE ROLE keysidecar_sidecar`)
	said = migrate(t, fresh.DSN(name, "plain"))
	if len(said) != 2 {
		t.Errorf("the second migration said %q", said)
	}
	super.do(`SET ROLE keysidecar_app; INSERT INTO keysidecar.owners VALUES ('m'); RESET ROLE`)

	// Capture on a table of a third role, by one who is a member of both owners.
	super.do(`CREATE ROLE shop; CREATE SCHEMA shop AUTHORIZATION shop; CREATE TABLE shop.k (id text); ALTER TABLE shop.k OWNER TO shop; CREATE ROLE dba; GRANT plain, shop TO dba`)
	super.do(`SET ROLE shop`)
	super.refuses("42501", `SELECT keysidecar.watch('shop.k', 'id')`)
	super.do(`SET ROLE dba`)
	super.do(`SELECT keysidecar.watch('shop.k', 'id')`)
	super.do(`SET ROLE shop`)
	super.do(`INSERT INTO shop.k VALUES ('a')`)
	super.do(`RESET ROLE`)
	if got := super.since(0); len(got) != 2 || got[1] != "issued a -" {
		t.Errorf("events %q", got)
	}
	super.do(`SET ROLE dba`)
	super.do(`SELECT keysidecar.unwatch('shop.k')`)
}

func TestPrintedScriptMakesTheSameSchema(t *testing.T) {
	t.Parallel()
	var script bytes.Buffer
	if err := schema.Print(&script); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(script.String(), "+goose") {
		t.Error("the script has annotations of goose")
	}
	name := pg.NewDatabaseFrom(t, "")
	if out, err := pg.Psql(name, script.String()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := connect(t, pg.DSN(name))
	if got, want := shape(s), shape(newSession(t)); got != want {
		t.Errorf("psql made\n%s\nMigrate makes\n%s", got, want)
	}
	if said := migrate(t, pg.DSN(name)); said[len(said)-1] != fmt.Sprintf("the schema has version %d already: nothing to do", schema.Latest) {
		t.Errorf("Migrate on a printed schema said %q", said)
	}
	s.do(cast)
	if _, err := pg.Psql(name, script.String()); err == nil {
		t.Error("the script ran twice")
	}
	if n := one[int](s, `SELECT count(*) FROM keysidecar.public_keys`); n != 3 || shape(s) == "" {
		t.Error("the second run changed something")
	}
}

func TestRollbackAndForwardAgain(t *testing.T) {
	t.Parallel()
	dsn := pg.NewDatabase(t)
	migrate(t, dsn)
	s := connect(t, dsn)
	want := shape(s)
	s.do(`CREATE TABLE theirs (id text); SELECT keysidecar.watch('theirs', 'id')`)
	for to := int64(schema.Latest - 1); to >= 0; to-- {
		if err := schema.Rollback(t.Context(), dsn, to, schema.Options{}); err != nil {
			t.Fatal(err)
		}
		if to == 0 {
			break
		}
		if err := schema.CheckCompatible(t.Context(), s); !errors.Is(err, schema.ErrOlder) {
			t.Errorf("version %d: %v", to, err)
		}
	}
	s.do(`INSERT INTO theirs VALUES ('a')`) // no trigger is left to fail
	if left := one[int](s, `SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'keysidecar'::regnamespace AND relkind IN ('r', 'v') AND relname <> 'schema_version')
		+ (SELECT count(*) FROM pg_proc WHERE pronamespace = 'keysidecar'::regnamespace)`); left != 0 {
		t.Errorf("%d tables and functions are left", left)
	}
	migrate(t, dsn)
	if got := shape(s); got != want {
		t.Errorf("after the way back and forth:\n%s\nbefore:\n%s", got, want)
	}
}

func TestDatabasesThatDoNotFitAreRefusedByName(t *testing.T) {
	t.Parallel()
	empty := connect(t, pg.NewDatabase(t))
	s := newSession(t)
	nobody := s.another()
	nobody.do(`CREATE ROLE nobody_at_all; SET ROLE nobody_at_all`)
	t.Cleanup(func() { nobody.do(`RESET ROLE; DROP ROLE nobody_at_all`) })
	check := func(name string, s *session, want error, says string) {
		t.Helper()
		err := schema.CheckCompatible(t.Context(), s)
		if !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("absent", empty, schema.ErrAbsent, "run keysidecar migrate")
	empty.do(`CREATE SCHEMA keysidecar`)
	check("empty schema", empty, schema.ErrAbsent, "run keysidecar migrate")
	check("no rights", nobody, schema.ErrRights, "keysidecar_sidecar")
	for _, role := range []string{"keysidecar_sidecar", "keysidecar_relay", "keysidecar_app"} {
		s.do(`SET ROLE ` + role)
		check(role, s, nil, "")
		s.do(`RESET ROLE`)
	}
	s.do(`DELETE FROM keysidecar.schema_version WHERE version_id = $1`, schema.Latest)
	check("older", s, schema.ErrOlder, "run keysidecar migrate")
	s.do(`INSERT INTO keysidecar.schema_version (version_id, is_applied) VALUES ($1, true), ($1 + 1, true)`, schema.Latest)
	check("newer and serving this one", s, nil, "")
	s.do(`UPDATE keysidecar.settings SET value = $1 WHERE name = 'schema.serves_from'`, strconv.Itoa(schema.Latest+1))
	check("newer", s, schema.ErrNewer, "update the program")
	s.do(`DELETE FROM keysidecar.settings`)
	check("newer without a word", s, schema.ErrNewer, "update the program")
	if err := schema.Migrate(t.Context(), s.Config().ConnString(), schema.Options{}); !errors.Is(err, schema.ErrNewer) {
		t.Errorf("migrating a newer database: %v", err)
	}
	if err := schema.Rollback(t.Context(), s.Config().ConnString(), 1, schema.Options{}); !errors.Is(err, schema.ErrNewer) {
		t.Errorf("rolling back a newer database: %v", err)
	}
}

// A fleet is updated after its database, one pod after the other.
func TestProgramsFromBeforeTheTableOfUsesStillWork(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	if from := one[int](s, `SELECT value::int FROM keysidecar.settings WHERE name = 'schema.serves_from'`); from > 8 {
		t.Errorf("the database serves programs from version %d on only", from)
	}
}

func TestMigrateSaysWhatIsWrongWithTheServer(t *testing.T) {
	t.Parallel()
	if err := schema.Migrate(t.Context(), "postgres://%zz", schema.Options{}); err == nil {
		t.Error("a malformed address was taken")
	}
	if err := schema.Migrate(t.Context(), "postgres://postgres@127.0.0.1:1/x?connect_timeout=1", schema.Options{}); err == nil || !strings.Contains(err.Error(), "connect") {
		t.Errorf("nobody listening: %v", err)
	}
	s := connect(t, pg.DSN("postgres"))
	s.do(`CREATE DATABASE t_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`)
	t.Cleanup(func() { s.do(`DROP DATABASE t_latin WITH (FORCE)`) })
	if err := schema.Migrate(t.Context(), pg.DSN("t_latin"), schema.Options{}); err == nil || !strings.Contains(err.Error(), "UTF8") {
		t.Errorf("a database in LATIN1: %v", err)
	}
}

// A dump must come back with capture whole and without events of its own.
func TestDumpAndRestoreKeepCapture(t *testing.T) {
	t.Parallel()
	from := pg.NewDatabaseFrom(t, "")
	migrate(t, pg.DSN(from))
	s := connect(t, pg.DSN(from))
	s.do(`CREATE TABLE theirs (id text); SELECT keysidecar.watch('theirs', 'id')`)
	s.do(cast)
	want := s.since(-1)
	dump, err := pg.Dump(from)
	if err != nil {
		t.Fatal(err)
	}
	to := pg.NewDatabaseFrom(t, "")
	if out, err := pg.Psql(to, dump); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	restored := connect(t, pg.DSN(to))
	if !intact(restored) {
		t.Error(problems(restored))
	}
	restored.wantSince(-1, want...)
	head := restored.head()
	restored.do(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'a'; INSERT INTO theirs VALUES ('x')`)
	restored.wantSince(head, "revoked a m_1", "issued x -")
}
