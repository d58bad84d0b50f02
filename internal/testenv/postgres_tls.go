package testenv

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// UseTLS gives the server a certificate, and the authorities that clients'
// certificates are checked against, without a restart. Connections that exist stay
// as they are.
func (p *Postgres) UseTLS(server Pair, clients []byte) error {
	for name, content := range map[string][]byte{"server.crt": server.Certificate, "server.key": server.Key, "clients.crt": clients} {
		if err := p.ws.write(name, content); err != nil {
			return err
		}
	}
	return p.reload(
		"ALTER SYSTEM SET ssl_cert_file = '"+p.ws.path("server.crt")+"'",
		"ALTER SYSTEM SET ssl_key_file = '"+p.ws.path("server.key")+"'",
		"ALTER SYSTEM SET ssl_ca_file = '"+p.ws.path("clients.crt")+"'",
		"ALTER SYSTEM SET ssl = on")
}

// UseAuthentication replaces pg_hba.conf. The superuser is let in as before.
func (p *Postgres) UseAuthentication(lines ...string) error {
	lines = append([]string{"local all " + pgSuperuser + " trust", "host all " + pgSuperuser + " 127.0.0.1/32 trust"}, lines...)
	if err := p.ws.write("data/pg_hba.conf", []byte(strings.Join(lines, "\n")+"\n")); err != nil {
		return err
	}
	return p.reload()
}

// reload runs statements, has the server read its files again, and waits until it
// has.
func (p *Postgres) reload(statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), pgStart)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	var before time.Time
	var ok bool
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp(), pg_reload_conf()").Scan(&before, &ok); err != nil || !ok {
		return fmt.Errorf("reload postgres: %v, %w", ok, err)
	}
	return poll(pgStart, func() (bool, error) { return p.loadedSince(ctx, before) })
}

// loadedSince asks on a new connection, which has what the main process has read.
func (p *Postgres) loadedSince(ctx context.Context, before time.Time) (loaded bool, err error) {
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, "SELECT pg_conf_load_time() >= $1", before).Scan(&loaded)
	return loaded, err
}

// Disconnect ends every connection of the users given, as an administrator does.
func (p *Postgres) Disconnect(users ...string) error {
	return p.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('" + strings.Join(users, "', '") + "')")
}

// WholeLog returns everything the server printed.
func (p *Postgres) WholeLog() (string, error) { return p.ws.read("postgres.log") }
