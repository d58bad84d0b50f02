package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
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

// postgres starts the server of the scripts in testdata/postgres when the first
// of them needs it.
var postgres = sync.OnceValues(func() (*testenv.Postgres, error) { return testenv.StartPostgresMain() })

var postgresStarted atomic.Bool

func startPostgres(t testing.TB) *testenv.Postgres {
	t.Helper()
	postgresStarted.Store(true)
	pg, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

func TestMain(m *testing.M) {
	testscript.Main(endingPostgres{m}, map[string]func(){"keysidecar": main})
}

// endingPostgres ends the server after the tests, if it was started. The scripts'
// commands are this very program, started again, and never get here.
type endingPostgres struct{ m *testing.M }

func (e endingPostgres) Run() int {
	code := e.m.Run()
	if !postgresStarted.Load() {
		return code
	}
	if pg, err := postgres(); err == nil {
		if err := pg.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// commands are what the scripts can do beyond testscript's own.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	// sigterm asks every program in the background to stop, as Kubernetes does.
	"sigterm": func(ts *testscript.TestScript, _ bool, _ []string) { signalAll(ts, syscall.SIGTERM) },
	"sighup":  func(ts *testscript.TestScript, _ bool, _ []string) { signalAll(ts, syscall.SIGHUP) },
	// psql runs SQL in the script's database, which is what an application does.
	"psql": func(ts *testscript.TestScript, neg bool, args []string) {
		pg, err := postgres()
		ts.Check(err)
		out, err := pg.Psql(ts.Getenv("DATABASE"), args[0])
		fmt.Fprint(ts.Stdout(), out)
		if (err != nil) != neg {
			ts.Fatalf("psql: %v", err)
		}
	},
}

func signalAll(ts *testscript.TestScript, sig syscall.Signal) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(sig))
	}
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
			pg := startPostgres(t)
			name := pg.NewDatabaseFrom(t, "")
			e.Setenv("DATABASE", name)
			e.Setenv("GORACE", gorace)
			e.Setenv("KEYSIDECAR_STORE_POSTGRES_DSN", pg.DSN(name))
			return nil
		},
	})
}
