package lifecycle

import (
	"strings"
	"testing"
)

// A role and a user that were found out must be replaced without a restart and
// without a request that fails.
func TestChangingCredentialsNeedsARestartOrCostsARequest(t *testing.T) {
	ctx := begin(t)
	issue(t, ctx, owner, "k_credentials", world.sidecars...)
	issue(t, ctx, owner, "k_credentials_1", world.sidecars...)
	issue(t, ctx, owner, "k_credentials_2", world.sidecars...)
	all := ask(ctx, "k_credentials", valid, world.sidecars...)

	// Postgres: a second role of the same group, the file, then the old role's sessions.
	change(t, ctx, `CREATE ROLE sidecar_b LOGIN IN ROLE keysidecar_sidecar`)
	change(t, ctx, `CREATE ROLE relay_b LOGIN IN ROLE keysidecar_relay`)
	must(t, write("sidecar.dsn", dsn("sidecar_b")))
	must(t, write("relay.dsn", dsn("relay_b")))
	change(t, ctx, strings.ReplaceAll(runbook(t, "Change credentials", "pg_terminate_backend"), "OLD_ROLE", "sidecar_a"))
	change(t, ctx, strings.ReplaceAll(runbook(t, "Change credentials", "pg_terminate_backend"), "OLD_ROLE", "relay_a"))
	must(t, wait(ctx, "everybody to use the new roles", func() (bool, error) {
		return number(t, ctx, `SELECT count(*) FROM pg_stat_activity WHERE usename IN ('sidecar_b', 'relay_b')`) >= 3, nil
	}))
	if n := number(t, ctx, `SELECT count(*) FROM pg_stat_activity WHERE usename IN ('sidecar_a', 'relay_a')`); n > 0 {
		t.Errorf("%d sessions still use the old roles", n)
	}
	change(t, ctx, `DROP ROLE sidecar_a`)
	change(t, ctx, `DROP ROLE relay_a`)
	must(t, atWork(ctx, world.sidecars...))
	revoke(t, ctx, "k_credentials_1", world.sidecars...)

	// RabbitMQ: a second user, the file, then the old user's connections.
	old := world.user
	must(t, addUser("b"))
	_, err := world.MQ.Ctl("close_all_user_connections", old, "rotated")
	must(t, err)
	_, err = world.MQ.Ctl("delete_user", old)
	must(t, err)
	must(t, wait(ctx, "everybody to be connected as the new user", func() (bool, error) {
		out, err := world.MQ.Ctl("list_connections", "--quiet", "user")
		return err == nil && !strings.Contains(out, old+"\n") && strings.Count(out, "b\n") >= 1+len(world.sidecars), err
	}))
	must(t, atWork(ctx, world.sidecars...))
	revoke(t, ctx, "k_credentials_2", world.sidecars...)
	all.end(t, "while credentials changed")
	for _, p := range []string{world.sidecars[0].Log(), world.relay.Log()} {
		if strings.Contains(p, password) {
			t.Error("a password is in a log")
		}
	}
}
