package server

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// The quick way: most requests are one small GET or POST that arrives in one piece
// and asks for one verdict. The framer has found where it begins and ends, and
// headers.read finds the fields that matter, so nothing is left for the library to
// do but to copy and to allocate. Such a request is answered from within Read,
// before the library hears of it; for the library the connection is idle meanwhile.
//
// Whatever is not plain goes the library's way, untouched: other routes and
// versions, a body that has not arrived, more than one request at a time, a field
// that is refused, an answer in another form, the end of the connection. The two
// ways share the routes' handlers and their checks, and a test compares their
// answers byte by byte.

// quick answers the request that p holds from its first byte to its last, if it is
// of the quick kind. If not it has done nothing.
func (c *conn) quick(p []byte) (answered bool) {
	r, ok := c.plain(p)
	if !ok || c.listener.data.stopping.Load() {
		return false
	}
	answered, _ = c.tell(r, false) // an error ends the connection at the next Read
	return answered
}

// tell answers the request that plain has read. With atOnce it is only answered, and
// counted, if memory has the answer and nothing has to be waited for.
func (c *conn) tell(r *route, atOnce bool) (answered bool, err error) {
	x, d := &c.x, c.listener.data
	c.beginHandling()
	d.metrics.inFlight.Inc()
	defer d.metrics.inFlight.Dec()
	x.ctx, x.listener, x.arrived, x.gateway, x.late = d.life, c.listener, time.Now(), false, false
	x.bounds.AtOnce = atOnce
	if err := d.guarded(r, x); err != nil {
		if atOnce && errors.Is(err, keystore.ErrNotAtOnce) {
			c.handled--
			x.ctx, x.content = nil, nil
			return false, nil
		}
		_ = d.refuse(x, err) // it stands in x
	}
	// Counted before it is sent, as the library's way does: who has an answer finds it counted.
	d.metrics.answered(r.id, c.listener.id, x.status, time.Since(x.arrived))
	err = c.send(x)
	c.answeredAtOnce++
	if !r.memory || x.late {
		c.answeredAtOnce = 0
	}
	x.ctx, x.content = nil, nil
	x.trim(d)
	if c.Conn != nil {
		c.enter(idle)
	}
	return true, err
}

// guarded runs a route's handler. A panic becomes a 500.
func (d *Data) guarded(r *route, x *exchange) (err error) {
	defer func() {
		if v := recover(); v != nil {
			d.panicked(v)
			err = errInternal
		}
	}()
	return r.handle(d, x)
}

// plain reads the request in p into c.x if it is of the quick kind. It decides
// nothing that the library's way would decide otherwise: at the first doubt it
// says no, and the other way says what is wrong.
func (c *conn) plain(p []byte) (*route, bool) {
	f, x := &c.framer, &c.x
	if f.http10 || f.chunked || f.expect != expectNothing || len(p) < len("GET / HTTP/1.1\r\n\r\n") || p[0] == '\r' {
		return nil, false
	}
	lineEnd := bytes.IndexByte(p, '\n') // the framer has found CRLF at each line's end
	method, rest, _ := bytes.Cut(p[:lineEnd-1], []byte{' '})
	target := rest[:len(rest)-len(" HTTP/1.1")]
	r, segment, err := routeOf(target)
	if r == nil || err != nil || !r.quick || string(method) != r.method {
		return nil, false
	}
	head := len(p) - f.length
	h := &x.headers
	h.read(p[lineEnd+1 : head])
	if h.close || h.repeated != "" || c.listener.guard != nil && c.listener.guard.admit(h) != nil {
		return nil, false
	}
	if media, ok := h.negotiate(setOf(mediaJSON, mediaJWK, mediaPEM)); !ok || media != mediaJSON {
		return nil, false
	}
	if r.body == 0 && f.length > 0 || r.body > 0 && r.takesBody(h) != nil {
		return nil, false
	}
	x.bounds, err = parseBounds(h)
	if err != nil {
		return nil, false
	}
	x.rest, x.content = segment, p[head:]
	return r, true
}

// maxJoined is up to which size an answer's body is sent in one piece with its head.
const maxJoined = 4 << 10

// send writes the answer as the library would.
func (c *conn) send(x *exchange) error {
	b := append(c.wire[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(x.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(x.status)...)
	b = append(b, "\r\nDate: "...)
	b = c.listener.data.appendDate(b, x.arrived)
	b = append(b, "\r\nContent-Type: "...)
	b = append(b, x.contentType...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(x.out)), 10)
	b = append(b, "\r\nCache-Control: no-store"...)
	if x.status == http.StatusServiceUnavailable {
		b = append(b, "\r\nRetry-After: 1"...)
	}
	if c.last = c.listener.data.stopping.Load(); c.last {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	if len(x.out) > maxJoined {
		c.wire = b
		return c.deliver(b, x.out)
	}
	c.wire = append(b, x.out...)
	return c.deliver(c.wire, nil)
}

// deliver writes head and body. For the event loop it leaves them where the loop finds them.
func (c *conn) deliver(head, body []byte) (err error) {
	switch {
	case c.Conn == nil:
		c.parts = [2][]byte{head, body}
	case len(body) == 0:
		_, err = c.Write(head)
	default:
		err = c.writeBoth(head, body)
	}
	return err
}

// date is what a Date field says for one second.
type date struct {
	second int64
	text   []byte
}

// appendDate appends t as a Date field has it (RFC 9110, 6.6.1).
func (d *Data) appendDate(b []byte, t time.Time) []byte {
	now := d.date.Load()
	if second := t.Unix(); now == nil || now.second != second {
		now = &date{second: second, text: fasthttp.AppendHTTPDate(nil, t)}
		d.date.Store(now)
	}
	return append(b, now.text...)
}
