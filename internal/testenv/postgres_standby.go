package testenv

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// NewStandby starts a hot standby that streams from p, asynchronously unless the
// primary's synchronous_standby_names says otherwise. It has p's options and a
// workspace of its own; Close ends it.
//
// To make it lose the primary's newest commits, empty its primary_conninfo (ALTER
// SYSTEM and pg_reload_conf) before they are made: what a paused standby has not read yet is still in its socket's buffer.
func (p *Postgres) NewStandby() (*Postgres, error) {
	s, err := newPostgres(p.bin, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range p.conf {
		if name != "port" && name != "unix_socket_directories" {
			s.conf[name] = value
		}
	}
	_, err = s.ws.run(context.Background(), command{
		path: filepath.Join(p.bin, "pg_basebackup"),
		args: []string{"--dbname", p.DSN("postgres"), "--pgdata", s.dataDir(), "--write-recovery-conf", "--checkpoint", "fast", "--wal-method", "stream", "--no-sync"},
	})
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a standby: %w", err), s.Close())
	}
	return s, nil
}

// Promote makes a standby a primary, on a new timeline, and waits until it is one.
func (p *Postgres) Promote() error {
	if err := p.exec("SELECT pg_promote()"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return p.process.ready(pgStart, func() error {
		return p.exec("DO $$ BEGIN IF pg_is_in_recovery() THEN RAISE 'still in recovery'; END IF; END $$")
	})
}
