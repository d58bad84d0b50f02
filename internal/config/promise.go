package config

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Promise says in plain words what a sidecar with this configuration promises,
// one sentence a line. Valid only for a configuration that Validate accepts.
func (c *Config) Promise() []string {
	f := &c.Freshness
	source := c.storeName()
	limit, setBy := f.MaxStaleness, "freshness.max_staleness"
	if f.OnStale == ServeStale {
		limit, setBy = f.StaleLimit, "freshness.stale_limit"
	}
	lines := []string{
		fmt.Sprintf("a key is refused at most %s after its revocation was acknowledged, whatever fails (%s)", formatDuration(limit), setBy),
		fmt.Sprintf("an outage of %s shorter than %s goes unnoticed", source, formatDuration(f.MaxStaleness-f.FenceInterval)),
	}
	after := fmt.Sprintf("in a longer one requests are answered 503 unavailable until %s is back (freshness.on_stale: %s)", source, FailClosed)
	if f.OnStale == ServeStale {
		after = fmt.Sprintf("in a longer one answers from memory are given, marked stale, for %s, then 503 unavailable (freshness.on_stale: %s)",
			formatDuration(f.StaleLimit), ServeStale)
	}
	lines = append(lines, after)
	if c.Store.Kind == StorePostgres && !c.HasBroker() {
		lines = append(lines, fmt.Sprintf("no broker is configured (amqp.url): revocations are seen every %s, not within milliseconds", formatDuration(f.FenceInterval)))
	}
	return lines
}

// Warnings returns what works but is dangerous or probably not meant.
func (c *Config) Warnings() []string {
	var warnings []string
	warnings = append(warnings, c.transportWarnings()...)
	if c.Freshness.OnStale == ServeStale {
		warnings = append(warnings, fmt.Sprintf("freshness.on_stale: %s: a revoked key can be accepted for up to %s while %s is away",
			ServeStale, formatDuration(c.Freshness.StaleLimit), c.storeName()))
	}
	if c.Listen.TCP.Address != "" && c.Listen.TCP.TokenFile == "" {
		warnings = append(warnings, "listen.tcp.address without listen.tcp.token_file: every process that shares this network namespace can ask")
	}
	if c.Authz.Credential == CredentialKeyID {
		warnings = append(warnings, "authz.credential: key_id: a key_id is not secret, so whoever knows one passes a gateway that asks nothing else")
	}
	return warnings
}

// transportWarnings is about connections that were allowed by name, and one that
// is protected less than it looks.
func (c *Config) transportWarnings() []string {
	if c.Store.Kind != StorePostgres {
		return nil
	}
	dsn, err := c.StoreDSN()
	if err != nil || dsn == "" {
		return nil
	}
	conn, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil
	}
	const use = ": use sslmode=verify-full with sslrootcert"
	switch weakest(conn).guard {
	case plain:
		return []string{"the connection to Postgres leaves this machine unencrypted" + use}
	case blind:
		return []string{"the Postgres server's certificate is not checked" + use}
	case issuer:
		return []string{"sslmode=verify-ca: whoever has a certificate of the authority can pass for the Postgres server" + use}
	default:
		return nil
	}
}

func (c *Config) storeName() string {
	if c.Store.Kind == StoreFile {
		return "the key file"
	}
	return "Postgres"
}
