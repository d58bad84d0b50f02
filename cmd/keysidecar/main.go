// Command keysidecar runs beside every pod of a service and answers from memory,
// over a local socket, whether a key may still be used. Its other commands run
// the relay, migrate the database, manage keys and owners, and ask a running
// sidecar.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker (see the Makefile).
var version = "devel"

// commit is set by the linker for releases, which are built without the state of
// the repository; else the compiler knows it.
var commit string

func main() {
	// After the first signal the default action is back, so that a second one ends
	// a process that does not stop.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	os.Exit(c.run(ctx, os.Args[1:]))
}
