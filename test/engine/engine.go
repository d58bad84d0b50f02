// Package engine gives tests a Docker engine: the one that the program docker reaches,
// or a private one, which needs root and Debian's docker.io. A private engine has its
// own folders, socket and network: nothing of the machine is changed, and nothing
// outside can be reached from its containers. No registry is asked.
package engine

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Engine is a Docker engine, reached with the program docker.
type Engine struct {
	t      *testing.T
	docker string // the program
	host   string // DOCKER_HOST; empty for docker's own choice
	pid    int    // of a private engine, in whose network the published ports are
}

// client returns a docker that can speak to BuildKit: with the plug-in buildx, or of
// a version that did without.
func client(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"docker", "/usr/bin/docker"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if exec.CommandContext(t.Context(), path, "buildx", "version").Run() == nil {
			return path
		}
		out, err := exec.CommandContext(t.Context(), path, "--version").Output()
		if err == nil && strings.HasPrefix(string(out), "Docker version 20.") {
			return path
		}
	}
	t.Fatal("no docker with buildx is installed (Debian: docker.io)")
	return ""
}

// New returns the engine that answers, or starts one for the time of the test.
func New(t *testing.T) *Engine {
	t.Helper()
	e := &Engine{t: t, docker: client(t)}
	if _, err := e.Try("info", "--format", "{{.ServerVersion}}"); err == nil {
		return e
	}
	return start(t, e.docker)
}

// keeper runs dockerd until its standard input ends, as it also does when the test is
// killed, and then removes what is left: containers end with their engine.
const keeper = `
dir=$1; shift
ip link set lo up || exit 1
dockerd "$@" &
read -r _
kill $!
wait
rm -rf -- "$dir"
`

// start starts dockerd in a network of its own.
func start(t *testing.T, docker string) *Engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "ksdocker")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", keeper, "keysidecar-test-engine", dir,
		"--host=unix://"+socket, "--data-root="+dir+"/data", "--exec-root="+dir+"/exec", "--pidfile="+dir+"/pid", "--log-level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWNET}
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("no engine answers, and none can be started: %v", err)
	}
	t.Cleanup(func() {
		_ = end.Close()
		_ = cmd.Wait()
	})
	e := &Engine{t: t, docker: docker, host: "unix://" + socket, pid: cmd.Process.Pid}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		out, err := e.Try("info", "--format", "{{.ServerVersion}} ({{.Driver}})")
		if err == nil {
			t.Logf("started Docker %s", strings.TrimSpace(out))
			return e
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("dockerd does not answer: %v\n%s", err, text)
		}
	}
}

// Env is the environment in which docker, and docker-compose, reach this engine.
func (e *Engine) Env() []string {
	env := append(os.Environ(), "DOCKER_BUILDKIT=1", "PATH="+filepath.Dir(e.docker)+":"+os.Getenv("PATH"))
	if e.host != "" {
		env = append(env, "DOCKER_HOST="+e.host)
	}
	return env
}

// Command is docker with these arguments, not started yet.
func (e *Engine) Command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), e.docker, args...)
	cmd.Env = e.Env()
	return cmd
}

// Try runs docker and returns what it printed to its standard output.
func (e *Engine) Try(args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := e.Command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("docker %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// Must is Try, and the end of the test if it fails.
func (e *Engine) Must(args ...string) string {
	e.t.Helper()
	out, err := e.Try(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// Dial connects to an address as the engine sees it: a published port of a private
// engine is there, and not on this machine.
func (e *Engine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if e.pid == 0 {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is never unlocked, so it ends with the goroutine: nothing else
		// runs in the engine's network.
		runtime.LockOSThread()
		r := result{err: enterNetwork(e.pid)}
		if r.err == nil {
			r.conn, r.err = new(net.Dialer).DialContext(ctx, network, address)
		}
		done <- r
	}()
	r := <-done
	return r.conn, r.err
}

// enterNetwork moves this thread into a process's network.
func enterNetwork(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the engine's network: %w", err)
	}
	return nil
}
