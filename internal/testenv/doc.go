// Package testenv starts private servers for tests, benchmarks and the demo: a
// real PostgreSQL and a real RabbitMQ that can be stopped, killed, paused and
// started again.
//
// # Privacy
//
// Every server lives in a workspace of its own: a temporary directory, ports of
// 127.0.0.1 that no other test process uses, and, when the caller is root, an
// unprivileged user, for neither server agrees to run as root. Nothing outside
// the workspace is read or written, so packages may be tested in parallel.
//
// # No leftovers
//
// Each workspace has a watchdog, a small shell process that waits on a pipe
// from this process. Close ends the server and dismisses the watchdog. If this
// process dies first, in whatever way, the pipe closes and the watchdog kills
// what runs in the workspace and removes it.
//
// # All processes of a server
//
// PostgreSQL puts every backend into a session of its own and RabbitMQ starts
// helpers, so a process group does not hold a server. Its processes are those
// whose working directory lies in the workspace, and their descendants.
//
// The functions that take a testing.TB fail the test if a server program is
// missing; they never skip. The core functions return errors instead.
package testenv
