package server

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// eventLoop waits for many connections and answers what it can at once; see above.
type eventLoop struct {
	// fd is an epoll instance; bell is an eventfd in it that rings when run has to end.
	fd, bell int

	mu     sync.Mutex
	conns  map[int32]*conn // by descriptor
	closed bool

	patience patience

	events   [together]unix.EpollEvent
	ready    []*conn
	answered []*conn
	in       []byte
	copy     []byte
}

func newEventLoop() (*eventLoop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	l := &eventLoop{fd: fd, conns: make(map[int32]*conn), in: make([]byte, maxHeader+64)}
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	bell := int32(l.bell) //nolint:gosec // a descriptor
	if err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, l.bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: bell}); err != nil {
		_ = unix.Close(l.bell)
		_ = unix.Close(fd)
		return nil, err
	}
	return l, nil
}

// run answers until the loop is told to end.
func (l *eventLoop) run() error {
	for rounds := 0; ; rounds++ {
		n, err := l.look(0)
		if n == 0 && err == nil && l.patience.worthwhile() {
			n, err = l.lookOn()
			l.patience.learn(n > 0)
		}
		switch {
		case n == 0 && err == nil:
			n, err = l.look(-1)
			rounds = 0
		case rounds >= turn:
			runtime.Gosched()
			rounds = 0
		}
		if err != nil {
			return fmt.Errorf("server: wait for connections: %w", err)
		}
		awake, end := l.awake(l.events[:n])
		if end {
			return nil
		}
		for _, c := range awake {
			l.ask(c)
		}
		l.tellAll()
	}
}

// together is how many connections at most are read before they are answered.
const together = 8

// turn is how many rounds the loop answers without a rest, for about a millisecond, before it
// lets other goroutines have the processor, should they have no other.
const turn = 64

// look returns how many connections are ready; with a wait of -1 it waits until one is. It
// waits in the system call, not in Go's poller: that one would have another thread
// look at this epoll instance, too, and wake it for every request. The runtime takes
// the processor away from a call that takes long, when others need it.
func (l *eventLoop) look(wait int) (n int, err error) {
	n, err = unix.EpollWait(l.fd, l.events[:], wait)
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return max(n, 0), err
}

// lookOn looks again and again for spinTime.
func (l *eventLoop) lookOn() (n int, err error) {
	for spinning := time.Now(); n == 0 && err == nil && time.Since(spinning) < spinTime; {
		n, err = l.look(0)
	}
	return n, err
}

// awake returns the connections of events, and whether the loop has to end.
func (l *eventLoop) awake(events []unix.EpollEvent) (ready []*conn, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = l.ready[:0]
	for i := range events {
		if c := l.conns[events[i].Fd]; c != nil {
			l.ready = append(l.ready, c)
		}
	}
	return l.ready, l.closed
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

// end makes run return, and add fail.
func (l *eventLoop) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	one := [8]byte{7: 1, 0: 1} // not zero in either order of bytes
	_, _ = unix.Write(l.bell, one[:])
}

// close lets go of the descriptors. run must have returned, or never begun.
func (l *eventLoop) close() {
	_ = unix.Close(l.fd)
	_ = unix.Close(l.bell)
}
