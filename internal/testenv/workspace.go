package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxBaseDir bounds the length of the directory that workspaces are made in: the
// path of a Unix socket may have 107 bytes.
const maxBaseDir = 60

// watchdogScript waits until its standard input ends. Unless it was told "done"
// first, it then kills every process that works in directory $1 and removes it.
const watchdogScript = `
dir=$1
read -r word
[ "$word" = done ] && exit 0
tries=0
while [ "$tries" -lt 100 ]; do
	found=
	for p in /proc/[0-9]*; do
		case $(readlink "$p/cwd" 2>/dev/null) in
		"$dir" | "$dir"/* | "$dir "*) kill -KILL "${p#/proc/}" 2>/dev/null && found=1 ;;
		esac
	done
	[ -z "$found" ] && break
	tries=$((tries + 1))
	sleep 0.05
done
rm -rf -- "$dir"
`

// workspace is where one server lives: a temporary directory, the user that runs
// there, and the watchdog that cleans up after a sudden death.
type workspace struct {
	dir      string
	cred     *syscall.Credential // nil: as oneself
	env      []string
	watchdog *exec.Cmd
	leash    *os.File // the watchdog lives until this closes
}

// newWorkspace makes a workspace named after kind. If the caller is root, its
// processes run as the first of users that exists.
func newWorkspace(kind string, users ...string) (*workspace, error) {
	cred, err := unprivileged(users)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(baseDir(cred), "keysidecar-"+kind+"-")
	if err != nil {
		return nil, fmt.Errorf("make a workspace for %s: %w", kind, err)
	}
	w := &workspace{dir: dir, cred: cred, env: []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, errors.Join(fmt.Errorf("hand over the workspace: %w", err), os.RemoveAll(dir))
		}
	}
	if err := w.startWatchdog(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return w, nil
}

// unprivileged returns the credential to run servers with; nil if the caller is
// not root already.
func unprivileged(users []string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range users {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("none of the users %s exists, and servers must not run as root", strings.Join(users, ", "))
}

// baseDir returns the system's directory for temporary files, or /tmp if that is
// too long for a socket's path or closed to the user that will run there.
func baseDir(cred *syscall.Credential) string {
	base := filepath.Clean(os.TempDir())
	if len(base) > maxBaseDir {
		return "/tmp"
	}
	if cred == nil {
		return base
	}
	for dir := base; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return "/tmp"
		}
	}
	return base
}

func (w *workspace) startWatchdog() error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the watchdog's pipe: %w", err)
	}
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "keysidecar-testenv-watchdog", w.dir)
	cmd.Dir, cmd.Stdin = "/", read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C must not reach it
	if err := errors.Join(cmd.Start(), read.Close()); err != nil {
		return errors.Join(fmt.Errorf("start the watchdog: %w", err), write.Close())
	}
	w.watchdog, w.leash = cmd, write
	return nil
}

// close kills what still runs in the workspace, removes it and dismisses the
// watchdog.
func (w *workspace) close() error {
	errs := []error{w.killAll(), os.RemoveAll(w.dir)}
	if errors.Join(errs...) == nil {
		_, err := w.leash.WriteString("done\n")
		errs = append(errs, err)
	}
	return errors.Join(append(errs, w.leash.Close(), w.watchdog.Wait())...)
}

// path returns the path of a file of the workspace.
func (w *workspace) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// pids returns the processes of the workspace's server that are not yet dead.
func (w *workspace) pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		parent, dead := procStat(pid)
		if dead {
			continue
		}
		children[parent] = append(children[parent], pid)
		if cwd, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd")); err == nil && w.holds(cwd) {
			found = append(found, pid)
		}
	}
	seen := map[int]bool{}
	var all []int
	for len(found) > 0 {
		pid := found[0]
		found = found[1:]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		all = append(all, pid)
		found = append(found, children[pid]...)
	}
	return all, nil
}

func (w *workspace) holds(path string) bool {
	rest, ok := strings.CutPrefix(path, w.dir)
	return ok && (rest == "" || rest[0] == '/' || rest[0] == ' ') // " (deleted)"
}

// procStat returns pid's parent, and whether it has ended (a zombie has).
func procStat(pid int) (parent int, dead bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, true
	}
	// pid (comm) state ppid ...; comm may hold anything, also ") ".
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return 0, true
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, err != nil
}

// signalAll sends sig to every process of the server, also to those started
// meanwhile.
func (w *workspace) signalAll(sig syscall.Signal) error {
	signalled := map[int]bool{}
	for {
		pids, err := w.pids()
		if err != nil {
			return err
		}
		fresh := false
		for _, pid := range pids {
			if signalled[pid] {
				continue
			}
			signalled[pid], fresh = true, true
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
			}
		}
		if !fresh {
			return nil
		}
	}
}

// pause stops every process of the server in its tracks (SIGSTOP): connections
// stay open and nothing answers.
func (w *workspace) pause() error {
	if err := w.signalAll(syscall.SIGSTOP); err != nil {
		return err
	}
	pids, err := w.pids()
	if err != nil {
		return err
	}
	return AwaitStopped(pids...)
}

// resume undoes pause.
func (w *workspace) resume() error { return w.signalAll(syscall.SIGCONT) }

// killAll sends SIGKILL to every process of the server and waits until they are
// gone.
func (w *workspace) killAll() error {
	return poll(10*time.Second, func() (bool, error) {
		if err := w.signalAll(syscall.SIGKILL); err != nil {
			return false, err
		}
		pids, err := w.pids()
		return len(pids) == 0, err
	})
}

// poll calls done every few milliseconds until it returns true or an error, or
// until limit has passed.
func poll(limit time.Duration, done func() (bool, error)) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("not done within %v", limit)
		case <-tick.C:
		}
	}
}
