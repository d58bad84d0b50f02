package server

import "golang.org/x/sys/unix"

// peerUID returns the user id of the process at the other end of a Unix socket, as
// the kernel recorded it when it connected.
func peerUID(fd int) (int, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return -1, err
	}
	return int(cred.Uid), nil
}

// newSocket returns a stream socket that no program started later inherits, and that
// does not block.
func newSocket() (fd int, err error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}
