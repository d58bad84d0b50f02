package testenv

import (
	"crypto/rand"
	"strings"
	"testing"
)

// StartPostgres starts a server that ends with the test.
func StartPostgres(tb testing.TB, opts ...PostgresOption) *Postgres {
	tb.Helper()
	p, err := StartPostgresMain(opts...)
	if err != nil {
		tb.Fatalf("start postgres: %v", err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("close postgres: %v", err)
		}
	})
	return p
}

// StartStandby starts a hot standby of p that ends with the test; see NewStandby.
func (p *Postgres) StartStandby(tb testing.TB) *Postgres {
	tb.Helper()
	s, err := p.NewStandby()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close the standby: %v", err)
		}
	})
	return s
}

// NewDatabase makes an empty database that is dropped at the end of the test, and
// returns its URL for the superuser.
func (p *Postgres) NewDatabase(tb testing.TB) string {
	tb.Helper()
	return p.DSN(p.NewDatabaseFrom(tb, ""))
}

// NewDatabaseFrom makes a copy of the database template that is dropped at the
// end of the test, and returns its name.
func (p *Postgres) NewDatabaseFrom(tb testing.TB, template string) string {
	tb.Helper()
	name := "t_" + strings.ToLower(rand.Text())
	if err := p.CreateDatabase(name, template); err != nil {
		tb.Fatalf("create a database: %v", err)
	}
	tb.Cleanup(func() {
		if !p.Running() {
			return // the test killed the server; its files go with it
		}
		if err := p.DropDatabase(name); err != nil {
			tb.Errorf("drop the database: %v", err)
		}
	})
	return name
}
