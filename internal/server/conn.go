package server

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// conn is one client's connection: the framer that reads along, what is known of
// its requests, and the buffers it answers from.
//
// One goroutine reads, handles and writes (the library's loop); it alone touches
// the fields below the atomics. Two others look in: the sweeper, which cuts slow
// clients, and the one that stops the daemon. They see only the atomics and call
// only methods of net.Conn that may be called from anywhere.
//
// Slow clients are judged here and not by the library's timeouts, because those
// cannot say "ten seconds for a request, for ever between requests": the read
// deadline of the last request stays in force while the connection idles, and
// each one costs a timer.
type conn struct {
	net.Conn
	listener *listener

	// state is what the connection does and since which tick: see phaseAt.
	state atomic.Uint64
	// writing is the tick at which a Write began, 0 while there is none.
	writing atomic.Int64
	// timedOut: the sweeper ended the read because the request was too slow.
	timedOut atomic.Bool

	framer framer
	// bad is why the bytes received are refused, once they are.
	bad *problem
	// handled counts the requests that have been answered, or are just now.
	handled int

	x exchange
	// wire is the buffer of the quick way's answers.
	wire []byte
}

// phase is what a connection does.
type phase uint64

const (
	idle     phase = iota // between requests
	reading               // a request has begun to arrive
	handling              // a request is complete and being answered
	closed                // the stopping daemon has taken it back
)

const phaseShift = 56

// phaseAt packs a phase and the tick at which it began.
func phaseAt(p phase, tick int64) uint64 {
	return uint64(p)<<phaseShift | uint64(tick) //nolint:gosec // ticks count up from 1
}

// phase unpacks c.state.
func (c *conn) phase() (p phase, tick int64) {
	s := c.state.Load()
	return phase(s >> phaseShift), int64(s & (1<<phaseShift - 1))
}

// enter sets the phase, unless the connection was taken back.
func (c *conn) enter(p phase) bool {
	next := phaseAt(p, c.listener.data.tick.Load())
	for {
		old := c.state.Load()
		if phase(old>>phaseShift) == closed {
			return false
		}
		if c.state.CompareAndSwap(old, next) {
			return true
		}
	}
}

// takeBack closes the connection if it is idle.
func (c *conn) takeBack() {
	old := c.state.Load()
	if phase(old>>phaseShift) == idle && c.state.CompareAndSwap(old, phaseAt(closed, 0)) {
		_ = c.Conn.Close()
	}
}

// Read hands on what arrived as far as it is well-formed, and then reports the
// problem.
func (c *conn) Read(p []byte) (int, error) {
	if c.bad != nil {
		return 0, c.bad
	}
	for {
		n, err := c.Conn.Read(p)
		if n == 0 {
			if c.framer.between() {
				return 0, io.EOF // however it ended, no request is lost
			}
			return 0, err
		}
		began := c.framer.ended
		whole := c.framer.between() // so far: p begins with a request
		if whole && !c.enter(reading) {
			return 0, io.EOF
		}
		if n, c.bad = c.framer.feed(p[:n]); n == 0 && c.bad != nil {
			return 0, c.bad
		}
		whole = whole && c.bad == nil && c.framer.between() && c.framer.ended == began+1 && c.handled == began
		if whole && c.quick(p[:n]) {
			continue
		}
		return n, nil // an error comes again with the next Read
	}
}

// Write notes how long the client takes to read.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Store(c.listener.data.tick.Load())
	n, err := c.Conn.Write(p)
	c.writing.Store(0)
	return n, err
}

// Lingering lets a client read the answer to a request that it is still sending:
// closing at once would make the kernel discard it.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// Close closes the connection, after a bounded wait if the client may still be
// sending what was refused.
func (c *conn) Close() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.bad != nil && !c.listener.data.stopping.Load() {
		if h.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
		}
	}
	return c.Conn.Close()
}

// beginHandling marks a complete request as being answered.
func (c *conn) beginHandling() {
	c.handled++
	c.enter(handling)
}

// onState hears from the library that an answer has been written.
func onState(nc net.Conn, s fasthttp.ConnState) {
	if s != fasthttp.StateIdle {
		return
	}
	c := nc.(*conn) //nolint:forcetypeassert // every connection is made by listener.serve
	c.x.trim(c.listener.data)
	switch {
	case c.framer.ended > c.handled: // pipelined, and complete
		c.enter(handling)
	case !c.framer.between():
		c.enter(reading)
	default:
		c.enter(idle)
	}
}

// sweep cuts the connection if its client is too slow: to send a request, or to
// read an answer.
func (c *conn) sweep(now, mostReading, mostWriting int64) {
	if p, since := c.phase(); p == reading && now-since > mostReading {
		c.timedOut.Store(true)
		_ = c.SetReadDeadline(time.Unix(1, 0)) // long past: ends the pending read
	}
	if since := c.writing.Load(); since != 0 && now-since > mostWriting {
		c.listener.data.metrics.aborted[abortSlowReader].Inc()
		_ = c.Conn.Close()
	}
}
