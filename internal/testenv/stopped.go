package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// AwaitStopped waits until processes that were sent SIGSTOP stand still: one thread of
// each takes the signal, when its turn comes, and until then the others go on. A process that has
// ended stands still, too.
func AwaitStopped(pids ...int) error {
	for _, pid := range pids {
		if err := poll(10*time.Second, func() (bool, error) { return stopped(pid) }); err != nil {
			return fmt.Errorf("process %d does not stand still: %w", pid, err)
		}
	}
	return nil
}

// stopped reports whether no thread of a process can run.
func stopped(pid int) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		// The state is the first letter after the name, which is in parentheses and may
		// hold any others: proc_pid_stat(5). T is stopped, Z and X have ended.
		at := strings.LastIndex(string(text), ") ")
		if at < 0 || !strings.ContainsRune("TZX", rune(text[at+len(") ")])) {
			return false, nil
		}
	}
	return true, nil
}
