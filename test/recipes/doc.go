// Package recipes runs the programs of examples against a real sidecar with its
// Postgres, RabbitMQ and relay, and against one that answers nonsense.
package recipes
