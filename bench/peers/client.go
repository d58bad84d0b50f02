package peers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// window is when a load counts: after a while to warm up, until it ends.
type window struct{ begin, end time.Time }

// load is one closed loop: every connection sends its next request when the last was
// answered.
type load struct {
	// network is "unix" or "tcp", address a path or an IP address with a port.
	network, address string
	conns            int
	wire             wire
	// next is called for each request: what to send, and what the answer must say.
	next func() (request []byte, want reply)
}

// driven is one connection of a load.
type driven struct {
	fd   int
	want reply
	sent time.Time
	buf  []byte
	have int
}

const (
	firstBuffer = 16 << 10
	// pollTimeout is how long a server may be silent before the loop looks at the
	// clock; silent how long before that is an error.
	pollTimeout = 100 * time.Millisecond
	silent      = 10 * time.Second
)

// drive runs the loop until w ends, on a thread of its own.
func (l *load) drive(ctx context.Context, w window) (t *histogram, err error) {
	t = new(histogram)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return t, fmt.Errorf("epoll_create: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(poll)) }()
	conns := make([]driven, l.conns)
	for i := range conns {
		fd, err := dial(l.network, l.address)
		if err != nil {
			return t, fmt.Errorf("connect to %s: %w", l.address, err)
		}
		defer func() { _ = unix.Close(fd) }()
		conns[i] = driven{fd: fd, buf: make([]byte, firstBuffer)}
		if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return t, fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	for i := range conns {
		if err := l.send(&conns[i], time.Now()); err != nil {
			return t, err
		}
	}
	return t, l.loop(ctx, w, poll, conns, t)
}

func (l *load) loop(ctx context.Context, w window, poll int, conns []driven, t *histogram) error {
	events := make([]unix.EpollEvent, len(conns))
	heard := time.Now()
	counting := false
	for {
		n, err := unix.EpollWait(poll, events, int(pollTimeout/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for i := range max(0, n) {
			c := &conns[events[i].Fd]
			now, whole, err := l.receive(c)
			if err != nil {
				return err
			}
			if !whole {
				continue
			}
			heard = now
			if counting {
				t.record(now.Sub(c.sent))
			}
			if err := l.send(c, now); err != nil {
				return err
			}
		}
		now := heard
		if n <= 0 {
			now = time.Now()
			if err := ctx.Err(); err != nil {
				return err
			}
			if now.Sub(heard) > silent {
				return fmt.Errorf("%s has not answered for %v", l.address, silent)
			}
		}
		switch {
		case counting && !now.Before(w.end):
			return ctx.Err()
		case !counting && !now.Before(w.begin):
			counting = true
		}
	}
}

// receive reads what has come. whole says that the answer is complete and was the
// expected one.
func (l *load) receive(c *driven) (now time.Time, whole bool, err error) {
	if c.have == len(c.buf) {
		c.buf = append(c.buf, make([]byte, len(c.buf))...)
	}
	n, err := unix.Read(c.fd, c.buf[c.have:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return now, false, nil
	case err != nil:
		return now, false, fmt.Errorf("read from %s: %w", l.address, err)
	case n == 0:
		return now, false, fmt.Errorf("%s closed the connection", l.address)
	}
	now = time.Now()
	c.have += n
	length, says, err := l.wire(c.buf[:c.have])
	switch {
	case err != nil:
		return now, false, fmt.Errorf("%s: %w", l.address, err)
	case says == partial:
		return now, false, nil
	case says != c.want || length != c.have:
		return now, false, fmt.Errorf("%s: an unexpected answer: %.300q", l.address, c.buf[:c.have])
	}
	c.have = 0
	return now, true, nil
}

func (l *load) send(c *driven, now time.Time) error {
	var request []byte
	request, c.want = l.next()
	c.sent = now
	// A request is far smaller than a socket's buffer, which is empty.
	n, err := unix.Write(c.fd, request)
	if err != nil || n != len(request) {
		return fmt.Errorf("write to %s: %d of %d bytes: %w", l.address, n, len(request), err)
	}
	return nil
}

// dial connects without the runtime's own poller, which would wake up for every
// answer, too.
func dial(network, address string) (fd int, err error) {
	var to unix.Sockaddr
	family := unix.AF_UNIX
	if network == "unix" {
		to = &unix.SockaddrUnix{Name: address}
	} else {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return 0, err
		}
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	err = unix.Connect(fd, to)
	if err == nil && network != "unix" {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
