package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// dsn checks that a connection string can be read and that every way to connect
// it allows is encrypted, or stays on this machine, or was allowed by name.
func (v *validator) dsn(key, dsn string) {
	if err := CheckDSN(dsn, slices.Contains(v.config.AllowInsecure, InsecurePostgres)); err != nil {
		v.fail(key, "%s", err)
	}
}

// CheckDSN reports why a Postgres connection string cannot be used: pgx cannot
// read it, or it allows a connection that leaves this machine unencrypted and
// allowInsecure is false. It asks pgx itself what it would do, so that defaults
// (sslmode=prefer), the PG* variables and service files count as they will. The
// error holds nothing secret.
func CheckDSN(dsn string, allowInsecure bool) error {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return errors.New(dsnMistake(err))
	}
	if allowInsecure {
		return nil
	}
	way := weakest(c)
	switch way.guard {
	case plain:
		return fmt.Errorf("lets the connection to %s be unencrypted: use sslmode=verify-full with sslrootcert, or name %s in allow_insecure",
			way.host, InsecurePostgres)
	case blind:
		return fmt.Errorf("does not check the certificate of %s, so that anybody on the way can pass for it: "+
			"use sslmode=verify-full with sslrootcert, or name %s in allow_insecure", way.host, InsecurePostgres)
	default:
		return nil
	}
}

// guard is how well a connection that leaves this machine is protected.
type guard int

const (
	plain    guard = iota // sslmode=disable, allow, prefer
	blind                 // sslmode=require: encrypted, with whoever answers
	issuer                // sslmode=verify-ca: with anybody who has a certificate of the authority
	complete              // sslmode=verify-full, or it stays on this machine
)

// way is one of the connections that a connection string allows.
type way struct {
	host  string
	guard guard
}

// weakest returns the least protected of the connections that c allows.
func weakest(c *pgconn.Config) way {
	least := way{c.Host, guardOf(c.Host, c.TLSConfig)}
	for _, f := range c.Fallbacks {
		if g := guardOf(f.Host, f.TLSConfig); g < least.guard {
			least = way{f.Host, g}
		}
	}
	return least
}

func guardOf(host string, t *tls.Config) guard {
	switch {
	case isLoopback(host), strings.HasPrefix(host, "/"), strings.HasPrefix(host, "@"):
		return complete
	case t == nil:
		return plain
	case !t.InsecureSkipVerify:
		return complete
	case t.VerifyPeerCertificate != nil:
		return issuer
	default:
		return blind
	}
}

// dsnMistake returns pgx's reason without the connection string it repeats.
func dsnMistake(err error) string {
	reason := err
	for next := errors.Unwrap(reason); next != nil; next = errors.Unwrap(reason) {
		reason = next
	}
	if reason == err { //nolint:errorlint // asks whether there was anything to unwrap
		return "is no connection string that Postgres clients understand"
	}
	var parse *url.Error
	if errors.As(err, &parse) {
		return "is no valid URL: percent-encode special characters in user and password"
	}
	return "cannot be used: " + reason.Error()
}

// QueryExecMode returns store.postgres.exec_mode as pgx knows it.
func (p *Postgres) QueryExecMode() pgx.QueryExecMode {
	if p.ExecMode == ExecCacheDescribe {
		return pgx.QueryExecModeCacheDescribe
	}
	return pgx.QueryExecModeCacheStatement
}

// urls checks broker URLs, which come from key.
func (v *validator) urls(key string, urls []string) {
	for i, u := range urls {
		if err := CheckURL(u, slices.Contains(v.config.AllowInsecure, InsecureAMQP)); err != nil {
			v.fail(key, "URL %d %s", i+1, err)
		}
	}
}

// CheckURL reports why a broker URL cannot be used; the error holds nothing
// secret. See CheckDSN for allowInsecure.
func CheckURL(text string, allowInsecure bool) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is no valid URL: percent-encode special characters in user, password and virtual host")
	}
	switch {
	case u.Scheme != "amqp" && u.Scheme != "amqps":
		return errors.New("must begin with amqps:// (or amqp:// on this machine)")
	case u.Hostname() == "":
		return errors.New("names no host: amqps://user:password@host:5671/vhost")
	case u.Scheme == "amqp" && !isLoopback(u.Hostname()) && !allowInsecure:
		return fmt.Errorf("lets the connection to %s be unencrypted: use amqps, or name %s in allow_insecure", u.Hostname(), InsecureAMQP)
	}
	return nil
}
