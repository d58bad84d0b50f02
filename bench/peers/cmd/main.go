// Command cmd measures a look-up of the sidecar beside its peers, prints what it
// found in Markdown or writes it into a document, with a plot beside that. It ends
// with status 1 if a promised ratio was missed.
//
//	go run ./bench/peers/cmd -out docs/benchmarks.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keysidecar/keysidecar/bench/peers"
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

// plot is the file beside the document.
const plot = "benchmarks.svg"

func run(ctx context.Context, args []string) (err error) {
	if len(args) > 0 && args[0] == peers.BareCommand {
		return peers.ServeBare(ctx, args[1:])
	}
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "only see that everything works; the figures say little")
	rounds := flags.Int("rounds", 0, "how often each contender has its turn (default 5; quick: 1)")
	seconds := flags.Float64("seconds", 0, "how long a turn lasts (default 3; quick: 0.3)")
	keys := flags.Int("keys", 0, "how many keys there are (default 100000; quick: 2000)")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the order and of the keys")
	out := flags.String("out", "", "document to write the section into (default: standard output)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o := peers.Full()
	if *quick {
		o = peers.Quick()
	}
	if *rounds > 0 {
		o.Rounds = *rounds
	}
	if *seconds > 0 {
		o.Span = time.Duration(*seconds * float64(time.Second))
	}
	if *keys > 0 {
		o.Keys = *keys
	}
	o.Progress, o.Seed = os.Stderr, *seed
	if o.Self, err = os.Executable(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kspeers")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.Bin, err = cluster.Build(ctx, dir, false); err != nil {
		return err
	}
	report, err := peers.Run(ctx, o)
	if err != nil {
		return err
	}
	report.Command = strings.TrimSpace("go run ./bench/peers/cmd " + strings.Join(args, " "))
	if *out != "" {
		report.Plot = plot
		err = os.WriteFile(filepath.Join(filepath.Dir(*out), plot), []byte(report.SVG()), 0o644)
	}
	return errors.Join(evidence.Write(*out, "peers", report.Markdown()), err, report.Judge())
}
