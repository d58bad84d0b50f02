// Command cmd runs the fault suite for as long as wanted and writes what it found
// into a document of evidence.
//
//	go run ./test/faults/cmd -duration 30m -seed 7 -out docs/evidence.md
//
// Other modes write sections of their own: -no-broker, -receipts, -soak.
// The exit status is 1 if a promise or a figure was missed.
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
	"time"

	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/faults"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type settings struct {
	duration                   time.Duration
	seed                       uint64
	out, keep                  string
	sidecars                   int
	withoutBroker, soak, wants bool
	rate, revoke               float64
	receiptShare               float64
}

func run(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.DurationVar(&s.duration, "duration", 5*time.Minute, "how long to run")
	flags.Uint64Var(&s.seed, "seed", 1, "what is drawn at random; the same seed draws the same faults")
	flags.StringVar(&s.out, "out", "", "document to write the section into (default: standard output)")
	flags.StringVar(&s.keep, "keep", "", "existing directory to keep the history in (default: none is kept unless something fails)")
	flags.IntVar(&s.sidecars, "sidecars", 0, "number of sidecars in the modes without random faults (default: 20 for -receipts, else 6)")
	flags.Float64Var(&s.rate, "rate", 1000, "background requests a second for each sidecar")
	flags.Float64Var(&s.revoke, "revoke", 30, "revocations a second")
	flags.Float64Var(&s.receiptShare, "ask-receipts", 0.5, "share of the revocations that a receipt is asked for")
	flags.BoolVar(&s.withoutBroker, "no-broker", false, "the broker away the whole run")
	flags.BoolVar(&s.wants, "receipts", false, "measure receipts, healthy and with a sidecar that stands still")
	flags.BoolVar(&s.soak, "soak", false, "load without faults, and what the sidecars use")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, clean, err := workDir(s.keep)
	if err != nil {
		return err
	}
	begun := time.Now()
	o := faults.Options{
		Dir: dir, Seed: s.seed, Duration: s.duration, Promise: faults.DefaultPromise(), Fleet: faults.Fleet(), Kinds: faults.Kinds(), AtOnce: 3,
		Rate: s.rate, Revocations: s.revoke, Receipts: s.receiptShare, Command: "go run ./test/faults/cmd " + strings.Join(args, " "),
		Log: func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, "%8s  %s\n", time.Since(begun).Round(time.Millisecond), fmt.Sprintf(format, args...))
		},
	}
	name, section, err := s.mode(ctx, o)
	if section != "" {
		err = errors.Join(err, evidence.Write(s.out, name, section))
	}
	if err != nil {
		return err
	}
	return clean()
}

func (s *settings) mode(ctx context.Context, o faults.Options) (name, section string, err error) {
	plain := func(n int) {
		if s.sidecars > 0 {
			n = s.sidecars
		}
		o.Fleet = faults.Plain(n)
	}
	switch {
	case s.withoutBroker:
		plain(6)
		section, err = faults.WithoutBroker(ctx, o)
		return "no-broker", section, err
	case s.wants:
		plain(20)
		section, err = faults.Receipts(ctx, o)
		return "receipts", section, err
	case s.soak:
		plain(6)
		for i := range o.Fleet {
			o.Fleet[i].Env = append(o.Fleet[i].Env, fmt.Sprintf("KEYSIDECAR_CACHE_CAPACITY=%d", faults.SoakCapacity))
		}
		section, err = faults.Soak(ctx, o)
		return "soak", section, err
	}
	res, err := faults.Run(ctx, o)
	if err != nil {
		return "", "", err
	}
	report, err := faults.Judge(res.History)
	if err != nil {
		return "", "", err
	}
	var b strings.Builder
	err = errors.Join(report.Err(), res.Markdown(&b, o, report))
	return fmt.Sprintf("chaos-%d", s.seed), b.String(), err
}

// workDir makes a directory for the history, and says how to remove it.
func workDir(keep string) (dir string, clean func() error, err error) {
	if keep != "" {
		return keep, func() error { return nil }, nil
	}
	dir, err = os.MkdirTemp("", "ksfaults")
	return dir, func() error { return os.RemoveAll(dir) }, err
}
