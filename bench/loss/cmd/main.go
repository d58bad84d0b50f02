// Command cmd counts the revocations that caches miss while one of several
// subscribers is disturbed, and prints them in Markdown or writes them into a
// document. It ends with status 1 if a sidecar missed one.
//
//	go run ./bench/loss/cmd -out docs/benchmarks.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/keysidecar/keysidecar/bench/loss"
	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) > 0 && args[0] == loss.SubscriberCommand {
		return loss.Subscribe(ctx, args[1:])
	}
	flags := flag.NewFlagSet("loss", flag.ContinueOnError)
	o := loss.Full()
	flags.IntVar(&o.Revocations, "revocations", o.Revocations, "how many revocations for each disturbance")
	flags.DurationVar(&o.Every, "every", o.Every, "time from one revocation to the next")
	flags.DurationVar(&o.Away, "away", o.Away, "how long a subscriber is gone")
	flags.DurationVar(&o.Quiet, "quiet", o.Quiet, "how long after the last revocation a key that is still accepted counts as missed")
	out := flags.String("out", "", "document to write the section into (default: standard output)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.Progress = os.Stderr
	if o.Self, err = os.Executable(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ksloss")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.Bin, err = cluster.Build(ctx, dir, false); err != nil {
		return err
	}
	report, err := loss.Run(ctx, o)
	if err != nil {
		return err
	}
	report.Command = strings.TrimSpace("go run ./bench/loss/cmd " + strings.Join(args, " "))
	return errors.Join(evidence.Write(*out, "loss", report.Markdown()), report.Judge())
}
