package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// scriptLimit ends scripts that hang, with what they printed.
const scriptLimit = time.Minute

// gorace takes away the second for which a program built with the race detector
// sleeps at its end.
const gorace = "atexit_sleep_ms=0"

// server is the database of the scripts in testdata/postgres.
var server *testenv.Postgres

func TestMain(m *testing.M) {
	testscript.Main(withPostgres{m}, map[string]func(){"keysidecar": main})
}

// withPostgres runs the tests beside a server of their own. The scripts' commands
// are this very program, started again, and never get here.
type withPostgres struct{ m *testing.M }

func (w withPostgres) Run() int {
	pg, err := testenv.StartPostgresMain()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server = pg
	code := w.m.Run()
	if err := pg.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// commands are what the scripts can do beyond testscript's own.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	// sigterm asks every program in the background to stop, as Kubernetes does.
	"sigterm": func(ts *testscript.TestScript, _ bool, _ []string) {
		for _, c := range ts.BackgroundCmds() {
			ts.Check(c.Process.Signal(syscall.SIGTERM))
		}
	},
	// psql runs SQL in the script's database, which is what an application does.
	"psql": func(ts *testscript.TestScript, neg bool, args []string) {
		out, err := server.Psql(ts.Getenv("DATABASE"), args[0])
		fmt.Fprint(ts.Stdout(), out)
		if (err != nil) != neg {
			ts.Fatalf("psql: %v", err)
		}
	},
}

// Each script under testdata/script shows one thing that people do, and needs
// nothing but the program.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:      "testdata/script",
		Cmds:     commands,
		Deadline: time.Now().Add(scriptLimit),
		Setup: func(e *testscript.Env) error {
			repository, err := filepath.Abs("../..")
			e.Setenv("REPOSITORY", repository)
			e.Setenv("GORACE", gorace)
			return err
		},
	})
}

// Each script under testdata/postgres has an empty database of its own.
func TestPostgresScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:      "testdata/postgres",
		Cmds:     commands,
		Deadline: time.Now().Add(scriptLimit),
		Setup: func(e *testscript.Env) error {
			name := server.NewDatabaseFrom(e.T().(testing.TB), "") //nolint:forcetypeassert // testscript's T is the subtest
			e.Setenv("DATABASE", name)
			e.Setenv("GORACE", gorace)
			e.Setenv("KEYSIDECAR_STORE_POSTGRES_DSN", server.DSN(name))
			return nil
		},
	})
}
