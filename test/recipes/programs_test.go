package recipes

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// examples is the folder of the programs.
const examples = "../../examples"

// program is one of the examples that answer for key ids: each takes an address
// and key ids, or lines of standard input, and prints a line for each.
type program struct {
	name string
	// file is where its reader begins, below examples.
	file string
	// loopback: it is given http://host:port, otherwise the path of a socket.
	loopback bool
	// whole: its time limit is for the whole exchange, and not for each wait.
	whole bool
	argv  []string
}

func (p program) transport() string {
	if p.loopback {
		return "loopback"
	}
	return "Unix socket"
}

// programs compiles and installs what must be, below dir.
func programs(ctx context.Context, dir string) ([]program, error) {
	var errs [3]error
	var all sync.WaitGroup
	all.Go(func() { errs[0] = run(ctx, "", "go", "build", "-o", filepath.Join(dir, "ask"), examples+"/go") })
	all.Go(func() {
		sources, err := filepath.Glob(examples + "/java/*.java")
		if err == nil {
			err = run(ctx, "", "javac", append([]string{"-Xlint:all", "-Werror", "--release", "17", "-d", filepath.Join(dir, "java")}, sources...)...)
		}
		errs[1] = err
	})
	all.Go(func() {
		node := filepath.Join(dir, "node")
		if errs[2] = os.CopyFS(node, os.DirFS(examples+"/node")); errs[2] == nil {
			errs[2] = run(ctx, node, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		}
	})
	all.Wait()
	classes := []string{"java", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(dir, "java")}
	return []program{
		{name: "curl", file: "curl/may-use.sh", whole: true, argv: []string{examples + "/curl/may-use.sh"}},
		{name: "Go", file: "go/main.go", whole: true, argv: []string{filepath.Join(dir, "ask")}},
		{name: "Node `http`", file: "node/http.mjs", whole: true, argv: []string{"node", filepath.Join(dir, "node/http.mjs")}},
		{name: "Node undici", file: "node/undici.mjs", whole: true, argv: []string{"node", filepath.Join(dir, "node/undici.mjs")}},
		// Debian's, for which Debian has httpx.
		{name: "Python", file: "python/may_use.py", argv: []string{"/usr/bin/python3", examples + "/python/may_use.py"}},
		{name: "Python httpx", file: "python/may_use_httpx.py", argv: []string{"/usr/bin/python3", examples + "/python/may_use_httpx.py"}},
		{name: "Java `java.net.http`", file: "java/OverLoopback.java", loopback: true, whole: true, argv: append(classes[:len(classes):len(classes)], "OverLoopback")},
		{name: "Java `SocketChannel`", file: "java/OverUnixSocket.java", whole: true, argv: append(classes[:len(classes):len(classes)], "OverUnixSocket")},
	}, errors.Join(errs[:]...)
}

// run runs a program to its end.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w (make deps installs what is missing)\n%s", name, args[0], err, out)
	}
	return nil
}

// place is where a program finds a sidecar.
type place struct{ socket, tcp string }

func (p program) command(ctx context.Context, at place, args ...string) *exec.Cmd {
	address := at.socket
	if p.loopback {
		address = "http://" + at.tcp
	}
	argv := append(append(p.argv[1:len(p.argv):len(p.argv)], address), args...)
	cmd := exec.CommandContext(ctx, p.argv[0], argv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// tell asks about key ids as arguments, and returns a line for each and the exit
// status.
func (p program) tell(t *testing.T, at place, keyIDs ...string) (lines []string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := p.command(ctx, at, keyIDs...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	lines = strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(keyIDs) {
		t.Fatalf("%d key ids, %d lines:\n%s\n%s", len(keyIDs), len(lines), out, &stderr)
	}
	return lines, cmd.ProcessState.ExitCode()
}

// session is a program that answers lines of its standard input.
type session struct {
	in    io.WriteCloser
	lines chan string
}

// open starts a session that ends with the test.
func (p program) open(t *testing.T, at place) *session {
	t.Helper()
	cmd := p.command(t.Context(), at)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &session{in: in, lines: make(chan string)}
	ended := make(chan struct{})
	go func() {
		defer close(s.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case s.lines <- lines.Text():
			case <-ended:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(ended)
		_ = in.Close()
		for range s.lines {
		}
		_ = cmd.Wait()
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("%s: %s", p.name, &stderr)
		}
	})
	return s
}

// ask asks about one key id. It fails the test, and returns an empty line, if there is
// no answer.
func (s *session) ask(t *testing.T, keyID string) string {
	t.Helper()
	if _, err := io.WriteString(s.in, keyID+"\n"); err != nil {
		t.Error(err)
		return ""
	}
	select {
	case line, ok := <-s.lines:
		if !ok {
			t.Error("the program ended")
		}
		return line
	case <-time.After(30 * time.Second):
		t.Errorf("no answer about %q", keyID)
		return ""
	}
}
