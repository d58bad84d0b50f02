package keystore

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// pgServer is the private Postgres of this package's tests.
var pgServer *testenv.Postgres

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	pg, err := testenv.StartPostgresMain()
	if err != nil {
		println("start postgres:", err.Error())
		return 1
	}
	pgServer = pg
	code := m.Run()
	if err := pg.Close(); err != nil {
		println("close postgres:", err.Error())
		return 1
	}
	if err := goleak.Find(); code == 0 && err != nil {
		println(err.Error())
		code = 1
	}
	return code
}

// world is a source together with the means to change what it reads.
type world interface {
	Source
	put(k Key) event.Event
	revoke(id string) event.Event
	delete(id string) event.Event
	suspend(owner string, suspended bool) event.Event
}

var worlds = map[string]func(t *testing.T) world{
	"ledger":   func(t *testing.T) world { return newLedger(t) },
	"postgres": func(t *testing.T) world { return newPgWorld(t) },
	"file":     func(t *testing.T) world { return newFileWorld(t) },
}

// pgWorld changes keys in Postgres by plain SQL.
type pgWorld struct {
	*Postgres
	t    *testing.T
	dsn  string
	conn *pgx.Conn
}

func pgOptions(dsn string) PostgresOptions {
	return PostgresOptions{
		DSN: func() (string, error) { return dsn, nil }, Relation: "keysidecar.public_keys", MaxConns: 3,
		ExecMode: pgx.QueryExecModeCacheStatement, ConnectTimeout: 2 * time.Second, ApplicationName: "keysidecar test", Logger: zap.NewNop(),
	}
}

func newPgWorld(t *testing.T) *pgWorld { return pgWorldOn(t, schematest.NewDatabase(t, pgServer)) }

func pgWorldOn(t *testing.T, dsn string, change ...func(*PostgresOptions)) *pgWorld {
	t.Helper()
	o := pgOptions(dsn)
	for _, f := range change {
		f(&o)
	}
	p, err := NewPostgres(o)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); _ = conn.Close(context.Background()) })
	return &pgWorld{Postgres: p, t: t, dsn: dsn, conn: conn}
}

func (w *pgWorld) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.conn.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// last returns the newest event.
func (w *pgWorld) last() event.Event {
	w.t.Helper()
	e := event.Event{Prev: -1}
	var kind string
	var key, owner *string
	err := w.conn.QueryRow(context.Background(), `SELECT seq, event_id, kind, key_id, owner_id, occurred_at
		FROM keysidecar.events ORDER BY seq DESC LIMIT 1`).Scan(&e.Seq, &e.ID, &kind, &key, &owner, &e.OccurredAt)
	if err != nil {
		w.t.Fatal(err)
	}
	e.Kind = event.Kind(kind)
	if key != nil {
		e.KeyID = *key
	}
	if owner != nil {
		e.OwnerID = *owner
	}
	return e
}

func (w *pgWorld) put(k Key) event.Event {
	w.t.Helper()
	stamp := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return t
	}
	attrs := k.Attributes
	if attrs == "" {
		attrs = "{}"
	}
	scopes := k.Scopes
	if scopes == nil {
		scopes = []string{}
	}
	var revoked any
	if k.Revoked {
		revoked = time.Now()
	}
	w.exec(`INSERT INTO keysidecar.owners (owner_id) VALUES ($1) ON CONFLICT DO NOTHING`, k.OwnerID)
	w.exec(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes)
		VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9) ON CONFLICT (key_id) DO UPDATE SET owner_id = $2, algorithm = $3, public_key = $4, scopes = $5,
		not_before = $6, expires_at = $7, revoked_at = $8, attributes = $9`,
		k.ID, k.OwnerID, k.Algorithm, k.PublicKey, scopes, stamp(k.NotBefore), stamp(k.ExpiresAt), revoked, attrs)
	return w.last()
}

func (w *pgWorld) revoke(id string) event.Event {
	w.t.Helper()
	w.exec(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, id)
	return w.last()
}

func (w *pgWorld) delete(id string) event.Event {
	w.t.Helper()
	w.exec(`DELETE FROM keysidecar.public_keys WHERE key_id = $1`, id)
	return w.last()
}

func (w *pgWorld) suspend(owner string, suspended bool) event.Event {
	w.t.Helper()
	w.exec(`UPDATE keysidecar.owners SET suspended_at = CASE WHEN $2 THEN now() END WHERE owner_id = $1`, owner, suspended)
	return w.last()
}

// fileWorld changes keys by editing a key file.
type fileWorld struct {
	*File
	t    *testing.T
	path string
}

func newFileWorld(t *testing.T) *fileWorld {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, []byte("keys: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &fileWorld{File: f, t: t, path: path}
}

func (w *fileWorld) edit(f func(*KeyFile)) event.Event {
	w.t.Helper()
	if err := EditKeyFile(w.path, func(kf *KeyFile) error { f(kf); return nil }); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refresh(); err != nil {
		w.t.Fatal(err)
	}
	return w.events[len(w.events)-1]
}

func (w *fileWorld) put(k Key) event.Event {
	w.t.Helper()
	fk := FileKey{KeyID: k.ID, OwnerID: k.OwnerID, Algorithm: k.Algorithm, Scopes: k.Scopes, Attributes: map[string]any{"env": "live"}}
	if k.PublicKey != nil {
		fk.PublicKey = base64.StdEncoding.EncodeToString(k.PublicKey)
	}
	now := time.Now()
	if k.Revoked {
		fk.RevokedAt = &now
	}
	if !k.NotBefore.IsZero() {
		fk.NotBefore = &k.NotBefore
	}
	if !k.ExpiresAt.IsZero() {
		fk.ExpiresAt = &k.ExpiresAt
	}
	return w.edit(func(kf *KeyFile) {
		for i := range kf.Keys {
			if kf.Keys[i].KeyID == k.ID {
				kf.Keys[i] = fk
				return
			}
		}
		kf.Keys = append(kf.Keys, fk)
	})
}

func (w *fileWorld) revoke(id string) event.Event {
	now := time.Now()
	return w.edit(func(kf *KeyFile) {
		for i := range kf.Keys {
			if kf.Keys[i].KeyID == id {
				kf.Keys[i].RevokedAt = &now
			}
		}
	})
}

func (w *fileWorld) delete(id string) event.Event {
	return w.edit(func(kf *KeyFile) {
		for i := range kf.Keys {
			if kf.Keys[i].KeyID == id {
				kf.Keys = append(kf.Keys[:i], kf.Keys[i+1:]...)
				return
			}
		}
	})
}

func (w *fileWorld) suspend(owner string, suspended bool) event.Event {
	now := time.Now()
	return w.edit(func(kf *KeyFile) {
		o := FileOwner{OwnerID: owner}
		if suspended {
			o.SuspendedAt = &now
		}
		for i := range kf.Owners {
			if kf.Owners[i].OwnerID == owner {
				kf.Owners[i] = o
				return
			}
		}
		kf.Owners = append(kf.Owners, o)
	})
}

// real is a key that every world accepts: with a true SubjectPublicKeyInfo.
func real(i int) Key {
	k := key(i)
	k.PublicKey, _ = base64.StdEncoding.DecodeString("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
	return k
}

func warmOf(t *testing.T, s Source, limit int) (Head, map[string]Key) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var h Head
	keys := map[string]Key{}
	err := s.Warm(ctx, limit, func(got Head) error { h = got; return nil }, func(r *Row) error {
		rec := r.record()
		k := rec.Key()
		k.OwnerSuspended = r.OwnerSuspended
		keys[k.ID] = k
		return r.check()
	})
	if err != nil {
		t.Fatal(err)
	}
	return h, keys
}

func fillOf(t *testing.T, s Source, id string, at Cursor) (k Key, found bool, f Filled) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := s.Fill(ctx, id, at, member(t, s), func(got Filled) {
		f = got
		if !f.Member {
			t.Error("a fill was asked by a member, and says it was not")
		}
		if got.Row != nil {
			rec := got.Row.record()
			k, found = rec.Key(), true
			k.OwnerSuspended = got.Row.OwnerSuspended
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return k, found, f
}

func fenceOf(t *testing.T, s Source, at Cursor, limit int) Page {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p, err := s.Fence(ctx, FenceQuestion{At: at, Limit: limit, By: member(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// member registers somebody new.
func member(t *testing.T, s Source) Membership {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	id := uuid.New()
	if n, err := s.Register(ctx, Incarnation{Registration: id, Instance: "asker", Version: "test", MaxStaleness: time.Minute}); err != nil || n < 1 {
		t.Fatalf("register: %d, %v", n, err)
	}
	return Membership{Registration: id, Bound: time.Minute}
}

func TestSourcesDisagreeWithTheirContract(t *testing.T) {
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			full := real(0)
			full.NotBefore = time.UnixMicro(1_700_000_000_123_000).UTC()
			full.ExpiresAt = time.UnixMicro(4_000_000_000_456_000).UTC()
			w.put(full)
			opaque := Key{ID: "sha256:x", OwnerID: "m1", Algorithm: "opaque", Attributes: `{"env":"live"}`}
			w.put(opaque)
			e := w.put(real(2))

			h, keys := warmOf(t, w, 100)
			if h.Cursor != (Cursor{e.Seq, e.ID}) || h.Timeline == "" || len(keys) != 3 {
				t.Fatalf("warm: %+v with %d keys, want the cursor of %+v", h, len(keys), e)
			}
			got := keys["k0"]
			if got.OwnerID != "m0" || got.Algorithm != "ed25519" || string(got.PublicKey) != string(full.PublicKey) || len(got.Scopes) != 2 ||
				got.Scopes[1] != "refund" || !got.NotBefore.Equal(full.NotBefore) || !got.ExpiresAt.Equal(full.ExpiresAt) || got.Revoked {
				t.Fatalf("warm: %+v, want %+v", got, full)
			}
			if got := keys["sha256:x"]; got.PublicKey != nil || len(got.Scopes) != 0 {
				t.Fatalf("warm: %+v", got)
			}
			if _, some := warmOf(t, w, 2); len(some) != 2 {
				t.Fatalf("a limit of 2 gave %d keys", len(some))
			}

			p := fenceOf(t, w, h.Cursor, 10)
			if !p.Known || len(p.Events) != 0 || p.Full || p.Timeline != h.Timeline || !p.CaptureIntact || time.Since(p.Time).Abs() > time.Minute {
				t.Fatalf("fence at the head: %+v", p)
			}
			for _, unknown := range []Cursor{{h.Cursor.Seq, uuid.New()}, {h.Cursor.Seq + 1000, h.Cursor.ID}, noCursor} {
				if p := fenceOf(t, w, unknown, 10); p.Known {
					t.Fatalf("fence knows %+v: %+v", unknown, p)
				}
				if _, found, f := fillOf(t, w, "k0", unknown); f.Clean || !found {
					t.Fatalf("fill is clean for %+v: %+v", unknown, f)
				}
			}

			k, found, f := fillOf(t, w, "k0", h.Cursor)
			if !found || !f.Clean || f.Timeline != h.Timeline || k.OwnerID != "m0" || string(k.PublicKey) != string(full.PublicKey) || !k.ExpiresAt.Equal(full.ExpiresAt) {
				t.Fatalf("fill: %+v, %+v", k, f)
			}
			if _, found, f := fillOf(t, w, "nobody", h.Cursor); found || !f.Clean {
				t.Fatalf("fill of an unknown key: %+v", f)
			}

			events := []event.Event{w.revoke("k0"), w.suspend("m2", true), w.delete("sha256:x")}
			wantKinds := []event.Kind{event.Revoked, event.OwnerChanged, event.Deleted}
			p = fenceOf(t, w, h.Cursor, 10)
			if len(p.Events) != 3 || p.Full {
				t.Fatalf("fence: %+v", p.Events)
			}
			for i, e := range p.Events {
				if e.ID != events[i].ID || e.Kind != wantKinds[i] || e.Seq <= h.Cursor.Seq {
					t.Fatalf("event %d: %+v, want %s %+v", i, e, wantKinds[i], events[i])
				}
			}
			if p := fenceOf(t, w, h.Cursor, 2); !p.Full || len(p.Events) != 2 || p.Events[0].ID != events[0].ID {
				t.Fatalf("a page of 2: %+v", p)
			}
			// An old cursor: clean only for keys without a later event of their own or
			// their owner's.
			for id, want := range map[string]bool{"k0": false, "k2": false, "sha256:x": false, "nobody": true} {
				if _, _, f := fillOf(t, w, id, h.Cursor); f.Clean != want {
					t.Errorf("%s with an old cursor: clean %v, want %v", id, f.Clean, want)
				}
			}
			now := Cursor{events[2].Seq, events[2].ID}
			if k, _, f := fillOf(t, w, "k0", now); !k.Revoked || !f.Clean {
				t.Fatalf("%+v %+v", k, f)
			}
			if k, _, f := fillOf(t, w, "k2", now); !k.OwnerSuspended || !f.Clean {
				t.Fatalf("%+v %+v", k, f)
			}
			if _, keys := warmOf(t, w, 100); len(keys) != 2 || !keys["k0"].Revoked || !keys["k2"].OwnerSuspended {
				t.Fatalf("%+v", keys)
			}

			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			cancel()
			if err := w.Fill(ctx, "k0", now, member(t, w), func(Filled) {}); err == nil && name != "file" {
				t.Fatal("a fill with a context that is over")
			}
			stop := errors.New("enough")
			if err := w.Warm(context.Background(), 10, func(Head) error { return nil }, func(*Row) error { return stop }); !errors.Is(err, stop) {
				t.Fatalf("a warm that was stopped: %v", err)
			}
			fenceOf(t, w, now, 10) // and the source still works
		})
	}
}

func TestStoreOverEachSource(t *testing.T) {
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			for i := range 20 {
				w.put(real(i))
			}
			b := build(t, w).warm()
			b.expect("k3", Active)
			b.store.Evict(w.revoke("k3"))
			b.expect("k3", Revoked)
			w.revoke("k4")
			w.suspend("m2", true)
			w.put(real(50))
			b.fenced()
			b.expect("k4", Revoked)
			b.expect("k5", OwnerSuspended)
			b.expect("k50", OwnerSuspended)
			w.suspend("m2", false)
			w.delete("k6")
			b.fenced()
			b.expect("k50", Active)
			b.expect("k5", Active)
			b.expect("k6", UnknownKey)
			if st := b.store.Status(); !st.Complete || !st.Fresh {
				t.Fatalf("%+v", st)
			}
		})
	}
}
