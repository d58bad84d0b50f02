package server

import (
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// listenerID names a listener in metrics.
type listenerID uint8

const (
	listenerUnix listenerID = iota
	listenerTCP

	numListeners = int(listenerTCP) + 1
)

func (l listenerID) String() string {
	if l == listenerTCP {
		return "tcp"
	}
	return "unix"
}

// listener accepts connections and serves each on a goroutine of its own.
type listener struct {
	id   listenerID
	data *Data
	net.Listener
	// most is how many connections are served at once.
	most int
	// users may connect, if there are any (Unix socket only).
	users []int
	// guard looks at every request (TCP only).
	guard *guard
	// remove takes the listener's name away, so that nobody new connects.
	remove func()

	// enough is how many connections there have to be for one to settle in an event loop.
	enough int64

	mu    sync.Mutex
	conns map[*conn]struct{}
	// crowd is the length of conns.
	crowd atomic.Int64
}

// admit decides whether x may be answered at all.
func (l *listener) admit(x *exchange) error {
	switch {
	case l.guard == nil:
		return nil
	case x.gateway:
		return l.guard.admitGateway(&x.headers)
	}
	return l.guard.admit(&x.headers)
}

// asksToken reports whether requests present the listener's own token as
// Authorization.
func (l *listener) asksToken() bool { return l.guard != nil && l.guard.token != nil }

// accept serves connections until the listener is closed.
func (l *listener) accept() {
	for pause := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			l.receive(nc)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			// Out of descriptors or memory, or the client has gone already: go on,
			// but not in a hot loop.
			pause = min(max(2*pause, 5*time.Millisecond), 100*time.Millisecond)
			l.data.logger.Warn("cannot accept a connection", zap.Stringer("listener", l.id), zap.Error(err))
			time.Sleep(pause)
		}
	}
}

// receive serves a connection, or refuses it.
func (l *listener) receive(nc net.Conn) {
	if len(l.users) > 0 {
		if uid, err := peerUser(nc); err != nil || !slices.Contains(l.users, uid) {
			l.data.metrics.refused[l.id][refusedUser].Inc()
			l.data.logger.Debug("refused a user", zap.Int("uid", uid), zap.Error(err))
			_ = nc.Close()
			return
		}
	}
	c := &conn{Conn: nc, fd: -1, listener: l}
	c.framer.limits = l.data.frameLimits()
	if !l.add(c) {
		l.data.metrics.refused[l.id][refusedLimit].Inc()
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second)) // a fresh connection's buffer is empty: this never blocks
		_, _ = nc.Write(tooManyConns)
		_ = nc.Close()
		return
	}
	c.answeredAtOnce = settled
	if !c.settle() {
		go l.serve(c)
		return
	}
	c.attend()
}

// serve runs one connection to its end.
func (l *listener) serve(c *conn) {
	if !c.finishAnswer() {
		_ = c.Close()
		l.drop(c)
		return
	}
	for {
		library := l.data.http
		if c.wide {
			library = l.data.wide
		}
		c.moving = false
		err := library.ServeConn(c)
		if c.Conn == nil {
			c.attend()
			return
		}
		if c.moving {
			continue // see conn.hold
		}
		l.drop(c)
		if err != nil {
			l.data.logger.Debug("connection ended", zap.Stringer("listener", l.id), zap.String("error", category(err)))
		}
		return
	}
}

// add counts c in, if there is room.
func (l *listener) add(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.most {
		return false
	}
	l.conns[c] = struct{}{}
	l.crowd.Add(1)
	l.data.metrics.connections[l.id].Inc()
	return true
}

func (l *listener) drop(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	l.crowd.Add(-1)
	l.data.metrics.connections[l.id].Dec()
}

// each calls f for every connection. f must not block.
func (l *listener) each(f func(*conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		f(c)
	}
}

// open returns how many connections are served.
func (l *listener) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// tooManyConns is the whole answer to a connection above the limit.
var tooManyConns = func() []byte {
	body := appendProblem(nil, errTooManyConns)
	b := []byte("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nCache-Control: no-store\r\nRetry-After: 1\r\nContent-Type: " + typeProblem + "\r\nContent-Length: ")
	b = appendInt(b, len(body))
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}()

// peerUser returns the user id of the process that connected to a Unix socket.
func peerUser(nc net.Conn) (uid int, err error) {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return -1, errors.New("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid = -1
	var credErr error
	err = raw.Control(func(fd uintptr) {
		uid, credErr = peerUID(int(fd))
	})
	return uid, errors.Join(err, credErr)
}

// category says in a word why a connection ended, without repeating what was
// sent over it.
func category(err error) string {
	var p *problem
	var ne net.Error
	switch {
	case errors.As(err, &p):
		return p.code
	case errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return "reset"
	case errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	}
	return "malformed"
}
