package cluster

import (
	"context"
	"errors"
	"sync"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// Servers is a Postgres with an empty database and a RabbitMQ, both running.
type Servers interface {
	// DSN is the database's URL for a superuser, AMQP the broker's. Neither
	// changes while the servers live.
	DSN() string
	AMQP() string
	// StopBroker stops RabbitMQ in good order, keeping its data.
	StopBroker(ctx context.Context) error
	// StartBroker starts it again and returns when it takes connections.
	StartBroker(ctx context.Context) error
	// Close ends both servers and removes what they stored.
	Close() error
}

// Private is a Postgres and a RabbitMQ of this process's own, run from the
// machine's programs.
type Private struct {
	PG *testenv.Postgres
	MQ *testenv.RabbitMQ
}

// StartPrivate starts private servers.
func StartPrivate(opts ...testenv.PostgresOption) (*Private, error) {
	p := new(Private)
	var pgErr, mqErr error
	var servers sync.WaitGroup
	servers.Go(func() { p.PG, pgErr = testenv.StartPostgresMain(opts...) })
	servers.Go(func() { p.MQ, mqErr = testenv.StartRabbitMQMain() })
	servers.Wait()
	err := errors.Join(pgErr, mqErr)
	if err == nil {
		err = p.PG.CreateDatabase(Database, "")
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// DSN is described with Servers.
func (p *Private) DSN() string { return p.PG.DSN(Database) }

// AMQP is described with Servers.
func (p *Private) AMQP() string { return p.MQ.URL() }

// StopBroker is described with Servers.
func (p *Private) StopBroker(context.Context) error { return p.MQ.Stop() }

// StartBroker is described with Servers.
func (p *Private) StartBroker(context.Context) error { return p.MQ.Start() }

// Close is described with Servers.
func (p *Private) Close() error {
	var errs []error
	if p.MQ != nil {
		errs = append(errs, p.MQ.Close())
	}
	if p.PG != nil {
		errs = append(errs, p.PG.Close())
	}
	return errors.Join(errs...)
}
