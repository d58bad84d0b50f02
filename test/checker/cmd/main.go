// Command cmd judges histories of runs under load and prints what they show:
//
//	go run ./test/checker/cmd [-markdown] FILE...
//
// It exits with 0 if each shows something and no violation, 1 if there is one,
// and 2 if one shows nothing or cannot be read to its end.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/keysidecar/keysidecar/test/checker"
	"github.com/keysidecar/keysidecar/test/history"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, complaints io.Writer) int {
	flags := flag.NewFlagSet("checker", flag.ContinueOnError)
	flags.SetOutput(complaints)
	markdown := flags.Bool("markdown", false, "print Markdown")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(complaints, "name at least one history")
		return 2
	}
	worst := 0
	for _, path := range flags.Args() {
		report, err := judge(path)
		if err == nil {
			if *markdown {
				err = report.Markdown(out)
			} else {
				err = report.Text(out)
			}
		}
		switch {
		case err != nil:
			fmt.Fprintf(complaints, "%s: no claim can be made: %v\n", path, err)
			worst = 2
		case len(report.Problems) > 0:
			fmt.Fprintf(complaints, "%s: %v\n", path, report.Err())
			worst = 2
		case report.Err() != nil:
			fmt.Fprintf(complaints, "%s: %v\n", path, report.Err())
			worst = max(worst, 1)
		}
	}
	return worst
}

func judge(path string) (*checker.Report, error) {
	r, err := history.Open(path)
	if err != nil {
		return nil, err
	}
	report, err := checker.Check(r)
	return report, errors.Join(err, r.Close())
}
