package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The event loop: most connections begin here, and one whose requests are of the quick
// kind and answered from memory stays, as it needs no goroutine of its own. Parking one and
// waking it, and the threads that Go starts meanwhile in case there is more to do, cost as
// much as the answer. So one goroutine waits for all such connections together, and reads,
// answers and writes, one after the other: none of it can wait for anything.
//
// Only a client that is alone on the Unix socket is answered sooner by a goroutine: the
// kernel then runs the two in turns on one processor, and neither has to be woken on another.
//
// The loop decides nothing that a goroutine would decide otherwise. What it reads goes
// through the same framer, the same checks and the same handlers. As soon as a request is
// not plain, is not in memory, asks for a signature to be verified, or its answer does not fit
// into the client's socket, the connection is given to a goroutine with all that was read, as
// if that had only now arrived; and it comes back when the key that was not in memory has
// been read, or after a few answers from memory.
//
// So a connection is in one of two hands. In a goroutine's conn.Conn is set and Go's own
// poller knows of it; in the loop's conn.Conn is nil, conn.fd is the descriptor, and only
// the loop's poller does. Only the hand that has the connection changes this, under conn.mu,
// which the two that look in from outside (see conn) take as well.

// eventLoops is how many loops there are for a number of processors: half, because whoever
// asks needs the rest.
func eventLoops(processors int) int { return min(max(processors/2, 1), 8) }

// settled is how many answers from memory in a row bring a connection back from its goroutine
// to the loop, where it began: more than one, so that one that asks now for this and then
// for that does not move with every request.
const settled = 2

// spinTime is how long a loop looks for the next request before it parks. To park and to be
// woken costs about as much processor time, and delays the request.
const spinTime = 50 * time.Microsecond

// patience is whether it is worthwhile to look on for the next request: not where requests are far
// apart. Each failure doubles for how many occasions it is not even tried.
type patience struct{ failures, skip int }

// maxFailures bounds patience: it is tried at least once in so many powers of two.
const maxFailures = 3

func (p *patience) worthwhile() bool {
	if p.skip > 0 {
		p.skip--
		return false
	}
	return true
}

func (p *patience) learn(found bool) {
	if found {
		*p = patience{}
		return
	}
	p.failures = min(p.failures+1, maxFailures)
	p.skip = 1<<p.failures - 1
}

// makeLoops makes the event loops, if the system has what they need.
func (d *Data) makeLoops() error {
	for range eventLoops(runtime.GOMAXPROCS(0)) {
		l, err := newEventLoop()
		if err != nil {
			return fmt.Errorf("server: make an event loop: %w", err)
		}
		if l != nil {
			d.loops = append(d.loops, l)
		}
	}
	return nil
}

// endLoops makes the loops' goroutines return.
func (d *Data) endLoops() {
	for _, l := range d.loops {
		l.end()
	}
}

func (d *Data) closeLoops() {
	for _, l := range d.loops {
		l.close()
	}
	d.loops = nil
}

// settle gives c to an event loop, if there is one and c is of the kind. The goroutine that
// has c must be between two requests, and has to end: see conn.move.
func (c *conn) settle() bool {
	d := c.listener.data
	if c.answeredAtOnce < settled || len(d.loops) == 0 || c.bad != nil || !c.consumed() || d.stopping.Load() ||
		c.listener.crowd.Load() < c.listener.enough {
		return false
	}
	fd, err := duplicate(c.Conn)
	if err != nil {
		return false // out of descriptors: this one goes on as it is
	}
	c.mu.Lock()
	old := c.Conn
	c.Conn, c.fd = nil, fd
	c.mu.Unlock()
	_ = old.Close() // one of the two descriptors; the connection stays open with the other
	return true
}

// attend makes c, which settle has taken from its goroutine, the loop's.
func (c *conn) attend() {
	loops := c.listener.data.loops
	if err := loops[c.listener.data.nextLoop.Add(1)%uint64(len(loops))].add(c); err != nil {
		c.leave(nil)
	}
}

// leave gives c, which no loop waits for any more, to a goroutine. early is what the loop has
// read and nobody answered; it is copied.
func (c *conn) leave(early []byte) {
	if len(early) > 0 {
		c.early = append([]byte(nil), early...)
		c.enter(reading)
	}
	nc, err := adopt(c.fd)
	if err != nil {
		// Out of descriptors. The socket's buffer has room, or the client would not read anyway.
		_, _ = unix.Write(c.fd, tooManyConns)
		c.end()
		return
	}
	c.mu.Lock()
	fd := c.fd
	c.Conn, c.fd = nc, -1
	c.mu.Unlock()
	_ = unix.Close(fd)
	go c.listener.serve(c)
}

// end closes c, which is in no goroutine's hands.
func (c *conn) end() {
	c.mu.Lock()
	fd := c.fd
	c.fd = -1
	c.mu.Unlock()
	_ = unix.Close(fd)
	c.listener.drop(c)
}

// cut closes the connection, whoever has it, from outside.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.Conn != nil:
		_ = c.Conn.Close()
	case c.fd >= 0:
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // the loop sees the end of it, and closes
	}
}

// receive reads what has arrived: first what the event loop has read already.
func (c *conn) receive(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	clear(c.early[:n]) // a secret may be in it
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}

// finishAnswer writes what did not fit into the client's socket when the event loop
// answered, and reports whether the connection goes on.
func (c *conn) finishAnswer() bool {
	p := c.unsent
	if len(p) == 0 {
		return true
	}
	c.unsent = nil
	_, err := c.Write(p)
	c.enter(idle)
	return err == nil && !c.last
}

// writeNow writes as much of c's answer as can be written at once, and keeps the rest.
func (c *conn) writeNow() error {
	for i, p := range c.parts {
		c.parts[i] = nil
		n := 0
		if len(c.unsent) == 0 && len(p) > 0 {
			var err error
			if n, err = unix.Write(c.fd, p); notNow(err) {
				n, err = 0, nil
			}
			if err != nil {
				return err
			}
		}
		c.unsent = append(c.unsent, p[n:]...)
	}
	return nil
}

// notNow reports whether a system call that does not block has to be made again later.
func notNow(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

// duplicate returns a descriptor of its own for a connection. Like all descriptors here it
// does not block, and no program started later inherits it.
func duplicate(nc net.Conn) (fd int, err error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return -1, os.ErrInvalid
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = dupErr
	}
	return fd, err
}

// adopt makes a connection of Go's of a copy of the descriptor, which stays the caller's.
func adopt(fd int) (net.Conn, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(own), "connection")
	defer func() { _ = f.Close() }() // FileConn has its own copy
	return net.FileConn(f)
}

// answerAtOnce makes the answer to the request in p, which is all that has arrived, if it is one, plain, and
// memory has the answer. If not it has done nothing but look.
func (c *conn) answerAtOnce(p []byte) (answered bool) {
	f := &c.framer
	began, ended := f.began, f.ended
	n, bad := f.feed(p)
	if bad == nil && n == len(p) && f.between() && f.ended == ended+1 && !c.listener.data.stopping.Load() {
		if r, ok := c.plain(p); ok && r.memory {
			if answered, _ = c.tell(r, true); answered {
				return true
			}
		}
	}
	f.rewind(began, ended)
	return false
}

// ask answers what has arrived for c, which is the loop's, or gives c to a goroutine.
func (l *eventLoop) ask(c *conn) {
	n, err := unix.Read(c.fd, l.in)
	switch {
	case notNow(err):
		return
	case err != nil || n <= 0 || !c.enter(reading): // between requests: none is lost
		l.remove(c)
		c.end()
		return
	}
	p := l.in[:n]
	// A handler wipes what it reads of a secret, but another may have to read it again.
	l.copy = append(l.copy[:0], p...)
	if c.answerAtOnce(p) {
		l.answered = append(l.answered, c)
	} else {
		l.remove(c)
		c.leave(l.copy)
	}
	clear(p)
	clear(l.copy)
}

// tellAll sends the answers to what was asked. Together, because the first wakes the
// client: while it wakes the others arrive, and none of them has to wake it again, which would cost
// more than the answer.
func (l *eventLoop) tellAll() {
	for _, c := range l.answered {
		err := c.writeNow()
		switch {
		case err == nil && len(c.unsent) > 0:
			l.remove(c)
			c.leave(nil)
		case err != nil || c.last || !c.enter(idle):
			l.remove(c)
			c.end()
		}
	}
	l.answered = l.answered[:0]
}
