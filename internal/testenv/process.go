package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// logTail is how much of a server's log an error shows.
const logTail = 2048

// command describes a program to run in a workspace.
type command struct {
	path  string
	args  []string
	env   []string // added to the workspace's
	stdin string   // what it reads; run only
	log   string   // file in the workspace that receives what it prints; start only
}

// process is a started server program. It is reaped in the background.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed once it was reaped
	err  error         // how it ended; read after done
}

func (w *workspace) command(ctx context.Context, c command) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.path, c.args...)
	cmd.Dir = w.dir
	cmd.Env = append(append([]string(nil), w.env...), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.cred, Setpgid: true}
	return cmd
}

// run runs c to its end and returns what it printed to standard output.
func (w *workspace) run(ctx context.Context, c command) (string, error) {
	cmd := w.command(ctx, c)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes open
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return out.String(), fmt.Errorf("%s: %w\n%s\n%s", filepath.Base(c.path), err, tail(out.Bytes()), tail(errOut.Bytes()))
	}
	return out.String(), nil
}

// start starts a server program and leaves it running.
func (w *workspace) start(c command) (*process, error) {
	log, err := os.OpenFile(w.path(c.log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", c.path, err)
	}
	cmd := w.command(context.Background(), c)
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.path, err)
	}
	p := &process{cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// running reports whether the program itself has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the program to end with sig and waits for it.
func (p *process) stop(sig syscall.Signal, limit time.Duration) error {
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.cmd.Path, err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s did not stop within %v\n%s", p.cmd.Path, limit, p.logTail())
	}
}

// ready waits until probe succeeds. It gives up when the program ends.
func (p *process) ready(limit time.Duration, probe func() error) error {
	var last error
	err := poll(limit, func() (bool, error) {
		if last = probe(); last == nil {
			return true, nil
		}
		if !p.running() {
			return false, fmt.Errorf("it ended: %v", p.err)
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w (last answer: %v)\n%s", filepath.Base(p.cmd.Path), err, last, p.logTail())
	}
	return nil
}

func (p *process) logTail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return tail(text)
}

func tail(text []byte) string {
	if len(text) > logTail {
		text = text[len(text)-logTail:]
	}
	return strings.TrimSpace(string(text))
}
