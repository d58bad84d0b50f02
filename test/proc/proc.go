// Package proc reads what processes use from Linux's /proc, for measurements.
package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is what all threads of some processes have used, user and system, to
// the nanosecond as the scheduler counts it (schedstat; /proc/PID/stat rounds to a
// hundredth of a second).
func CPU(pids ...int) (all time.Duration, err error) {
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, err
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // the thread has ended meanwhile
			}
			if err != nil {
				return 0, err
			}
			used, _, _ := strings.Cut(string(text), " ")
			ns, err := strconv.ParseInt(used, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			all += time.Duration(ns)
		}
	}
	return all, nil
}

// Family returns a process and all that descend from it.
func Family(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (comm) state ppid ...; comm may hold anything, also ") ".
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		child, err1 := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parent, err2 := strconv.Atoi(fields[1])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// Memory reads a line of /proc/PID/status in bytes: "VmRSS", resident now, or
// "VmHWM", the most that was.
func Memory(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("the kernel does not say %s of process %d", name, pid)
}

// Yield puts all threads of some processes, and those that they begin later, into the
// scheduler's idle class: they run when nobody else wants to.
func Yield(pids ...int) error {
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return err
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(filepath.Base(t))
			if err != nil {
				return err
			}
			idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
			if err := unix.SchedSetAttr(tid, &idle, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("scheduling class of thread %d: %w", tid, err)
			}
		}
	}
	return nil
}
