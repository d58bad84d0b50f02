// Command demo shows the whole of keysidecar at work and ends by itself: it starts
// Postgres, RabbitMQ, two relays and three sidecars, imports 10,000 keys, revokes
// some of them by plain SQL, with the broker and without, and prints for each
// sidecar how many milliseconds lay between the commit and its first refusal.
//
// Postgres and RabbitMQ run in containers where compose reaches an engine, and
// otherwise privately, from the machine's programs; -servers chooses. Relays and
// sidecars are processes of this machine either way. No server, container, volume
// or network is left behind, also when the demo is interrupted, fails or is killed.
//
// It is run in the repository's folder, by `make demo`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// timeLimit bounds the demo once its servers run.
const timeLimit = 3 * time.Minute

func main() {
	way := flag.String("servers", wayAuto, "where Postgres and RabbitMQ run: "+wayCompose+", "+wayPrivate+", or "+wayAuto)
	flag.Parse()
	switch *way {
	case wayAuto, wayCompose, wayPrivate:
	default:
		fmt.Fprintf(os.Stderr, "demo: -servers %q: want %s, %s or %s\n", *way, wayAuto, wayCompose, wayPrivate)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, *way); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, way string) (err error) {
	dir, err := os.MkdirTemp("", "ksdemo")
	if err != nil {
		return err
	}
	d := &demo{out: os.Stdout, begun: time.Now(), way: way, dir: dir}
	defer func() {
		if ctx.Err() != nil {
			d.say("Interrupted: removing everything")
		} else if err != nil && d.c != nil {
			fmt.Fprintln(os.Stderr, d.c.Logs())
		}
		err = errors.Join(err, d.close())
	}()
	d.say("Building keysidecar")
	if err := d.build(ctx); err != nil {
		return err
	}
	d.say("Starting Postgres and RabbitMQ, migrating")
	if err := d.start(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
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
		{"Stopping everything", d.stop},
	} {
		d.say(step.what)
		if err := step.do(limited); err != nil {
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
