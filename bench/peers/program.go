package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/keysidecar/keysidecar/test/proc"
)

// Program is a server's process. It ends with Close, or with this process.
type Program struct {
	// Dir is its own folder, removed by Close.
	Dir  string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

const (
	startLimit = 20 * time.Second
	stopLimit  = 10 * time.Second
)

// StartProgram starts a program in dir and waits until ready returns nil.
func StartProgram(ctx context.Context, dir, path string, args []string, ready func() error) (*Program, error) {
	p := &Program{Dir: dir, log: filepath.Join(dir, "log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	// SIGTERM, and not SIGKILL, so that nginx ends its workers.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started := make(chan error, 1)
	go func() {
		// The signal follows the thread that forked: it stays until the process ended.
		runtime.LockOSThread()
		started <- p.cmd.Start()
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	if err := p.await(ctx, ready); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w\n%s", path, err, p.output()), p.Close())
	}
	return p, nil
}

func (p *Program) await(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w (%w)", err, ctx.Err())
		case <-tick.C:
		}
	}
}

func (p *Program) output() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// pids are the program's processes.
func (p *Program) pids() ([]int, error) { return proc.Family(p.cmd.Process.Pid) }

// Kill ends the program without warning and leaves its folder.
func (p *Program) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	return err
}

// Close ends the program and removes its folder.
func (p *Program) Close() error {
	var err error
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		select {
		case <-p.done:
		case <-time.After(stopLimit):
			err = errors.Join(fmt.Errorf("%s did not end within %v", p.cmd.Path, stopLimit), p.cmd.Process.Kill())
			<-p.done
		}
	}
	return errors.Join(err, os.RemoveAll(p.Dir))
}

// find looks for a server program that the system's packages bring.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := "/usr/sbin/" + name
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("there is no %s: run scripts/deps.sh bench, or install it", name)
	}
	return path, nil
}
