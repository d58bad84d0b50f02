package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Tests are what a *testing.M is to Main.
type Tests interface{ Run() int }

// Main is the body of a TestMain whose tests share a cluster. start has a temporary
// folder, which is removed in the end, and until within is over; of returns what it has
// started, nil if nothing. after, if not nil, looks at the cluster when the tests have
// run. The result is the exit code. What the processes logged is printed unless all went
// well, and a data race in one of them is a failure.
func Main(tests Tests, within time.Duration, start func(ctx context.Context, dir string) error, of func() *Cluster, after func() error) (code int) {
	complain := func(what string, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, what+":", err)
			code = 1
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	dir, err := os.MkdirTemp("", "kscluster")
	if err == nil {
		defer func() { complain("remove the folder", os.RemoveAll(dir)) }()
		err = start(ctx, dir)
	}
	c := of()
	if c != nil {
		defer func() { complain("close the cluster", c.Close()) }()
	}
	complain("start", err)
	if err == nil {
		code = tests.Run()
		if after != nil {
			complain("after the tests", after())
		}
	}
	if c == nil {
		return code
	}
	logs := c.Logs()
	if strings.Contains(logs, "DATA RACE") {
		complain("the processes", errors.New("a data race, see their logs"))
	}
	if code != 0 {
		fmt.Fprintln(os.Stderr, logs)
	}
	return code
}
