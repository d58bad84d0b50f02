package server

import (
	"bytes"
)

// framer reads along with the bytes of one connection, before the HTTP library
// sees them, and refuses what RFC 9112 lets two parsers read in two ways. It
// never changes a byte. Behind it the library only meets messages whose
// boundaries are beyond doubt, and the framer knows for each moment whether a
// request is under way.
//
// Stricter than the library (fasthttp 1.74) in: bare LF and bare CR, obsolete
// line folding, blanks in field names, Content-Length next to
// Transfer-Encoding, Transfer-Encoding: identity, chunk extensions (which the
// library reads without limit) and trailers (which it files among the header
// fields), absolute-form and authority-form targets, HTTP versions other than
// 1.0 and 1.1, and more than one empty line before a request.
type framer struct {
	limits frameLimits
	state  frameState
	// line holds the beginning of a line whose end has not arrived.
	line []byte
	// from is where the message that has not ended begins in the bytes fed last; 0
	// if it began before them.
	from int
	// gateway: the request line names a gateway's route, or so far it does.
	gateway bool
	// head counts the bytes of the header section so far.
	head int
	// rest counts the bytes to come of a body of known length, or of a chunk.
	rest int
	// content counts the bytes of a chunked body so far.
	content int
	// bodyMax is the limit of the route that the request line names.
	bodyMax int
	// began and ended count messages whose first and whose last byte was seen.
	began, ended int

	http10, hasHost, emptyHost bool
	hasLength, chunked         bool
	length                     int
	expect                     expectation
}

// frameLimits are a listener's limits on one message, in bytes.
type frameLimits struct {
	header int
	// gatewayHeader is the limit of gateways' routes; 0 if there are none.
	gatewayHeader int
	// body gives the limit for a raw request target.
	body func(target []byte) int
}

type frameState uint8

const (
	inStart      frameState = iota // between messages
	inEmptyLine                    // the one empty line that may precede a request has begun
	inRequest                      // in the request line
	inFields                       // in the header fields
	inBody                         // in a body of known length
	inChunkSize                    // in the line with a chunk's size
	inChunk                        // in a chunk's data
	inChunkEnd                     // in the CRLF that ends a chunk's data
	inChunkedEnd                   // in the empty line that ends a chunked body
)

type expectation uint8

const (
	expectNothing expectation = iota
	expectContinue
	expectOther
)

// between reports whether the last byte seen ended a message.
func (f *framer) between() bool { return f.began == f.ended }

// inGatewayHead reports whether the last byte seen belongs to the head of a
// request that is, or may be, for a gateway's route, and does not end that head.
func (f *framer) inGatewayHead() bool {
	return f.limits.gatewayHeader > 0 && (f.state == inEmptyLine || f.state == inRequest || f.state == inFields && f.gateway)
}

// feed takes the bytes that arrived. It returns how many of them may be handed
// on, all if bad is nil. Of a bad message the byte that would complete the
// offending line is held back, so the library never sees it whole; but at least
// its first byte was handed on, now or earlier, so that the library waits for
// the rest and reports the error that Read then returns.
func (f *framer) feed(p []byte) (n int, bad *problem) {
	f.from = 0
	for i := 0; i < len(p); {
		switch f.state {
		case inStart, inEmptyLine, inRequest, inFields, inChunkSize, inChunkEnd, inChunkedEnd:
			if f.state == inStart {
				f.from = i
				if bad = f.begin(p[i]); bad != nil {
					return i + 1, bad
				}
			}
			end := bytes.IndexByte(p[i:], '\n')
			if end < 0 {
				if bad = f.keep(p[i:]); bad != nil {
					return f.held(i, i), bad
				}
				return len(p), nil
			}
			if bad = f.endLine(p[i : i+end]); bad != nil {
				return f.held(i, i+end), bad
			}
			i += end + 1
		case inBody, inChunk:
			take := min(len(p)-i, f.rest)
			f.rest -= take
			i += take
			if f.rest > 0 {
				break
			}
			if f.state == inBody {
				f.finish()
			} else {
				f.state = inChunkEnd
			}
		}
	}
	return len(p), nil
}

// held is where to cut p when the line that began at start is refused at end:
// before end, yet not so early that the message's first byte is missing.
func (f *framer) held(start, end int) int {
	if f.state <= inRequest && start == end && len(f.line) == 0 {
		return end + 1 // the first byte of the message; one byte completes nothing
	}
	return end
}

// begin starts a message at its first byte.
func (f *framer) begin(c byte) *problem {
	f.began++
	f.state = inRequest
	f.gateway = false
	f.head, f.content, f.length = 0, 0, 0
	f.http10, f.hasHost, f.emptyHost, f.hasLength, f.chunked, f.expect = false, false, false, false, false, expectNothing
	if c == '\r' {
		f.state = inEmptyLine
		return nil
	}
	if !tokenByte[c] {
		return errMalformed.with("a request begins with a method")
	}
	return nil
}

// rewind forgets a message that was fed from its first byte, so that it can be fed again:
// began and ended are as they were before.
func (f *framer) rewind(began, ended int) {
	f.began, f.ended, f.state, f.line = began, ended, inStart, f.line[:0]
}

// finish ends a message.
func (f *framer) finish() {
	f.ended++
	f.state = inStart
}

// keep stores the beginning of a line, within the limits.
func (f *framer) keep(part []byte) *problem {
	f.recognise(part)
	if bad := f.checkLength(len(f.line) + len(part) - 1); bad != nil {
		return bad
	}
	f.line = append(f.line, part...)
	if f.state == inChunkSize {
		// Now and not at the line's end: the library, which has these bytes by then, would
		// have an opinion of its own of a number that it cannot hold.
		_, bad := f.sizeIn(bytes.TrimSuffix(f.line, []byte{'\r'}))
		return bad
	}
	return nil
}

// maxChunkLine is enough for any size below the body limits, with zeros before it.
const maxChunkLine = 16

// checkLength refuses a line of at least n bytes, not counting its CRLF, that
// is too long for its place.
func (f *framer) checkLength(n int) *problem {
	switch f.state {
	case inRequest:
		if n+2 > f.maxHead() {
			return errURITooLong
		}
	case inFields:
		if f.head+n+2 > f.maxHead() {
			if f.gateway {
				return errHeaderTooBig.with("the request line and header fields together exceed 64 KiB")
			}
			return errHeaderTooBig
		}
	case inChunkEnd, inChunkedEnd, inEmptyLine:
		if n > maxChunkLine {
			return f.broken()
		}
	case inStart, inBody, inChunk, inChunkSize: // sizeIn counts its digits
	}
	return nil
}

// maxHead is the limit on the request line and header fields of this message.
func (f *framer) maxHead() int {
	if f.gateway {
		return f.limits.gatewayHeader
	}
	return f.limits.header
}

// recognise looks, in a request line that is too long for most routes and has not
// ended, whether the route is a gateway's. part follows what was kept.
func (f *framer) recognise(part []byte) {
	if f.state != inRequest || f.gateway || f.limits.gatewayHeader == 0 || len(f.line)+len(part)+1 <= f.limits.header {
		return
	}
	var begin [256]byte
	n := copy(begin[:], f.line)
	n += copy(begin[n:], part)
	if _, target, ok := bytes.Cut(begin[:n], []byte{' '}); ok {
		f.gateway = gatewayTarget(target)
	}
}

// broken words what is wrong with a line that is too long for its place.
func (f *framer) broken() *problem {
	switch f.state {
	case inChunkSize:
		return errMalformed.with("a chunk's size is hexadecimal digits and CRLF; chunk extensions are not taken")
	case inChunkEnd:
		return errMalformed.with("a chunk's data is longer or shorter than its size says")
	case inChunkedEnd:
		return errMalformed.with("trailer fields are not taken")
	case inStart, inEmptyLine, inRequest, inFields, inBody, inChunk:
	}
	return errMalformed
}

// endLine takes one whole line, whose LF has arrived; part is the line or its
// last part, without the LF.
func (f *framer) endLine(part []byte) *problem {
	f.recognise(part)
	if bad := f.checkLength(len(f.line) + len(part) - 1); bad != nil {
		return bad
	}
	line := part
	if len(f.line) > 0 {
		f.line = append(f.line, part...)
		line = f.line
		f.line = f.line[:0]
	}
	cr := bytes.IndexByte(line, '\r')
	if f.state == inChunkSize {
		digits, _, _ := bytes.Cut(line, []byte{'\r'})
		if _, bad := f.sizeIn(digits); bad != nil {
			return bad
		}
	}
	switch {
	case cr < 0:
		return errMalformed.with("a line ends with CR and LF, not with LF alone")
	case cr != len(line)-1:
		return errMalformed.with("CR occurs only before LF")
	}
	return f.take(line[:cr])
}

// take takes one line without its end.
func (f *framer) take(line []byte) *problem {
	switch f.state {
	case inEmptyLine:
		if len(line) > 0 {
			return errMalformed
		}
		f.state = inRequest
		return nil
	case inRequest:
		f.head = len(line) + 2
		f.state = inFields
		return f.requestLine(line)
	case inFields:
		f.head += len(line) + 2
		if len(line) == 0 {
			return f.endFields()
		}
		return f.field(line)
	case inChunkSize:
		return f.chunkSize(line)
	case inChunkEnd:
		f.state = inChunkSize
		if len(line) > 0 {
			f.state = inChunkEnd
			return f.broken()
		}
		return nil
	case inChunkedEnd:
		if len(line) > 0 {
			return f.broken()
		}
		f.finish()
		return nil
	case inStart, inBody, inChunk:
	}
	return errMalformed // not reached: these states read no lines
}

// requestLine checks "method SP target SP HTTP/1.x" (RFC 9112, section 3).
func (f *framer) requestLine(line []byte) *problem {
	method, rest, ok1 := bytes.Cut(line, []byte{' '})
	target, version, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok1 || !ok2 || !isToken(method) {
		return errMalformed.with("a request line is a method, a target and a version, with one space between")
	}
	f.gateway = f.limits.gatewayHeader > 0 && gatewayTarget(target)
	switch {
	case string(version) == "HTTP/1.1":
	case string(version) == "HTTP/1.0":
		f.http10 = true
	case len(version) == 8 && string(version[:5]) == "HTTP/":
		return errVersion
	default:
		return errMalformed.with("a request line ends with HTTP/1.1")
	}
	if len(target) == 0 || target[0] != '/' && string(target) != "*" {
		return errMalformed.with("the target must begin with a slash; absolute forms are not taken")
	}
	for _, c := range target {
		if c <= ' ' || c == 0x7f {
			return errMalformed.with("the target holds a control character")
		}
	}
	if f.gateway {
		f.bodyMax = maxGatewayBody
	} else {
		f.bodyMax = f.limits.body(target)
	}
	return nil
}

// field checks one header field (RFC 9112, section 5) and notes those that
// decide where the message ends.
func (f *framer) field(line []byte) *problem {
	if line[0] == ' ' || line[0] == '\t' {
		return errMalformed.with("a header field must not be folded over several lines")
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || !isToken(line[:colon]) {
		return errMalformed.with("a header field is a name, a colon without blanks before it, and a value")
	}
	name, value := line[:colon], trimBlanks(line[colon+1:])
	switch {
	case equalFold(name, "host"):
		if f.hasHost {
			return errMalformed.with("Host occurs twice")
		}
		f.hasHost, f.emptyHost = true, len(value) == 0
	case equalFold(name, "content-length"):
		if f.hasLength {
			return errMalformed.with("Content-Length occurs twice")
		}
		f.hasLength = true
		return f.contentLength(value)
	case equalFold(name, "transfer-encoding"):
		if f.chunked {
			return errMalformed.with("Transfer-Encoding occurs twice")
		}
		if !equalFold(value, "chunked") {
			return errMalformed.with("the only transfer coding taken is chunked")
		}
		f.chunked = true
	case equalFold(name, "expect"):
		if !equalFold(value, "100-continue") || f.expect != expectNothing {
			f.expect = expectOther
		} else {
			f.expect = expectContinue
		}
	}
	return nil
}

// contentLength reads a Content-Length: digits only, so that "5, 5", "+5" and
// "0x5" are refused.
func (f *framer) contentLength(value []byte) *problem {
	const enough = 15 // digits that an int surely holds
	if len(value) == 0 {
		return errMalformed.with("Content-Length is not a number")
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return errMalformed.with("Content-Length is not a number")
		}
		f.length = f.length*10 + int(c-'0')
	}
	if len(value) > enough {
		return errTooLarge
	}
	return nil
}

// endFields decides how the message goes on after its header section (RFC 9112,
// section 6.3).
func (f *framer) endFields() *problem {
	switch {
	case !f.http10 && (!f.hasHost || f.emptyHost):
		return errMalformed.with("an HTTP/1.1 request names a Host")
	case f.chunked && f.hasLength:
		return errMalformed.with("Content-Length and Transfer-Encoding exclude each other")
	case f.chunked && f.http10:
		return errMalformed.with("HTTP/1.0 has no Transfer-Encoding")
	case f.length > f.bodyMax:
		return errTooLarge
	case f.expect == expectOther, f.expect == expectContinue && f.http10:
		return errExpectation
	case f.chunked:
		f.state = inChunkSize
	case f.length > 0:
		f.rest = f.length
		f.state = inBody
	default:
		f.finish()
	}
	return nil
}

// chunkSize reads a chunk's size: hexadecimal digits and nothing else.
func (f *framer) chunkSize(line []byte) *problem {
	if len(line) == 0 {
		return f.broken()
	}
	size, bad := f.sizeIn(line)
	if bad != nil {
		return bad
	}
	f.content += size
	f.rest = size
	f.state = inChunk
	if size == 0 {
		f.state = inChunkedEnd
	}
	return nil
}

// sizeIn is the size that the digits of a chunk's size so far make. What is wrong first
// counts, so that it does not matter in which pieces they arrive.
func (f *framer) sizeIn(digits []byte) (size int, bad *problem) {
	for i, c := range digits {
		d := hexDigit(c)
		if d < 0 || i >= maxChunkLine {
			return 0, f.broken()
		}
		if size = size<<4 | d; f.content+size > f.bodyMax {
			return 0, errTooLarge
		}
	}
	return size, nil
}

// hexDigit returns the value of a hexadecimal digit, or -1.
func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// tokenByte says which bytes a token may have (RFC 9110, 5.6.2). Read-only.
var tokenByte = func() (ok [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		ok[c] = true
	}
	return ok
}()

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenByte[c] {
			return false
		}
	}
	return len(b) > 0
}

// trimBlanks removes optional whitespace (RFC 9110, 5.6.3) around b.
func trimBlanks(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold reports whether b is lower in any case; lower is ASCII in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
