package server

import (
	"context"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// exchange is one request and its answer. Each connection has one and uses it
// again; nothing in it outlives the handler, except out until it is written.
type exchange struct {
	req *fasthttp.RequestCtx
	// ctx bounds everything done for the request; it ends when the daemon stops.
	ctx context.Context //nolint:containedctx // lives exactly as long as the request
	// arrived is when the request was complete.
	arrived  time.Time
	listener *listener
	headers  headers
	bounds   keystore.Bounds
	// content is the request's body.
	content []byte
	// gateway: the request is for a gateway's route.
	gateway bool
	// late: the answer took more than memory, and so will the next, most likely.
	late bool
	// rest is what follows the route's prefix in the path, as it was sent.
	rest []byte

	// revalidate: the answer may be kept if each use of it asks first; see getJWKS.
	revalidate bool

	// The answer.
	status      int
	contentType string
	out         []byte
	// large is where out came from, if it was lent for a batch.
	large *largeBuffer

	id       []byte // buffer for a decoded key_id, or one that a secret hashes to
	hasher   *keystore.SecretHasher
	body     bodyReader
	question question
}

// keepBuffer is the largest buffer that a connection keeps between requests.
const keepBuffer = 16 << 10

const (
	typeForm    = "application/x-www-form-urlencoded"
	typeJSON    = "application/json"
	typeProblem = "application/problem+json"
)

// answer sets the answer; out must have been appended to x.out[:0].
func (x *exchange) answer(status int, contentType string, out []byte) error {
	x.status, x.contentType, x.out = status, contentType, out
	return nil
}

// handle answers one request: the entry from the library.
func (d *Data) handle(req *fasthttp.RequestCtx) {
	c := req.Conn().(*conn) //nolint:forcetypeassert // every connection is made by listener.serve
	c.beginHandling()
	c.answeredAtOnce = 0
	d.metrics.inFlight.Inc()
	defer d.metrics.inFlight.Dec()
	x := &c.x
	x.req, x.ctx, x.listener, x.arrived, x.content = req, d.life, c.listener, req.Time(), req.Request.Body()
	x.revalidate = false
	id, err := d.dispatch(x)
	d.finish(x, id, err)
	if len(x.content) > keepBuffer {
		req.Request.SwapBody(nil) // the library would keep it with the connection
	}
	x.req, x.ctx, x.content = nil, nil, nil
}

// largeBuffer is memory for an answer that a connection should not keep.
type largeBuffer struct{ b []byte }

// maxLarge is the largest buffer that is lent again.
const maxLarge = 4 << 20

// borrow lends x memory for a large answer, until trim.
func (d *Data) borrow(x *exchange) {
	x.large, _ = d.large.Get().(*largeBuffer)
	if x.large == nil {
		x.large = new(largeBuffer)
	}
	x.out = x.large.b[:0]
}

// trim lets go of what a large request left behind, once it is answered.
func (x *exchange) trim(d *Data) {
	if x.large != nil {
		if cap(x.out) <= maxLarge {
			x.large.b = x.out
			d.large.Put(x.large)
		}
		x.large, x.out = nil, nil
	}
	if cap(x.out) > keepBuffer {
		x.out = nil
	}
	if cap(x.body.scratch) > keepBuffer {
		x.body.scratch = nil
	}
	x.body.text = nil
}

// dispatch finds the route and runs it. A panic becomes a 500: one strange
// request must not take the keys of all others away.
func (d *Data) dispatch(x *exchange) (id routeID, err error) {
	defer func() {
		if v := recover(); v != nil {
			d.panicked(v)
			err = errInternal
		}
	}()
	x.headers.read(x.req.Request.Header.RawHeaders())
	target := x.req.Request.Header.RequestURI()
	x.gateway = d.gateway != nil && gatewayTarget(target)
	if err := x.listener.admit(x); err != nil {
		return routeNone, err
	}
	r, rest, err := routeOf(target)
	if r == nil {
		return routeNone, err
	}
	if d.gateway == nil && (r.gateway || r.credential) {
		return routeNone, errNoRoute
	}
	if err == nil {
		x.rest = rest
		err = x.prepare(r)
	}
	if err == nil {
		err = r.handle(d, x)
	}
	return r.id, err
}

// prepare checks what all routes have in common.
func (x *exchange) prepare(r *route) (err error) {
	h := &x.headers
	header := &x.req.Request.Header
	x.bounds = keystore.Bounds{}
	switch {
	case r.gateway:
		return nil // what else is in the request is its client's matter
	case !r.takes(header.Method()):
		p := *errMethod
		p.allow = r.allow()
		return &p
	case h.repeated != "":
		return errBadHeader.with(h.repeated + " occurs twice")
	case r.body == 0 && header.ContentLength() > 0, r.body == 0 && len(x.content) > 0:
		return errBody
	case r.body > 0:
		if err := r.takesBody(h); err != nil {
			return err
		}
	}
	x.bounds, err = parseBounds(h)
	return err
}

// parseBounds reads what a caller asks of the answer's freshness.
func parseBounds(h *headers) (keystore.Bounds, error) {
	if len(h.cacheControl) == 0 {
		return keystore.Bounds{}, nil
	}
	return parseCacheControl(h.cacheControl)
}

// takesBody checks that the body is of the route's type, and not compressed.
func (r *route) takesBody(h *headers) error {
	plain := len(h.contentEncoding) == 0 || equalFold(h.contentEncoding, "identity")
	switch {
	case r.media == "" && !(plain && isType(h.contentType, typeJSON)):
		return errMediaType
	case r.media != "" && !(plain && isType(h.contentType, r.media)):
		return errMediaType.with("the body must be " + r.media + ", not compressed")
	}
	return nil
}

// isType reports whether a Content-Type is want, perhaps with the parameter
// charset=utf-8.
func isType(contentType []byte, want string) bool {
	if equalFold(contentType, want) {
		return true
	}
	n := len(want)
	if len(contentType) <= n || !equalFold(contentType[:n], want) {
		return false
	}
	rest := trimBlanks(contentType[n:])
	if len(rest) == 0 || rest[0] != ';' {
		return false
	}
	rest = trimBlanks(rest[1:])
	return len(rest) == 0 || equalFold(rest, "charset=utf-8") || equalFold(rest, `charset="utf-8"`)
}

// refused is called by the library for bytes that are no request, or not in time.
func (d *Data) refused(req *fasthttp.RequestCtx, _ error) {
	c := req.Conn().(*conn) //nolint:forcetypeassert // every connection is made by listener.serve
	c.beginHandling()
	p := c.bad
	switch {
	case p != nil:
	case c.timedOut.Load():
		p = errTimeout
	default:
		p = errMalformed
		c.bad = p // the client may still be sending
	}
	x := &c.x
	x.req, x.listener, x.arrived = req, c.listener, time.Now()
	x.gateway = c.framer.gateway
	d.finish(x, routeNone, p)
	x.req = nil
}

// refuse makes err the answer, and counts it.
func (d *Data) refuse(x *exchange, err error) *problem {
	p := problemOf(err)
	if x.gateway {
		p = p.forGateway()
	}
	d.metrics.refusedRequest(p)
	_ = x.answer(p.status, typeProblem, appendProblem(x.out[:0], p))
	return p
}

// finish writes the answer, or the problem if err is one, and counts it.
func (d *Data) finish(x *exchange, id routeID, err error) {
	var p *problem
	if err != nil {
		p = d.refuse(x, err)
	}
	res := &x.req.Response
	res.SetStatusCode(x.status)
	res.Header.SetContentType(x.contentType)
	res.Header.SetCanonical(headerCacheControl, valueNoStore)
	if x.revalidate {
		res.Header.SetCanonical(headerCacheControl, valueNoCache)
	}
	switch x.status {
	case http.StatusServiceUnavailable:
		res.Header.SetCanonical(headerRetryAfter, valueOne)
	case http.StatusMethodNotAllowed:
		res.Header.Set(fasthttp.HeaderAllow, p.allow)
	case http.StatusUnauthorized:
		res.Header.Set(fasthttp.HeaderWWWAuthenticate, `Bearer realm="keysidecar"`)
	}
	if x.headers.close || d.stopping.Load() {
		res.SetConnectionClose()
	}
	res.SetBodyRaw(x.out)
	d.metrics.answered(id, x.listener.id, x.status, time.Since(x.arrived))
}

// Header names and values that every answer needs, ready to copy. Read-only.
var (
	headerCacheControl = []byte(fasthttp.HeaderCacheControl)
	headerRetryAfter   = []byte(fasthttp.HeaderRetryAfter)
	valueNoStore       = []byte("no-store")
	valueNoCache       = []byte("no-cache")
	valueOne           = []byte("1")
)
