package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// The ways to get servers: the values of -servers.
const (
	wayAuto    = "auto"
	wayCompose = "compose"
	wayPrivate = "private"
)

// servers starts Postgres and RabbitMQ the way that was asked for, and says which
// way that is.
func (d *demo) servers(ctx context.Context) (cluster.Servers, error) {
	if d.way == wayPrivate {
		d.note("privately, from this machine's programs, as asked (SERVERS=private)")
		return d.private(ctx)
	}
	tool, err := findCompose(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && d.way == wayCompose:
		return nil, fmt.Errorf("%w\n`make demo SERVERS=private` does without", err)
	case err != nil:
		d.note("privately, from this machine's programs: %v", err)
		d.note("(SERVERS=compose insists on containers)")
		return d.private(ctx)
	}
	d.note("in containers, by `%s` (SERVERS=private does without)", strings.Join(tool, " "))
	servers, err := d.containers(ctx, tool)
	switch {
	case err == nil:
		return servers, nil
	case ctx.Err() != nil:
		return nil, err
	case d.way == wayCompose:
		return nil, fmt.Errorf("%w\n`make demo SERVERS=private` does without", err)
	}
	// Nobody asked for containers, so nobody need go without the demo. Neither was
	// anybody told that packages would be installed: only what is there is used.
	d.note("that failed: %v", err)
	d.note("privately, then, from this machine's programs")
	private, privateErr := cluster.StartPrivate()
	if privateErr != nil {
		return nil, fmt.Errorf("containers: %w\nprivately: %w\n`make demo SERVERS=private` installs what is missing", err, privateErr)
	}
	return private, nil
}

// private starts private servers, after `make deps`.
func (d *demo) private(ctx context.Context) (cluster.Servers, error) {
	deps := exec.CommandContext(ctx, "scripts/deps.sh")
	deps.Stdout, deps.Stderr = d.out, d.out
	deps.Cancel = func() error { return deps.Process.Signal(syscall.SIGTERM) } // it puts back what it changed
	if err := deps.Run(); err != nil {
		return nil, fmt.Errorf("make deps: %w", err)
	}
	return cluster.StartPrivate()
}

// containers starts both servers by compose. What it started it also ends if it fails.
func (d *demo) containers(ctx context.Context, tool []string) (_ cluster.Servers, err error) {
	c, err := newCompose(tool)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			if closeErr := c.Close(); closeErr != nil {
				err = fmt.Errorf("%w\n%w", err, closeErr)
			}
		}
	}()
	d.note("fetching the images that are not here yet")
	if err := c.create(ctx); err != nil {
		return nil, err
	}
	d.note("waiting for both to answer")
	return c, c.start(ctx)
}
