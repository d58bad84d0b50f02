package server

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// eventLoop waits for many connections and answers what it can at once; see above.
type eventLoop struct {
	// fd is an epoll instance, poll the same for Go's poller: the loop's goroutine is parked
	// like any other while nothing happens, and holds no processor.
	fd   int
	poll *os.File
	wait syscall.RawConn

	mu     sync.Mutex
	conns  map[int32]*conn // by descriptor
	closed bool

	events [128]unix.EpollEvent
	ready  []*conn
	in     []byte
	copy   []byte
}

func newEventLoop() (*eventLoop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	l := &eventLoop{fd: fd, conns: make(map[int32]*conn), in: make([]byte, maxHeader+64)}
	if err := unix.SetNonblock(fd, true); err != nil { // tells os.NewFile that it can be polled
		_ = unix.Close(fd)
		return nil, err
	}
	l.poll = os.NewFile(uintptr(fd), "epoll")
	if l.wait, err = l.poll.SyscallConn(); err != nil {
		_ = l.poll.Close()
		return nil, err
	}
	return l, nil
}

// run answers until the loop is closed.
func (l *eventLoop) run() error {
	for {
		n := 0
		var waitErr error
		err := l.wait.Read(func(uintptr) (done bool) {
			n, waitErr = unix.EpollWait(l.fd, l.events[:], 0)
			if errors.Is(waitErr, unix.EINTR) {
				n, waitErr = 0, nil
			}
			return n > 0 || waitErr != nil
		})
		if err = errors.Join(err, waitErr); err != nil {
			if l.isClosed() {
				return nil
			}
			return fmt.Errorf("server: wait for connections: %w", err)
		}
		for _, c := range l.awake(l.events[:n]) {
			l.ask(c)
		}
	}
}

// awake returns the connections of events.
func (l *eventLoop) awake(events []unix.EpollEvent) []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = l.ready[:0]
	for i := range events {
		if c := l.conns[events[i].Fd]; c != nil {
			l.ready = append(l.ready, c)
		}
	}
	return l.ready
}

// add waits for c from now on, which may be ready already.
func (l *eventLoop) add(c *conn) error {
	fd := int32(c.fd) //nolint:gosec // a descriptor
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	l.conns[fd] = c
	err := unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: fd})
	if err != nil {
		delete(l.conns, fd)
	}
	return err
}

// remove waits for c no longer. Only the loop's own goroutine calls it, before c's descriptor
// is closed: nobody else can have got its number until then.
func (l *eventLoop) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, int32(c.fd)) //nolint:gosec // a descriptor
	_ = unix.EpollCtl(l.fd, unix.EPOLL_CTL_DEL, c.fd, nil)
}

func (l *eventLoop) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// close ends run.
func (l *eventLoop) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	_ = l.poll.Close()
}
