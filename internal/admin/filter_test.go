package admin

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// listed returns the key_ids that f lets through.
func listed(t *testing.T, s store, f Filter) (ids []string) {
	t.Helper()
	if err := s.List(t.Context(), f, func(e *Entry) bool { ids = append(ids, e.KeyID); return true }); err != nil {
		t.Errorf("%+v: %v", f, err)
	}
	return ids
}

// The database and a key file must not differ in what a filter means.
func TestFiltersMeanTheSameOnBothStores(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		now := time.Now().UTC().Truncate(time.Second)
		at := func(d time.Duration) *time.Time { u := now.Add(d); return &u }
		keys := []keystore.FileKey{
			{KeyID: "active", OwnerID: "m_1", Algorithm: "opaque"},
			{KeyID: "ends", OwnerID: "m_1", Algorithm: "opaque", ExpiresAt: at(48 * time.Hour)},
			{KeyID: "expired", OwnerID: "m_1", Algorithm: "opaque", ExpiresAt: at(-time.Hour)},
			{KeyID: "future", OwnerID: "m_1", Algorithm: "ed25519", PublicKey: spki, NotBefore: at(time.Hour)},
			{KeyID: "off", OwnerID: "m_2", Algorithm: "opaque", ExpiresAt: at(-time.Hour)},
			{KeyID: "revoked", OwnerID: "m_2", Algorithm: "opaque", RevokedAt: at(0), ExpiresAt: at(-time.Hour)},
		}
		if refused, err := s.Import(t.Context(), keys); err != nil || slices.ContainsFunc(refused, func(e error) bool { return e != nil }) {
			t.Fatal(refused, err)
		}
		if _, err := s.Suspend(t.Context(), "m_2"); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			f    Filter
			want string
		}{
			{Filter{}, "active ends expired future off revoked"},
			{Filter{Owner: "m_2"}, "off revoked"},
			{Filter{Algorithm: "ed25519"}, "future"},
			{Filter{States: []string{"active"}}, "active ends"},
			{Filter{States: []string{"expired"}}, "expired"},
			{Filter{States: []string{"not_yet_valid"}}, "future"},
			{Filter{States: []string{"owner_suspended"}}, "off"},
			{Filter{States: []string{"revoked", "expired"}}, "expired revoked"},
			{Filter{ExpiresAfter: now}, "ends"},
			{Filter{ExpiresBefore: now}, "expired off revoked"},
			{Filter{ExpiresAfter: *at(-time.Hour), ExpiresBefore: *at(48 * time.Hour)}, "expired off revoked"},
			{Filter{After: "expired", Limit: 2}, "future off"},
			{Filter{After: "revoked"}, ""},
			{Filter{Owner: "m_1", States: []string{"active"}, Limit: 1}, "active"},
		} {
			if have := strings.Join(listed(t, s, c.f), " "); have != c.want {
				t.Errorf("%+v: have %q, want %q", c.f, have, c.want)
			}
		}
		// Each state that can be asked for is what the entries say of themselves.
		for _, state := range States {
			err := s.List(t.Context(), Filter{States: []string{state}}, func(e *Entry) bool {
				if e.State(e.Now) != state {
					t.Errorf("%s is %s, and was listed as %s", e.KeyID, e.State(e.Now), state)
				}
				return true
			})
			if err != nil {
				t.Error(err)
			}
		}
		found, err := s.Existing(t.Context(), []string{"off", "none", "active"})
		if err != nil || len(found) != 2 || !found["off"] || !found["active"] {
			t.Errorf("found %v, %v", found, err)
		}
	})
}

func TestPagesTogetherAreTheWhole(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		keys := make([]keystore.FileKey, 57)
		for i := range keys {
			keys[i] = key(fmt.Sprintf("Pk~%d", i*7919%1000))
		}
		if _, err := s.Import(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
		whole := listed(t, s, Filter{})
		var pages []string
		for f := (Filter{Limit: 10}); ; f.After = pages[len(pages)-1] {
			page := listed(t, s, f)
			if pages = append(pages, page...); len(page) < f.Limit {
				break
			}
		}
		if len(whole) != len(keys) || !slices.Equal(pages, whole) {
			t.Errorf("pages are %q, the whole %q", pages, whole)
		}
	})
}

func TestWhatAStoreDoesNotKnowIsNotFilteredBy(t *testing.T) {
	t.Parallel()
	f := openFile(t)
	for _, filter := range []Filter{{CreatedAfter: time.Now()}, {UnusedSince: time.Now()}} {
		if err := f.List(t.Context(), filter, func(*Entry) bool { return true }); !errors.Is(err, ErrNotKnown) {
			t.Errorf("%+v: %v", filter, err)
		}
	}
	p, conn := openPostgres(t)
	p.relation = "keysidecar.view"
	if _, err := conn.Exec(t.Context(), `CREATE VIEW keysidecar.view AS SELECT * FROM keysidecar.public_keys`); err != nil {
		t.Fatal(err)
	}
	if err := p.List(t.Context(), Filter{CreatedAfter: time.Now()}, func(*Entry) bool { return true }); !errors.Is(err, ErrNotKnown) {
		t.Errorf("a view: %v", err)
	}
	p.usage = false // a role without the right
	if err := p.List(t.Context(), Filter{UsedAfter: time.Now()}, func(*Entry) bool { return true }); !errors.Is(err, ErrNotKnown) {
		t.Errorf("without the right: %v", err)
	}
	if ids := listed(t, p, Filter{}); len(ids) != 0 {
		t.Errorf("listed %q", ids)
	}
}

func TestLastUsesAreShownOfTheRelationThatIsRead(t *testing.T) {
	t.Parallel()
	p, conn := openPostgres(t)
	for _, id := range []string{"pk_1", "pk_2"} {
		if err := p.Issue(t.Context(), key(id)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO keysidecar.key_usage (relation, key_id, last_used_at) VALUES
		('keysidecar.public_keys', 'pk_1', '2026-01-02T03:04:00Z'), ('app.other', 'pk_2', '2026-01-02T03:04:00Z')`); err != nil {
		t.Fatal(err)
	}
	e, err := p.Get(t.Context(), "pk_1")
	if err != nil || e.LastUsedAt == nil || e.LastUsedAt.Format(time.RFC3339) != "2026-01-02T03:04:00Z" || !e.UsageKnown {
		t.Errorf("have %+v, %v", e, err)
	}
	if e, err = p.Get(t.Context(), "pk_2"); err != nil || e.LastUsedAt != nil {
		t.Errorf("another table's use is shown: %+v, %v", e, err)
	}
	// A role that was not granted the table still sees keys.
	if _, err := conn.Exec(t.Context(), `DO $$ BEGIN CREATE ROLE admin_without_usage LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		GRANT USAGE ON SCHEMA keysidecar TO admin_without_usage;
		GRANT SELECT ON keysidecar.schema_version, keysidecar.settings, keysidecar.public_keys, keysidecar.owners TO admin_without_usage`); err != nil {
		t.Fatal(err)
	}
	poor, err := OpenPostgres(t.Context(), server(t).DSN(conn.Config().Database, "admin_without_usage"), ownRelation, "cli:test")
	if err != nil {
		t.Fatal(err)
	}
	defer poor.Close(t.Context())
	if e, err = poor.Get(t.Context(), "pk_1"); err != nil || e.LastUsedAt != nil || e.UsageKnown {
		t.Errorf("have %+v, %v", e, err)
	}
}

func TestAJWKSetHasOneVerdictForEachKey(t *testing.T) {
	t.Parallel()
	rows, err := read("jwks", `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","owner_id":"m_1","x":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"},
		{"kty":"oct","k":"AAAA"},{"kty":"OKP","crv":"Ed25519","x":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"}]}`)
	if err != nil || len(rows) != 3 {
		t.Fatal(rows, err)
	}
	if k := rows[0].Key; rows[0].Err != nil || k.KeyID != "a" || k.OwnerID != "m_1" || k.Algorithm != "ed25519" || k.PublicKey != spki {
		t.Errorf("the first: %+v", rows[0])
	}
	if rows[1].Line != 2 || !errors.Is(rows[1].Err, ErrRefused) {
		t.Errorf("the second: %+v", rows[1])
	}
	if k := rows[2].Key; rows[2].Err != nil || len(k.KeyID) != 43 || k.OwnerID != "" {
		t.Errorf("the third: %+v", rows[2])
	}
}

// The query for admin pages in the documents, as it stands there.
func TestTheQueryForAdminPagesIsRight(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Last use of keys\n")
	_, query, _ := strings.Cut(section, "```sql\n")
	query, _, found := strings.Cut(query, "```")
	if !found {
		t.Fatal("there is no query")
	}
	p, conn := openPostgres(t)
	for _, id := range []string{"pk_1", "pk_2", "pk_3"} {
		k := key(id)
		k.OwnerID = "m_books"
		if err := p.Issue(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO keysidecar.key_usage (key_id, last_used_at) VALUES ('pk_2', now()), ('pk_3', now() - interval '91 days')`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SET ROLE keysidecar_app"); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	var id string
	var idle bool
	if _, err := pgx.ForEachRow(rows, []any{&id, nil, nil, nil, &idle}, func() error {
		have = append(have, fmt.Sprint(id, " ", idle))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"pk_2 false", "pk_3 true", "pk_1 true"}; !slices.Equal(have, want) {
		t.Errorf("have %q, want %q", have, want)
	}
}
