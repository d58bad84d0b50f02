package faults

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/test/evidence"
)

// machine says what a run ran on.
func (w *World) machine(ctx context.Context, version string) []string {
	lines := []string{version, evidence.Machine()}
	var postgres string
	err := w.onPrimary(ctx, func(c *pgx.Conn) error { return c.QueryRow(ctx, `SHOW server_version`).Scan(&postgres) })
	if err != nil {
		postgres = err.Error()
	}
	return append(lines, "PostgreSQL "+postgres, "RabbitMQ "+w.brokerVersion())
}

func (w *World) brokerVersion() string {
	conn, err := amqp.Dial(w.MQ.URL())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	return fmt.Sprint(conn.Properties["version"])
}
