package server

import (
	"io"
	"net"
	"runtime"
	"sync"
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
	// Conn is nil while an event loop has the connection, whose descriptor is fd then; see
	// eventloop.go. Whoever has the connection changes them under mu, and reads them
	// without; others take mu.
	net.Conn
	fd       int
	mu       sync.Mutex
	listener *listener
	// early are bytes that the event loop has read and not answered, unsent those of its
	// answer that did not fit into the client's socket.
	early, unsent []byte
	// answeredAtOnce counts the answers in a row that needed only memory.
	answeredAtOnce int

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

	// held are bytes that arrived and were found well-formed, and which the library
	// has not got yet: those of a gateway's request whose head has not ended, and
	// what followed it. The first ready of them may be handed on.
	held  []byte
	ready int
	// wide: the library serves this connection with a buffer for gateways' heads.
	wide bool
	// moving: the library's loop ends, and another begins with the other buffer.
	moving bool
	// given is what the first and the last Read of this request handed on: memory of
	// the library's, in which a secret may stand.
	given [2][]byte

	x exchange
	// wire is the buffer of the quick way's answers; last: it has sent the last one.
	wire []byte
	last bool
	// parts and both are writeBoth's own, here so that they cost no allocation. In the event
	// loop parts are the head and the body of an answer that has not been written yet.
	parts [2][]byte
	both  net.Buffers
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
		c.cut()
	}
}

// Read hands on what arrived as far as it is well-formed, and then reports the
// problem.
func (c *conn) Read(p []byte) (int, error) {
	for {
		switch {
		case c.ready > maxHeader && !c.wide:
			return c.move(true)
		case c.ready > 0:
			return c.handOn(p), nil
		case c.bad != nil:
			return 0, c.bad
		case c.wide && c.consumed():
			return c.move(false)
		}
		n, err := c.receive(p)
		if n == 0 {
			if c.framer.between() {
				return 0, io.EOF // however it ended, no request is lost
			}
			if len(c.held) > 0 {
				c.ready = len(c.held) // so that the library is in a request when it hears of the error
				continue
			}
			return 0, err
		}
		first := c.framer.between() // p begins with a request
		if first && !c.enter(reading) {
			return 0, io.EOF
		}
		began, ended := c.framer.began, c.framer.ended
		n, c.bad = c.framer.feed(p[:n])
		whole := c.bad == nil && len(c.held) == 0 && c.framer.between() && c.framer.ended == ended+1 && c.handled == ended
		if first && whole && c.quick(p[:n]) {
			if c.last {
				return 0, io.EOF
			}
			if c.settle() {
				c.moving = true
				return 0, io.EOF
			}
			if c.listener.id == listenerTCP {
				// Others first: the next request may be here by then. A read that finds
				// nothing, and the wait after it, cost TCP more than a turn.
				runtime.Gosched()
			}
			continue
		}
		if n = c.hold(p[:n], c.framer.began > began); n > 0 {
			c.note(p[:n])
			return n, nil // an error comes again with the next Read
		}
	}
}

// hold keeps back what must not be handed on yet, and everything behind what is
// kept already. It returns how many of the bytes may be handed on at once. began
// says that a message has begun in them.
//
// A gateway's request may have a head that is larger than the buffer in which the
// library reads others, and one of that size for every connection would cost more
// memory than all keys. So such a head is kept here until it has ended; if it turns
// out to be large, the library's loop for this connection, which has not seen a byte
// of it, is ended as if the client had gone, and another begins with a large buffer,
// until all that was sent has been answered.
func (c *conn) hold(p []byte, began bool) int {
	open := 0 // bytes of a head that has not ended
	if c.bad == nil && c.framer.inGatewayHead() {
		open = len(p) - c.framer.from
	}
	if len(c.held) == 0 {
		c.held = append(c.held, p[len(p)-open:]...)
		return len(p) - open
	}
	c.held = append(c.held, p...)
	if open == 0 || began {
		c.ready = len(c.held) - open
	}
	return 0
}

// handOn gives out what is ready of the bytes kept back.
func (c *conn) handOn(p []byte) int {
	n := copy(p, c.held[:c.ready])
	c.ready -= n
	rest := copy(c.held, c.held[n:])
	clear(c.held[rest:])
	c.held = c.held[:rest]
	c.note(p[:n])
	return n
}

// note remembers memory that was handed on.
func (c *conn) note(p []byte) {
	if c.given[0] == nil {
		c.given[0] = p
	}
	c.given[1] = p
}

// consumed reports whether the library has read all that it was given, and the
// last byte that arrived ended a message.
func (c *conn) consumed() bool {
	return len(c.held) == 0 && c.framer.between() && c.framer.ended == c.handled
}

// move ends the library's loop for this connection, so that listener.serve starts
// the other one. Only to be called when the library's buffer is empty.
func (c *conn) move(wide bool) (int, error) {
	c.wide, c.moving, c.given = wide, true, [2][]byte{}
	return 0, io.EOF
}

// forget wipes what the library's buffer holds of the request being handled, which
// has a secret in it: the head, which was handed on whole, and the end of the body.
// It does not where the next request stands behind it already.
func (c *conn) forget() {
	if c.consumed() {
		clear(c.given[0])
		clear(c.given[1])
	}
}

// Write notes how long the client takes to read.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Store(c.listener.data.tick.Load())
	n, err := c.Conn.Write(p)
	c.writing.Store(0)
	return n, err
}

// writeBoth writes a head and a body that is too large to be copied behind it, in one
// system call: a client that got the head alone would be woken for nothing.
func (c *conn) writeBoth(head, body []byte) error {
	c.parts = [2][]byte{head, body}
	c.both = c.parts[:]
	c.writing.Store(c.listener.data.tick.Load())
	_, err := c.both.WriteTo(c.Conn)
	c.writing.Store(0)
	c.parts = [2][]byte{}
	return err
}

// Lingering lets a client read the answer to a request that it is still sending:
// closing at once would make the kernel discard it.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
	// lingerGatewayBytes is more, because some gateways make 5xx of a connection that
	// ends while they send, and may have been told to let requests pass on that.
	lingerGatewayBytes = 16 << 20
)

// Close closes the connection, after a bounded wait if the client may still be
// sending what was refused.
func (c *conn) Close() error {
	if c.moving {
		return nil
	}
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.bad != nil && !c.listener.data.stopping.Load() {
		if h.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			most := int64(lingerBytes)
			if c.framer.gateway {
				most = lingerGatewayBytes
			}
			_, _ = io.CopyN(io.Discard, c.Conn, most)
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
	c.given = [2][]byte{}
	if cap(c.held) > keepBuffer && len(c.held) == 0 {
		c.held = nil
	}
	if cap(c.framer.line) > keepBuffer && len(c.framer.line) == 0 {
		c.framer.line = nil
	}
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
		c.mu.Lock()
		if c.Conn != nil {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // long past: ends the pending read
		}
		c.mu.Unlock()
	}
	if since := c.writing.Load(); since != 0 && now-since > mostWriting {
		c.listener.data.metrics.aborted[abortSlowReader].Inc()
		c.cut()
	}
}
