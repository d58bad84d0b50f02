// Command cmd makes every search of package model, long ones too, and prints what
// was found as Markdown, or writes it into a document of evidence. It exits with 1
// unless the protocol is clean in all of them and every mutant was found. See
// `make model`.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/model"
)

func main() {
	only := flag.String("run", "", "only runs whose name contains this")
	short := flag.Bool("short", false, "only the runs that go test makes")
	out := flag.String("out", "", "document to write the section into, besides printing it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var section strings.Builder
	to := io.MultiWriter(os.Stdout, &section)
	failed, found, mutants := 0, 0, 0
	fmt.Fprint(to, "## The model\n\n    make model\n\n| search | model and flags | states | seconds | result |\n|---|---|---|---|---|\n")
	for _, r := range model.Runs {
		if ctx.Err() != nil || !strings.Contains(r.Name, *only) || (*short && r.Tier != model.Short) {
			continue
		}
		res, err := r.Do(ctx)
		verdict := "holds"
		if r.Mutant() {
			mutants++
			verdict = "found"
		}
		switch {
		case err != nil:
			failed++
			verdict = "**" + strings.ReplaceAll(strings.SplitN(err.Error(), "\n", 2)[0], "|", "\\|") + "**"
		case r.Mutant():
			found++
		}
		fmt.Fprintf(to, "| %s | %s %s | %d | %.1f | %s |\n", r.Name, r.File, r.Flags, res.States, res.Took.Seconds(), verdict)
	}
	fmt.Fprintf(to, "\nMutants found: %d/%d.\n", found, mutants)
	if *out != "" && ctx.Err() == nil {
		if err := evidence.WriteSection(*out, "model", section.String()); err != nil {
			fmt.Fprintln(os.Stderr, "model:", err)
			os.Exit(1)
		}
	}
	if failed > 0 || ctx.Err() != nil {
		fmt.Fprintf(os.Stderr, "model: %d searches did not end as they must\n", failed)
		os.Exit(1)
	}
}
