// Package cluster runs the whole of keysidecar for tests and for the demo: a
// Postgres and a RabbitMQ, private ones (internal/testenv) unless others are
// handed in, and relays and sidecars as real processes of the real program, on
// sockets and ports of their own.
//
// Everything lives in one temporary folder and ends with Close; processes also
// end when the process that started them does.
package cluster
