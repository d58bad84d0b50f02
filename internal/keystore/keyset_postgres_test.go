package keystore

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A view may have cousins of the types, name its owners differently than the events of
// its table do, and have rows that cannot be used.
func TestSetThroughAViewIsWrong(t *testing.T) {
	w := newPgWorld(t)
	for i := range 6 {
		w.put(real(i))
	}
	w.exec(`CREATE VIEW public.merchants AS SELECT key_id::varchar(300), substr(owner_id, 2)::int AS owner_id, algorithm, public_key, scopes::varchar[] AS scopes,
		not_before, expires_at, revoked_at, attributes::json AS attributes, owner_id = 'm2' AS owner_suspended FROM keysidecar.public_keys
		UNION ALL SELECT 'long', 1, 'x', repeat('x', 9000)::bytea, '{}', NULL, NULL, NULL, '{}', false
		UNION ALL SELECT 'k4', 1, 'x', repeat('x', 44)::bytea, '{}', NULL, NULL, NULL, '{}', false`)
	v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.Relation = "public.merchants" })
	b := build(t, v, func(o *Options) { o.FenceInterval = 2 * time.Second }).warm()
	b.expectSet("m0", "") // is no owner of the view
	b.expectSet("2", "")  // is suspended, the view says
	b.cachedSet("0", "k0 k3")
	if s := b.expectSet("1", "k1"); s.LeftOut != 2 {
		t.Errorf("%d left out: one row is too long, and one key is there twice", s.LeftOut)
	}
	b.cachedSet("1", "k1")
	w.revoke("k0") // whose event names m0
	b.fenced()
	b.cachedSet("0", "k3")
	b.store.Evict(w.delete("k3"))
	b.expectSet("0", "")
	w.exec(`TRUNCATE keysidecar.public_keys`)
	b.fenced()
	b.cachedSet("1", "")
}

func TestPgBouncerModeGarblesASet(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	w.put(with(real(3), func(k *Key) { k.ExpiresAt = time.Now().Add(time.Hour) }))
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec} {
		v := pgWorldOn(t, w.dsn, func(o *PostgresOptions) { o.ExecMode = mode })
		b := build(t, v).warm()
		if s := b.expectSet("m0", "k0 k3"); s.LeftOut != 0 {
			t.Errorf("%v: %d left out", mode, s.LeftOut)
		}
		b.cachedSet("m0", "k0 k3")
	}
}

func TestSetIsReadWithoutTheRightToAsk(t *testing.T) {
	w := newPgWorld(t)
	w.put(real(0))
	w.exec(`SELECT keysidecar.allow_unreported(interval '3 s')`)
	b := build(t, w, func(o *Options) { o.Report = false }).warm()
	b.cachedSet("m0", "k0")
	b.expectSet("m1", "")
	w.exec(`SELECT keysidecar.allow_unreported(interval '0 s')`)
	eventually(t, "a fence refused", func() bool { return b.store.Status().LastFenceError == "unregistered" })
	b.noSet("m2")

	l := ownersOf(t, 4) // registered, until the relay marks the entry while the question is on its way
	b = build(t, l, slowFences).warm()
	l.set(func() {
		l.beforeFill = func(string) {
			l.set(func() {
				for id := range l.registered {
					l.marked[id] = true
				}
			})
		}
	})
	b.noSet("m0")
	if n, _ := b.store.mem.Load().sets.size(); n != 0 {
		t.Error("a void read stays in memory")
	}
}
