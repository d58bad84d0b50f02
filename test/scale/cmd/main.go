// Command cmd measures fleets of real sidecars on this machine, and prints what it
// found in Markdown, or writes it into a document.
//
//	go run ./test/scale/cmd -n 1,10,50
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/scale"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == scale.ReceiverCommand {
		return scale.Receive(os.Getenv("BARE_URL"), args[1], os.Stdin, os.Stdout)
	}
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	sizes := flags.String("n", "1,10,50", "sizes of fleets, comma-separated")
	out := flags.String("out", "", "document to write the section into (default: standard output)")
	denyOnly := flags.Bool("deny", false, "only measure the time from the commit to the last refusal, and judge it by what is promised")
	over := flags.Duration("rest", 30*time.Second, "how long to watch a fleet at rest")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fleets, err := numbers(*sizes)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ksscale")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin, err := cluster.Build(ctx, dir, false)
	if err != nil {
		return err
	}
	r := scale.Report{Command: "go run ./test/scale/cmd " + strings.Join(args, " ")}
	for _, n := range fleets {
		fmt.Fprintf(os.Stderr, "%s  %d sidecars\n", time.Now().Format(time.TimeOnly), n)
		if err := measure(ctx, &r, bin, self, n, *denyOnly, *over); err != nil {
			return fmt.Errorf("%d sidecars: %w", n, err)
		}
	}
	name := "scale"
	if *denyOnly {
		name = "healthy"
	}
	section := r.Markdown(*denyOnly)
	if *out == "" {
		fmt.Print(section)
	} else if err := evidence.WriteSection(*out, name, section); err != nil {
		return err
	}
	return r.Judge()
}

func measure(ctx context.Context, r *scale.Report, bin, self string, n int, denyOnly bool, over time.Duration) (err error) {
	f, err := scale.Start(ctx, bin, n)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, f.Logs())
		}
		err = errors.Join(err, f.Close())
	}()
	if r.Machine == nil {
		if r.Machine, err = f.Machine(ctx); err != nil {
			return err
		}
	}
	if !denyOnly {
		rest, err := f.Rest(ctx, over)
		if err != nil {
			return err
		}
		r.Rest = append(r.Rest, rest)
	}
	deny, err := f.Deny(ctx, self, scale.DefaultTurns())
	if err != nil {
		return err
	}
	r.Deny = append(r.Deny, deny)
	if denyOnly {
		return nil
	}
	// A Deployment restarts a quarter of its pods at a time, by default.
	rollout, err := f.Rollout(ctx, max(1, n/4))
	r.Rollouts = append(r.Rollouts, rollout)
	return err
}

func numbers(list string) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > 300 {
			return nil, fmt.Errorf("-n: %q is not a number of sidecars from 1 to 300", text)
		}
		all = append(all, n)
	}
	return all, nil
}
