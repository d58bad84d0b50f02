// Command demo shows the whole of keysidecar at work and ends by itself: it starts
// Postgres, RabbitMQ, two relays and three sidecars, imports 10,000 keys, revokes
// some of them by plain SQL, with the broker and without, and prints for each
// sidecar how many milliseconds lay between the commit and its first refusal.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// timeLimit bounds the whole demo.
const timeLimit = 3 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	d := &demo{out: os.Stdout, begun: time.Now()}
	defer func() {
		if d.c != nil {
			if err != nil {
				fmt.Fprintln(os.Stderr, d.c.Logs())
			}
			err = errors.Join(err, d.c.Close())
		}
	}()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"Building keysidecar, starting Postgres and RabbitMQ, migrating", d.start},
		{"Starting two relays and three sidecars", d.startProcesses},
		{"Importing 10,000 keys of 100 merchants", d.importKeys},
		{"Issuing a key and verifying it in each sidecar", d.issue},
		{"Revoking a key: UPDATE keysidecar.public_keys SET revoked_at = now() ...", d.revokeByUpdate},
		{"Deleting a key: DELETE FROM keysidecar.public_keys ...", d.revokeByDelete},
		{"Suspending a merchant, 100 keys at once: SELECT keysidecar.suspend_owner(...)", d.suspend},
		{"Reactivating the merchant", d.reactivate},
		{"Stopping RabbitMQ, then revoking: now the fence tells, within its interval", d.revokeWithoutBroker},
		{"Stopping sidecar-3, revoking, starting it again: it must not have missed it", d.restartSidecar},
		{"Starting RabbitMQ again, then revoking: fast again", d.revokeAfterBrokerIsBack},
		{"Stopping everything", d.stopProcesses},
	} {
		d.say(step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	d.table()
	return nil
}

// say prints what happens next, with the time since the start.
func (d *demo) say(what string) {
	fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.begun).Seconds(), what)
}

// note prints a line of detail.
func (d *demo) note(format string, args ...any) {
	fmt.Fprintf(d.out, "         "+format+"\n", args...)
}
