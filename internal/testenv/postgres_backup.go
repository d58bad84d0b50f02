package testenv

import (
	"context"
	"errors"
	"fmt"
)

// errNotStopped is what a copy of a running server's files would be worth.
var errNotStopped = errors.New("the server must be stopped")

// Backup copies the files of the stopped server aside, in place of an earlier
// copy.
func (p *Postgres) Backup() error { return p.replaceDir(p.ws.path("backup"), p.dataDir()) }

// Restore brings the last Backup's files back. The server is stopped before and
// after; once started it goes on where it was at the backup, on the same timeline.
func (p *Postgres) Restore() error { return p.replaceDir(p.dataDir(), p.ws.path("backup")) }

func (p *Postgres) replaceDir(to, from string) error {
	if p.Running() {
		return fmt.Errorf("copy %s: %w", from, errNotStopped)
	}
	ctx := context.Background()
	if _, err := p.ws.run(ctx, command{path: "rm", args: []string{"-rf", "--", to}}); err != nil {
		return err
	}
	_, err := p.ws.run(ctx, command{path: "cp", args: []string{"-a", "--", from, to}})
	return err
}
