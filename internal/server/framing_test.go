package server

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

func testLimits() frameLimits {
	return frameLimits{header: maxHeader, gatewayHeader: maxGatewayHeader, body: bodyLimit}
}

// feedAll gives data to a new framer in pieces of at most n bytes and returns
// how much was handed on, and the problem.
func feedAll(data []byte, n int) (f *framer, handedOn []byte, bad *problem) {
	f = &framer{limits: testLimits()}
	for len(data) > 0 && bad == nil {
		piece := data[:min(n, len(data))]
		data = data[len(piece):]
		var k int
		k, bad = f.feed(bytes.Clone(piece))
		handedOn = append(handedOn, piece[:k]...)
	}
	return f, handedOn, bad
}

const simple = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func TestFramerTellsWhereMessagesEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sent     string
		messages int
		between  bool
	}{
		{simple, 1, true},
		{simple + simple, 2, true},
		{"\r\n" + simple, 1, true},
		{simple + "\r\n" + simple, 2, true},
		{simple + "\r\n", 1, false},
		{"GET / HTTP/1.0\r\n\r\n", 1, true},
		{"GET / HTTP/1.0\r\nHost:\r\n\r\n", 1, true},
		{"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 1, true},
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + simple, 2, true},
		{"POST / HTTP/1.1\r\nHost: x\r\ncontent-LENGTH:\t 005 \t\r\n\r\nhel\n\r", 0, true},
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell", 0, false},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n00a\r\n0123456789\r\n0\r\n\r\n" + simple, 2, true},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1, true},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 0, false},
		{"GET /v1/keys/\xff%zz HTTP/1.1\r\nHost: x\r\n\r\n", 1, true},
	} {
		for _, n := range []int{1, 2, 7, 1 << 20} {
			f, handedOn, bad := feedAll([]byte(tt.sent), n)
			if tt.messages == 0 && tt.between {
				tt.messages = f.ended // a row that ends wherever it ends
			}
			if bad != nil || string(handedOn) != tt.sent || f.ended != tt.messages || f.between() != tt.between {
				t.Errorf("%q by %d: %d messages, between %v, %v", tt.sent, n, f.ended, f.between(), bad)
			}
		}
	}
}

// badMessages are what two parsers could read in two ways, or nobody should
// send. They are also sent to the real server, in smuggling_test.go.
var badMessages = []struct {
	name, sent string
	want       *problem
}{
	{"bare LF after the request line", "GET / HTTP/1.1\nHost: x\r\n\r\n", errMalformed},
	{"bare LF after a field", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", errMalformed},
	{"bare LF ends the header", "GET / HTTP/1.1\r\nHost: x\r\n\nGET /admin HTTP/1.1\r\nHost: y\r\n\r\n", errMalformed},
	{"bare LFs only", "GET / HTTP/1.1\nHost: x\n\n", errMalformed},
	{"bare CR in a field", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rContent-Length: 5\r\n\r\n", errMalformed},
	{"bare CR in the request line", "GET /\r HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"CR CR LF", "GET / HTTP/1.1\r\r\nHost: x\r\n\r\n", errMalformed},
	{"folded field", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", errMalformed},
	{"folded field with tab", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n", errMalformed},
	{"first field begins with a space", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", errMalformed},
	{"space before the colon", "GET / HTTP/1.1\r\nHost : x\r\n\r\n", errMalformed},
	{"tab before the colon", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length\t: 5\r\n\r\nhello", errMalformed},
	{"space in a field name", "POST / HTTP/1.1\r\nHost: x\r\nContent Length: 5\r\n\r\n", errMalformed},
	{"no colon", "GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", errMalformed},
	{"empty field name", "GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", errMalformed},
	{"NUL in a field name", "GET / HTTP/1.1\r\nHost: x\r\nA\x00: y\r\n\r\n", errMalformed},
	{"two equal Content-Lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", errMalformed},
	{"two different Content-Lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\ncontent-length: 0\r\n\r\nhello", errMalformed},
	{"a list of Content-Lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello", errMalformed},
	{"negative Content-Length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", errMalformed},
	{"signed Content-Length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", errMalformed},
	{"hexadecimal Content-Length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello", errMalformed},
	{"empty Content-Length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", errMalformed},
	{"Content-Length beyond every integer", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999\r\n\r\n", errTooLarge},
	{"Content-Length that wraps to 5", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551621\r\n\r\nhello", errTooLarge},
	{"Content-Length and chunked", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errMalformed},
	{"chunked and Content-Length", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", errMalformed},
	{"chunked twice", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errMalformed},
	{"chunked, chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", errMalformed},
	{"gzip, chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", errMalformed},
	{"identity", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", errMalformed},
	{"xchunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", errMalformed},
	{"chunked with vertical tab", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", errMalformed},
	{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errMalformed},
	{"chunk extension", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", errMalformed},
	{"endless chunk extension", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;" + strings.Repeat("a", 100), errMalformed},
	{"space after a chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n", errMalformed},
	{"bare LF after a chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", errMalformed},
	{"bare LF after a chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n", errMalformed},
	{"chunk longer than its size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}}\r\n0\r\n\r\n", errMalformed},
	{"empty chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n", errMalformed},
	{"0x chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", errMalformed},
	{"negative chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", errMalformed},
	{"chunk size that overflows", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff2\r\n{}\r\n0\r\n\r\n", errTooLarge},
	{"a long row of zeros as chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 40), errMalformed},
	{"trailer", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nOrigin: x\r\n\r\n", errMalformed},
	{"absolute form", "GET http://x/v1/status HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"authority form", "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"relative target", "GET v1/status HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"empty target", "GET  HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"control character in the target", "GET /v1/keys/a\x01b HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"tab in the target", "GET /v1/keys/a\tb HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"DEL in the target", "GET /v1/keys/a\x7f HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"space in the target", "GET /v1/keys/a b HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"two spaces after the method", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"space after the version", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", errMalformed},
	{"no version", "GET /\r\nHost: x\r\n\r\n", errMalformed},
	{"lower-case version", "GET / http/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"HTTP/0.9", "GET / HTTP/0.9\r\nHost: x\r\n\r\n", errVersion},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", errVersion},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", errVersion},
	{"no Host", "GET / HTTP/1.1\r\nA: b\r\n\r\n", errMalformed},
	{"empty Host", "GET / HTTP/1.1\r\nHost: \r\n\r\n", errMalformed},
	{"two Hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", errMalformed},
	{"two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\nhost: y\r\n\r\n", errMalformed},
	{"unknown expectation", "POST / HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\n\r\n", errExpectation},
	{"two expectations", "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\n", errExpectation},
	{"expectation in HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", errExpectation},
	{"a TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", errMalformed},
	{"a NUL", "\x00", errMalformed},
	{"a space before the method", " GET / HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"method that is no token", "G(T / HTTP/1.1\r\nHost: x\r\n\r\n", errMalformed},
	{"long request line", "GET /" + strings.Repeat("a", 9000) + " HTTP/1.1\r\nHost: x\r\n\r\n", errURITooLong},
	{"endless request line", "GET /" + strings.Repeat("a", 9000), errURITooLong},
	{"long field", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 9000) + "\r\n\r\n", errHeaderTooBig},
	{"endless field", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 9000), errHeaderTooBig},
	{"many fields", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 2000) + "\r\n", errHeaderTooBig},
	{"body too large", "POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", errTooLarge},
	{"batch body too large", "POST /v1/verify/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n", errTooLarge},
	{"body too large by chunks", "POST /v1/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n" + strings.Repeat("a", 0x10000) + "\r\n1\r\n", errTooLarge},
}

// The problem is found wherever the bytes are cut into reads, the library gets
// at least the first byte (or it would close without an answer), and never the
// whole header.
func TestFramerRefusesWhatIsAmbiguous(t *testing.T) {
	t.Parallel()
	for _, tt := range badMessages {
		for _, before := range []string{"", simple, "\r\n"} {
			if before == "\r\n" && tt.want == errMalformed {
				continue // an empty line changes how much of the rest is looked at
			}
			for _, n := range []int{1, 3, 1 << 20} {
				sent := before + tt.sent
				f, handedOn, bad := feedAll([]byte(sent), n)
				if bad == nil || bad.code != tt.want.code {
					t.Errorf("%s by %d after %q: %v, want %s", tt.name, n, before, bad, tt.want.code)
					continue
				}
				if len(handedOn) <= len(before) || !strings.HasPrefix(sent, string(handedOn)) {
					t.Errorf("%s by %d after %q: handed on %d bytes", tt.name, n, before, len(handedOn))
				}
				if f.between() {
					t.Errorf("%s by %d: a refused message has ended", tt.name, n)
				}
			}
		}
	}
}

func TestFramerTakesAHeaderOfExactlyTheLimit(t *testing.T) {
	t.Parallel()
	const fixed = len("GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n")
	for _, n := range []int{1, 1000, 1 << 20} {
		fits := "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", maxHeader-fixed) + "\r\n\r\n"
		if f, _, bad := feedAll([]byte(fits), n); bad != nil || f.ended != 1 {
			t.Errorf("by %d: %v", n, bad)
		}
		if _, _, bad := feedAll([]byte(strings.Replace(fits, "A: ", "A: a", 1)), n); bad == nil || bad.code != "header_too_large" {
			t.Errorf("by %d, one byte more: %v", n, bad)
		}
	}
}

// FuzzFramer holds the framer against net/http: what the framer lets pass,
// net/http must read too, with the same body and the same end; and how the
// bytes are cut into reads changes nothing.
func FuzzFramer(f *testing.F) {
	f.Add([]byte(simple), uint8(1))
	f.Add([]byte("POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"+simple), uint8(3))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"+simple), uint8(200))
	for _, m := range badMessages {
		f.Add([]byte(m.sent), uint8(2))
	}
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		whole, passed, bad := feedAll(data, len(data)+1)
		pieces, passedToo, badToo := feedAll(data, int(piece)+1)
		if (bad == nil) != (badToo == nil) || bad != nil && bad.code != badToo.code || whole.ended != pieces.ended {
			t.Fatalf("%q whole: %v, %d; by %d: %v, %d", data, bad, whole.ended, int(piece)+1, badToo, pieces.ended)
		}
		if !bytes.HasPrefix(data, passed) || !bytes.HasPrefix(data, passedToo) {
			t.Fatal("the framer changed bytes")
		}
		r := bufio.NewReader(bytes.NewReader(passed))
		for i := range whole.ended {
			req, err := http.ReadRequest(r)
			if err != nil {
				// net/http parses the target and the values too; those are not framing.
				if isAboutContent(err) {
					return
				}
				t.Fatalf("message %d of %q: the framer takes it, net/http does not: %v", i, data, err)
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				t.Fatalf("body of message %d of %q: %v", i, data, err)
			}
		}
		rest, _ := io.ReadAll(r)
		if whole.between() && len(bytes.Trim(rest, "\r\n")) > 0 {
			t.Fatalf("%q: the framer saw the end of %d messages, net/http has %q left", data, whole.ended, rest)
		}
	})
}

func isAboutContent(err error) bool {
	for _, s := range []string{"invalid URL escape", "invalid URI", "malformed HTTP request", "invalid method", "malformed Host", "invalid header", "malformed MIME", "net/url"} {
		if strings.Contains(err.Error(), s) || strings.Contains(err.Error(), "parse ") {
			return true
		}
	}
	return false
}
