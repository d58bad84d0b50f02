package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// postgres starts this package's server when the first test needs it.
var postgres = sync.OnceValues(func() (*testenv.Postgres, error) { return testenv.StartPostgresMain() })

var postgresStarted atomic.Bool

func server(t testing.TB) *testenv.Postgres {
	t.Helper()
	postgresStarted.Store(true)
	pg, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

func TestMain(m *testing.M) {
	code := m.Run()
	if postgresStarted.Load() {
		if pg, err := postgres(); err == nil {
			if err := pg.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// store is what both stores can do.
type store interface {
	Issue(context.Context, keystore.FileKey) error
	Revoke(ctx context.Context, keyID, reason string) (bool, error)
	Get(ctx context.Context, keyID string) (Entry, error)
	List(ctx context.Context, f Filter, yield func(*Entry) bool) error
	Existing(ctx context.Context, ids []string) (map[string]bool, error)
	Rotate(context.Context, Rotation) error
	Import(context.Context, []keystore.FileKey) ([]error, error)
	Suspend(ctx context.Context, ownerID string) (bool, error)
	Reactivate(ctx context.Context, ownerID string) (bool, error)
	Owner(ctx context.Context, ownerID string) (Owner, error)
}

var (
	_ store = (*File)(nil)
	_ store = (*Postgres)(nil)
)

func openPostgres(t *testing.T) (*Postgres, *pgx.Conn) {
	t.Helper()
	dsn := schematest.NewDatabase(t, server(t))
	p, err := OpenPostgres(t.Context(), dsn, ownRelation, "cli:test")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(context.Background()), conn.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return p, conn
}

func openFile(t *testing.T) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, []byte("keys: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// onBoth runs a test on each kind of store.
func onBoth(t *testing.T, test func(*testing.T, store)) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		p, _ := openPostgres(t)
		test(t, p)
	})
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		test(t, openFile(t))
	})
}

// spki is an Ed25519 public key (RFC 8410, 10.1).
const spki = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="

func key(id string) keystore.FileKey {
	return keystore.FileKey{KeyID: id, OwnerID: "m_1", Algorithm: "ed25519", PublicKey: spki, Scopes: []string{"pay"},
		Attributes: map[string]any{"env": "live"}, Note: "for tests"}
}

func TestAKeyIsIssuedOnceShownAndRevokedOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		ctx := t.Context()
		end := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		k := key("pk_1")
		k.ExpiresAt = &end
		if err := s.Issue(ctx, k); err != nil {
			t.Fatal(err)
		}
		if err := s.Issue(ctx, k); !errors.Is(err, ErrExists) {
			t.Errorf("issued twice: %v", err)
		}
		e, err := s.Get(ctx, "pk_1")
		if err != nil {
			t.Fatal(err)
		}
		if e.PublicKey != spki || e.OwnerID != "m_1" || !e.ExpiresAt.Equal(end) || e.Scopes[0] != "pay" || e.Attributes["env"] != "live" || e.Note != "for tests" {
			t.Errorf("have %+v", e)
		}
		if already, err := s.Revoke(ctx, "pk_1", "lost"); already || err != nil {
			t.Fatal(already, err)
		}
		if already, err := s.Revoke(ctx, "pk_1", ""); !already || err != nil {
			t.Error("revoked twice without a word", already, err)
		}
		if e, err = s.Get(ctx, "pk_1"); err != nil || e.State(time.Now()) != "revoked" {
			t.Errorf("have %+v, %v", e, err)
		}
		if _, err := s.Revoke(ctx, "pk_2", ""); !errors.Is(err, ErrNoKey) {
			t.Errorf("revoked what does not exist: %v", err)
		}
		if _, err := s.Get(ctx, "pk_2"); !errors.Is(err, ErrNoKey) {
			t.Errorf("found what does not exist: %v", err)
		}
	})
}

func TestAKeyThatASidecarCouldNotReadIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		for name, change := range map[string]func(*keystore.FileKey){
			"id":         func(k *keystore.FileKey) { k.KeyID = "a/b" },
			"owner":      func(k *keystore.FileKey) { k.OwnerID = "" },
			"algorithm":  func(k *keystore.FileKey) { k.Algorithm = "" },
			"public key": func(k *keystore.FileKey) { k.PublicKey = "AAAA" },
			"scope":      func(k *keystore.FileKey) { k.Scopes = []string{""} },
			"attributes": func(k *keystore.FileKey) { k.Attributes["x"] = strings.Repeat("x", 1100) },
		} {
			k := key("pk_bad")
			change(&k)
			if err := s.Issue(t.Context(), k); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: have %v, want it refused", name, err)
			}
		}
	})
}

func TestListingGoesByKeyAndOwnerAndEndsEarly(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		for _, id := range []string{"pk_3", "pk_1", "pk_2"} {
			k := key(id)
			if id == "pk_2" {
				k.OwnerID = "m_2"
			}
			if err := s.Issue(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		list := func(owner string, limit int) (ids []string) {
			err := s.List(t.Context(), Filter{Owner: owner}, func(e *Entry) bool {
				ids = append(ids, e.KeyID)
				return len(ids) < limit
			})
			if err != nil {
				t.Error(err)
			}
			return ids
		}
		if ids := strings.Join(list("", 9), " "); ids != "pk_1 pk_2 pk_3" {
			t.Errorf("have %s", ids)
		}
		if ids := strings.Join(list("m_1", 9), " "); ids != "pk_1 pk_3" {
			t.Errorf("have %s", ids)
		}
	})
}

func TestRotationEndsTheOldKeyAtOnceOrAfterAnOverlap(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		ctx := t.Context()
		for _, id := range []string{"old_1", "old_2"} {
			if err := s.Issue(ctx, key(id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Rotate(ctx, Rotation{Old: "old_1", New: key("new_1")}); err != nil {
			t.Fatal(err)
		}
		if err := s.Rotate(ctx, Rotation{Old: "old_2", New: key("new_2"), Overlap: time.Hour}); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]string{"old_1": "revoked", "new_1": "active", "old_2": "active", "new_2": "active"} {
			e, err := s.Get(ctx, id)
			if err != nil || e.State(time.Now()) != want {
				t.Errorf("%s: have %s, %v, want %s", id, e.State(time.Now()), err, want)
			}
		}
		e, _ := s.Get(ctx, "old_2")
		if e.ExpiresAt == nil || e.State(time.Now().Add(61*time.Minute)) != "expired" {
			t.Errorf("old_2 does not end after the overlap: %+v", e)
		}
		if err := s.Rotate(ctx, Rotation{Old: "none", New: key("new_3")}); !errors.Is(err, ErrNoKey) {
			t.Errorf("have %v", err)
		}
		if err := s.Rotate(ctx, Rotation{Old: "new_1", New: key("new_2")}); !errors.Is(err, ErrExists) {
			t.Errorf("have %v", err)
		}
		if e, _ := s.Get(ctx, "new_1"); e.State(time.Now()) != "active" {
			t.Error("a rotation that failed ended the old key")
		}
	})
}

func TestOwnersAreSuspendedAndReactivatedAndUnknownOnesNamed(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		ctx := t.Context()
		if err := s.Issue(ctx, key("pk_1")); err != nil {
			t.Fatal(err)
		}
		if already, err := s.Suspend(ctx, "m_1"); already || err != nil {
			t.Fatal(already, err)
		}
		if already, err := s.Suspend(ctx, "m_1"); !already || err != nil {
			t.Error(already, err)
		}
		if e, err := s.Get(ctx, "pk_1"); err != nil || e.State(time.Now()) != "owner_suspended" {
			t.Errorf("have %+v, %v", e, err)
		}
		if o, err := s.Owner(ctx, "m_1"); err != nil || o.SuspendedAt == nil || o.Keys != 1 {
			t.Errorf("have %+v, %v", o, err)
		}
		if already, err := s.Reactivate(ctx, "m_1"); already || err != nil {
			t.Error(already, err)
		}
		if e, err := s.Get(ctx, "pk_1"); err != nil || e.State(time.Now()) != "active" {
			t.Errorf("have %+v, %v", e, err)
		}
		if _, err := s.Suspend(ctx, "m_9"); !errors.Is(err, ErrNoOwner) {
			t.Errorf("have %v", err)
		}
		if _, err := s.Owner(ctx, "m_9"); !errors.Is(err, ErrNoOwner) {
			t.Errorf("have %v", err)
		}
	})
}

func TestOneBadRowDoesNotKeepTheOthersOut(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		ctx := t.Context()
		if err := s.Issue(ctx, key("pk_7")); err != nil {
			t.Fatal(err)
		}
		var keys []keystore.FileKey
		for i := range 100 {
			keys = append(keys, key(fmt.Sprintf("pk_%d", i)))
		}
		keys[13].Algorithm = ""
		keys[42].KeyID = "pk_41" // twice
		refused, err := s.Import(ctx, keys)
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range refused {
			want := map[int]error{7: ErrExists, 13: ErrRefused, 42: ErrExists}[i]
			if !errors.Is(err, want) {
				t.Errorf("row %d: have %v, want %v", i, err, want)
			}
		}
		n := 0
		if err := s.List(ctx, Filter{}, func(*Entry) bool { n++; return true }); err != nil || n != 98 {
			t.Errorf("%d keys, %v, want 98", n, err)
		}
	})
}

func TestWhatOnlyTheDatabaseRefusesIsFoundAmongTheOthers(t *testing.T) {
	t.Parallel()
	p, conn := openPostgres(t)
	var keys []keystore.FileKey
	for i := range 50 {
		keys = append(keys, key(fmt.Sprintf("pk_%d", i)))
	}
	early := time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC)
	keys[31].NotBefore = &early
	refused, err := p.Import(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range refused {
		if (err != nil) != (i == 31) {
			t.Errorf("row %d: %v", i, err)
		}
	}
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM keysidecar.public_keys").Scan(&n); err != nil || n != 49 {
		t.Errorf("%d keys, %v", n, err)
	}
}

func TestTheLogNamesWhoeverUsedTheCommand(t *testing.T) {
	t.Parallel()
	p, conn := openPostgres(t)
	if err := p.Issue(t.Context(), key("pk_1")); err != nil {
		t.Fatal(err)
	}
	var kind, actor string
	err := conn.QueryRow(t.Context(), "SELECT kind, claimed_actor FROM keysidecar.events ORDER BY seq DESC LIMIT 1").Scan(&kind, &actor)
	if err != nil || kind != "issued" || actor != "cli:test" {
		t.Errorf("have %s by %s, %v", kind, actor, err)
	}
}

func TestForeignTablesAreReadAndNeverWritten(t *testing.T) {
	t.Parallel()
	dsn := schematest.NewDatabase(t, server(t))
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `CREATE SCHEMA app;
		CREATE TABLE app.api_keys (id uuid PRIMARY KEY, merchant text, gone timestamptz);
		INSERT INTO app.api_keys VALUES ('00000000-0000-0000-0000-000000000001', 'm_1', NULL);
		CREATE VIEW app.slow AS SELECT id::text AS key_id, merchant AS owner_id, 'opaque' AS algorithm, NULL::bytea AS public_key,
			'{}'::text[] AS scopes, NULL::timestamptz AS not_before, NULL::timestamptz AS expires_at, gone AS revoked_at, '{}'::jsonb AS attributes FROM app.api_keys;`); err != nil {
		t.Fatal(err)
	}
	p, err := OpenPostgres(t.Context(), dsn, "app.slow", "cli:test")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	if e, err := p.Get(t.Context(), "00000000-0000-0000-0000-000000000001"); err != nil || e.OwnerID != "m_1" {
		t.Errorf("have %+v, %v", e, err)
	}
	if err := p.Issue(t.Context(), key("pk_1")); !errors.Is(err, ErrNotOurs) {
		t.Errorf("issue: %v", err)
	}
	if _, err := p.Revoke(t.Context(), "pk_1", ""); !errors.Is(err, ErrNotOurs) {
		t.Errorf("revoke: %v", err)
	}
	if _, err := p.Import(t.Context(), nil); !errors.Is(err, ErrNotOurs) {
		t.Errorf("import: %v", err)
	}
	problems, err := p.Problems(t.Context())
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0], "scans all of api_keys") {
		t.Errorf("a view that cannot use the index is not noticed: %q, %v", problems, err)
	}
}

func TestProblemsOfTheDatabaseAreFound(t *testing.T) {
	t.Parallel()
	p, conn := openPostgres(t)
	if problems, err := p.Problems(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("a good database has problems: %q, %v", problems, err)
	}
	if _, err := conn.Exec(t.Context(), "ALTER TABLE keysidecar.public_keys DISABLE TRIGGER ALL"); err != nil {
		t.Fatal(err)
	}
	problems, err := p.Problems(t.Context())
	if err != nil || !strings.Contains(strings.Join(problems, "\n"), "not captured") {
		t.Errorf("capture that is off is not noticed: %q, %v", problems, err)
	}
}

func TestADatabaseWithoutTheSchemaIsNamed(t *testing.T) {
	t.Parallel()
	_, err := OpenPostgres(t.Context(), server(t).NewDatabase(t), ownRelation, "cli:test")
	if err == nil || !strings.Contains(err.Error(), "keysidecar migrate") {
		t.Errorf("have %v", err)
	}
}

func TestTenThousandKeysAreImportedWithinSeconds(t *testing.T) {
	t.Parallel()
	p, conn := openPostgres(t)
	start := time.Now()
	for at := 0; at < 10_000; at += p.ImportBatch() {
		keys := make([]keystore.FileKey, p.ImportBatch())
		for i := range keys {
			keys[i] = key(fmt.Sprintf("pk_%d", at+i))
		}
		if _, err := p.Import(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM keysidecar.events WHERE kind = 'issued'").Scan(&n); err != nil || n != 10_000 {
		t.Errorf("%d events, %v", n, err)
	}
	if took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	t.Logf("10,000 keys in %v", took)
}
