package testenv_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

func ask(t *testing.T, dsn string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	return conn.Ping(ctx)
}

func TestPostgresStopsKillsPausesAndComesBack(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.WithFsync(), testenv.WithMaxConnections(20))
	dsn := pg.NewDatabase(t)
	steps := []struct {
		name    string
		do      func() error
		answers bool
		undo    func() error
	}{
		{"stop", pg.Stop, false, pg.Start},
		{"kill", pg.Kill, false, pg.Start},
		{"pause", pg.Pause, false, pg.Resume},
	}
	for _, s := range steps {
		if err := ask(t, dsn); err != nil {
			t.Fatalf("before %s: %v", s.name, err)
		}
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if err := ask(t, dsn); err == nil {
			t.Fatalf("the server answers after %s", s.name)
		}
		if err := s.undo(); err != nil {
			t.Fatalf("after %s: %v", s.name, err)
		}
	}
	for name, dsn := range map[string]string{"tcp": dsn, "socket": pg.SocketDSN("postgres")} {
		if err := ask(t, dsn); err != nil {
			t.Errorf("over %s: %v", name, err)
		}
	}
	if out, err := pg.Psql("postgres", "\\pset tuples_only\nSHOW fsync; SHOW max_connections; SHOW wal_level;"); err != nil || out != " on\n\n 20\n\n logical\n\n" {
		t.Errorf("settings %q, %v", out, err)
	}
}

func TestStandbyFollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	primary := testenv.StartPostgres(t)
	standby := primary.StartStandby(t)
	if err := primary.CreateDatabase("late", ""); err != nil {
		t.Fatal(err)
	}
	follows := func() bool { return ask(t, standby.DSN("late")) == nil }
	for deadline := time.After(20 * time.Second); !follows(); {
		select {
		case <-deadline:
			t.Fatal("the standby does not follow: " + standby.Log())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := standby.CreateDatabase("x", ""); err == nil {
		t.Error("the standby takes writes")
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	if err := standby.CreateDatabase("x", ""); err != nil {
		t.Error(err)
	}
}

func TestRestoredServerStillHasWhatCameAfterItsBackup(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t)
	step := func(name string, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	step("create", func() error { return pg.CreateDatabase("before", "") })
	if pg.Backup() == nil {
		t.Fatal("a running server was copied")
	}
	for _, f := range []func() error{pg.Stop, pg.Backup, pg.Start, func() error { return pg.CreateDatabase("after", "") }, pg.Kill, pg.Restore, pg.Start} {
		step("step", f)
	}
	if err := ask(t, pg.DSN("before")); err != nil {
		t.Error(err)
	}
	if ask(t, pg.DSN("after")) == nil {
		t.Error("what came after the backup is there")
	}
}

// A test binary can die without a chance to clean up: a panic in a goroutine,
// a time-out of go test, a SIGKILL.
func TestServersEndWithTheProcessThatStartedThem(t *testing.T) {
	t.Parallel()
	const childEnv = "KEYSIDECAR_TESTENV_CHILD"
	if os.Getenv(childEnv) != "" {
		pg := testenv.StartPostgres(t)
		fmt.Printf("\n%s\n", pg.SocketDir())
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.timeout", "60s")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if filepath.IsAbs(lines.Text()) {
			dir = lines.Text()
			break
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); dir == "" || err != nil {
		t.Fatalf("no server in %q: %v", dir, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	deadline := time.After(20 * time.Second)
	for {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("%s is still there", dir)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if left := testenv.ProcessesIn(dir); len(left) > 0 {
		t.Fatalf("processes %v outlived the test", left)
	}
}
