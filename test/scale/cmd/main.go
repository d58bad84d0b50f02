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
	"runtime"
	"slices"
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
	burst := flags.Int("burst", 0, "only revoke so many keys in one transaction, and watch a fleet of one sidecar and one of two")
	persistent := flags.Bool("persistent", false, "publish messages that the broker keeps on disk (relay.persistent), in the bare chain too")
	memory := flags.String("memory", "", "only measure the memory of one sidecar with these numbers of keys, ascending, comma-separated")
	over := flags.Duration("rest", 30*time.Second, "how long to watch a fleet at rest")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fleets, err := numbers(*sizes, 300)
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
	if *memory != "" {
		return runMemory(ctx, bin, *memory, *out, args)
	}
	if *burst > 0 {
		return runBurst(ctx, bin, *burst, *out, args)
	}
	r := scale.Report{Command: "go run ./test/scale/cmd " + strings.Join(args, " ")}
	for _, n := range fleets {
		fmt.Fprintf(os.Stderr, "%s  %d sidecars\n", time.Now().Format(time.TimeOnly), n)
		if err := measure(ctx, &r, bin, self, n, *denyOnly, *persistent, *over); err != nil {
			return fmt.Errorf("%d sidecars: %w", n, err)
		}
	}
	name := "scale-" + strings.ReplaceAll(*sizes, ",", "-")
	r.Title = "Fleets on one machine: " + *sizes
	if *denyOnly {
		name = "healthy"
		r.Title = "Healthy: from the commit to the last refusal"
		if *persistent {
			name, r.Title = "healthy-persistent", r.Title+", messages on disk"
		}
	}
	return errors.Join(evidence.Write(*out, name, r.Markdown()), r.Judge())
}

func runMemory(ctx context.Context, bin, list, out string, args []string) error {
	keys, err := numbers(list, 5_000_000)
	if err != nil {
		return err
	}
	r := scale.Report{Title: "Keys and memory", Command: "go run ./test/scale/cmd " + strings.Join(args, " ")}
	if r.Memory, r.Machine, err = scale.MeasureMemory(ctx, bin, keys); err != nil {
		return err
	}
	return evidence.Write(out, "memory", r.Markdown())
}

// burstFleets are the sizes of fleets that burst: one sidecar, which has the machine for
// itself, and two that share it.
var burstFleets = []int{1, 2}

func runBurst(ctx context.Context, bin string, keys int, out string, args []string) error {
	r := scale.Report{Title: "A burst of revocations", Command: "go run ./test/scale/cmd " + strings.Join(args, " ")}
	for _, n := range burstFleets {
		if err := burst(ctx, &r, bin, n, keys); err != nil {
			return fmt.Errorf("%d sidecars: %w", n, err)
		}
	}
	return evidence.Write(out, "burst", r.Markdown())
}

func burst(ctx context.Context, r *scale.Report, bin string, n, keys int) (err error) {
	f, err := scale.Start(ctx, bin, scale.Size{Sidecars: n, Keys: keys + 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if r.Machine == nil {
		if r.Machine, err = f.Machine(ctx); err != nil {
			return err
		}
	}
	b, err := f.Burst(ctx, keys)
	r.Bursts = append(r.Bursts, b)
	return err
}

func measure(ctx context.Context, r *scale.Report, bin, self string, n int, denyOnly, persistent bool, over time.Duration) (err error) {
	f, err := scale.Start(ctx, bin, scale.Size{Sidecars: n, Persistent: persistent})
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
	// One at a time is what each sees that has a machine of its own. A Deployment restarts
	// a quarter of its pods at a time, by default, but on as many machines; more than a few
	// processes for each core only wait for each other.
	for _, atOnce := range slices.Compact([]int{1, max(1, min(n/4, 4*runtime.NumCPU()))}) {
		rollout, err := f.Rollout(ctx, atOnce)
		if err != nil {
			return err
		}
		r.Rollouts = append(r.Rollouts, rollout)
	}
	return nil
}

func numbers(list string, most int) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("%q is not a number from 1 to %d", text, most)
		}
		all = append(all, n)
	}
	return all, nil
}
