package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// leashScript waits until its standard input ends. Unless it was told "done"
// first, it then runs its arguments, more than once: an engine may still be
// finishing what it was asked for when the program died.
const leashScript = `
read -r word
[ "$word" = done ] && exit 0
for pause in 1 5 20; do
	"$@"
	sleep "$pause"
done
"$@"
`

// leash is a small shell process that runs a command when this process dies
// without warning, so that a killed demo leaves nothing behind either.
type leash struct {
	cmd *exec.Cmd
	end *os.File
}

func newLeash(env, command []string) (*leash, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the watchdog's pipe: %w", err)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", leashScript, "keysidecar-demo-watchdog"}, command...)...)
	cmd.Env, cmd.Stdin = env, read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C must not reach it
	if err := errors.Join(cmd.Start(), read.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start the watchdog: %w", err), write.Close())
	}
	return &leash{cmd: cmd, end: write}, nil
}

// dismiss ends the watchdog without its command.
func (l *leash) dismiss() error {
	_, err := l.end.WriteString("done\n")
	return errors.Join(err, l.slip(), l.cmd.Wait())
}

// slip lets the watchdog go, to run its command now and outlive this process.
func (l *leash) slip() error { return l.end.Close() }
