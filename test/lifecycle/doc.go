// Package lifecycle tests what docs/operations.md says about a system that runs:
// updating and going back, changing credentials, a failover, a new or emptied
// broker, a restored backup, a log that was pruned, and the log level. Real
// processes on a real Postgres and a real RabbitMQ, as in test/system; the SQL of the
// runbooks is read from the document and run as it stands there.
//
// Two versions of the program take part: this one, and one built from the same
// source with one migration more. Sidecars of both are asked all the time, and no
// question may remain without an answer where a runbook says so.
package lifecycle
