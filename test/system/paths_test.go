package system

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/test/cluster"
)

func TestChangeByAnyWritePathDoesNotReachTheSidecars(t *testing.T) {
	ctx := healthy(t)
	issue(t, ctx, "m_paths", "p_update", "p_delete", "p_replica", "p_rename", "p_owner")
	issue(t, ctx, "m_leaves", "p_cascade")
	refuse := func(what, key, code, sql string, args ...any) {
		t.Helper()
		took := refusedBy(t, ctx, maxStaleness, key, []string{code}, func() time.Time { return exec(t, ctx, sql, args...) })
		t.Logf("%s: %v", what, took)
	}
	refuse("UPDATE", "p_update", "revoked", `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'p_update'`)
	refuse("DELETE", "p_delete", "unknown_key", `DELETE FROM keysidecar.public_keys WHERE key_id = 'p_delete'`)
	refuse("rename", "p_rename", "unknown_key", `UPDATE keysidecar.public_keys SET key_id = 'p_renamed' WHERE key_id = 'p_rename'`)
	refuse("ON DELETE CASCADE", "p_cascade", "unknown_key", `DELETE FROM keysidecar.owners WHERE owner_id = 'm_leaves'`)
	refuse("suspension", "p_owner", "owner_suspended", `SELECT keysidecar.suspend_owner('m_paths')`)
	for _, s := range world.sidecars { // also a key that nobody asked for meanwhile, unknown until the fence that brings it
		v, err := s.Until(ctx, "p_renamed", func(v cluster.Verdict) bool { return v.Code != "unknown_key" })
		if err != nil || v.Code != "owner_suspended" {
			t.Fatalf("%+v %v", v, err)
		}
	}
	refuse("reactivation", "p_owner", "active", `SELECT keysidecar.reactivate_owner('m_paths')`)
	refuse("session_replication_role = replica", "p_replica", "revoked",
		`DO $$ BEGIN SET LOCAL session_replication_role = replica; UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'p_replica'; END $$`)

	// COPY brings keys; before, they are unknown, and a negative answer must not last.
	took := refusedBy(t, ctx, maxStaleness, "p_copied", []string{"active"}, func() time.Time { return copyIn(t, "p_copied\tm_paths\topaque\n") })
	t.Logf("COPY: %v", took)
	refuse("TRUNCATE", "p_owner", "unknown_key", `TRUNCATE keysidecar.public_keys`)
	issue(t, ctx, "m_paths", "p_after")
}

// copyIn loads rows by COPY and returns when that was acknowledged.
func copyIn(t *testing.T, rows string) time.Time {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, world.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.PgConn().CopyFrom(ctx, strings.NewReader(rows), `COPY keysidecar.public_keys (key_id, owner_id, algorithm) FROM STDIN`); err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

func TestExpiryNeedsAWrite(t *testing.T) {
	ctx := healthy(t)
	issue(t, ctx, "m_time", "t_expires")
	exec(t, ctx, `UPDATE keysidecar.public_keys SET expires_at = clock_timestamp() + interval '1500 ms' WHERE key_id = 't_expires'`)
	var expires time.Time
	if err := world.SQL.QueryRow(ctx, `SELECT expires_at FROM keysidecar.public_keys WHERE key_id = 't_expires'`).Scan(&expires); err != nil {
		t.Fatal(err)
	}
	for _, s := range world.sidecars {
		v, err := s.Until(ctx, "t_expires", cluster.Code("expired"))
		if err != nil {
			t.Fatal(err)
		}
		// Database and sidecar share this machine's clock here, so its reading can be
		// compared; keystore's tests set the two apart.
		if early := expires.Sub(v.SentAt.Add(v.Took)); early > fenceInterval/10 {
			t.Fatalf("%s refused the key %v before it expired", s.Name, early)
		}
	}
}
