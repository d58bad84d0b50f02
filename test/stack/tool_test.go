//go:build compose

package stack

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/test/engine"
)

// compose runs docker-compose, or the command that COMPOSE names, on one project.
type compose struct {
	t    *testing.T
	e    *engine.Engine
	args []string
	env  []string
}

func (c *compose) try(args ...string) (string, error) {
	line := slices.Concat(strings.Fields(cmp.Or(os.Getenv("COMPOSE"), "docker-compose")), c.args, args)
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(context.Background(), line[0], line[1:]...)
	cmd.Env = append(c.e.Env(), c.env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(line, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (c *compose) must(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
