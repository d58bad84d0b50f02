package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket says where the data plane listens, and who may connect.
type Socket struct {
	// Path of the Unix socket; empty for none. At most 107 bytes.
	Path string
	// Mode of the socket; connecting takes the right to write. 0 means 0660.
	Mode fs.FileMode
	// GID, if not nil, becomes the socket's group.
	GID *int
	// AllowedUIDs may connect; empty for anyone whom Mode lets.
	AllowedUIDs []int
}

// maxSocketPath is what struct sockaddr_un holds, less the zero at its end.
const maxSocketPath = 107

const defaultSocketMode fs.FileMode = 0o660

// boundSocket is a listening Unix socket under its final name.
type boundSocket struct {
	net.Listener
	path     string
	dev, ino uint64
	lock     *os.File
}

// listenSocket binds the socket so that it appears under its name complete, with
// its mode and group, and replaces one that a dead process left behind. While it
// is bound it holds a lock on path + ".lock": another instance on the same path
// is an error, never a takeover, however the two starts interleave.
func listenSocket(s Socket) (*boundSocket, error) {
	if len(s.Path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %q has %d bytes, at most %d fit into a socket address", s.Path, len(s.Path), maxSocketPath)
	}
	if err := checkDirectory(filepath.Dir(s.Path)); err != nil {
		return nil, fmt.Errorf("socket %q: %w", s.Path, err)
	}
	lock, err := lockPath(s.Path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("socket %q: %w", s.Path, err)
	}
	b, err := bindSocket(s)
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("socket %q: %w", s.Path, err)
	}
	b.lock = lock
	return b, nil
}

// checkDirectory says in clear words what the bind would say in fewer.
func checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the directory %q does not exist", dir)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%q is not a directory", dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("cannot create files in %q: %w", dir, err)
	}
	return nil
}

// lockPath takes the lock of one socket path for as long as the returned file is
// open. The file stays when the lock goes: removing it would let two processes
// hold locks of the same name.
func lockPath(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another keysidecar serves this socket (process %s)", strings.TrimSpace(string(holder[:n])))
		}
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // only for the message above
	return f, nil
}

// bindSocket makes the socket under a name that nobody knows and moves it to its
// path when it is ready.
func bindSocket(s Socket) (*boundSocket, error) {
	if err := checkReplaceable(s.Path); err != nil {
		return nil, err
	}
	temp, err := tempName(s.Path)
	if err != nil {
		return nil, err
	}
	mode := s.Mode.Perm()
	if mode == 0 {
		mode = defaultSocketMode
	}
	l, err := listenAt(temp, mode, s.GID)
	if err != nil {
		return nil, err
	}
	b := &boundSocket{Listener: l, path: s.Path}
	var st unix.Stat_t
	if err = unix.Lstat(temp, &st); err == nil {
		b.dev, b.ino = uint64(st.Dev), st.Ino //nolint:unconvert // its type depends on the system
		err = os.Rename(temp, s.Path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(temp)
		return nil, err
	}
	return b, nil
}

// checkReplaceable lets a free path pass, and one with a socket that nobody
// listens on. A process that is not a keysidecar holds no lock, so it is asked.
func checkReplaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("the path exists and is not a socket; it is left alone")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = c.Close()
		return errors.New("another process listens on the path")
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("the path has a socket that cannot be asked whether it is in use: %w", err)
	}
}

// tempName returns a name in the path's directory that nothing has.
func tempName(path string) (string, error) {
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	name := filepath.Join(filepath.Dir(path), ".ks-"+hex.EncodeToString(random[:]))
	if len(name) > maxSocketPath {
		return "", fmt.Errorf("its directory is too long: the socket is made under a name of 12 bytes first, and %q has %d bytes, more than %d",
			name, len(name), maxSocketPath)
	}
	return name, nil
}

// backlog is how many connections may wait to be accepted; the kernel takes the
// smaller of this and net.core.somaxconn.
const backlog = 4096

// listenAt makes a listening socket at path. Mode and group are set between bind
// and listen, so nobody can connect before they hold.
func listenAt(path string, mode fs.FileMode, gid *int) (net.Listener, error) {
	fd, err := newSocket()
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }() // FileListener has its own copy
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	l, err := readyAt(f, fd, path, mode, gid)
	if err != nil {
		_ = os.Remove(path)
	}
	return l, err
}

func readyAt(f *os.File, fd int, path string, mode fs.FileMode, gid *int) (net.Listener, error) {
	if err := os.Chmod(path, mode); err != nil {
		return nil, fmt.Errorf("set the mode: %w", err)
	}
	if gid != nil {
		if err := os.Lchown(path, -1, *gid); err != nil {
			return nil, fmt.Errorf("set the group to %d: %w", *gid, err)
		}
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// Addr returns the final name; the kernel only knows the one it was bound to.
func (b *boundSocket) Addr() net.Addr { return &net.UnixAddr{Name: b.path, Net: "unix"} }

// knocks reports whether a connection waits to be accepted. When that cannot be told,
// one may.
func knocks(l net.Listener) bool {
	if b, ok := l.(*boundSocket); ok {
		l = b.Listener
	}
	c, ok := l.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	waiting := true
	_ = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // descriptors are small
		waiting = err != nil || n > 0
	})
	return waiting
}

// remove takes the name away if it is still this socket's.
func (b *boundSocket) remove() {
	var st unix.Stat_t
	if unix.Lstat(b.path, &st) == nil && uint64(st.Dev) == b.dev && st.Ino == b.ino { //nolint:unconvert // as above
		_ = os.Remove(b.path)
	}
}

// unlock lets another instance have the path.
func (b *boundSocket) unlock() { _ = b.lock.Close() }
