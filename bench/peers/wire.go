package peers

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// reply is what a wire reads of an answer.
type reply uint8

const (
	partial reply = iota // not complete yet
	found
	notFound
	// wrong: neither of the two.
	wrong
)

// A wire finds the first whole answer in what has been received: its length and what
// it says. The error is about bytes that are no answer at all.
type wire func(received []byte) (length int, says reply, err error)

var (
	headEnd       = []byte("\r\n\r\n")
	lengthField   = []byte("\r\nContent-Length: ")
	errNoHTTP     = errors.New("not an HTTP answer with a length")
	errNoRedis    = errors.New("not an answer to a GET of Redis")
	httpVersion   = []byte("HTTP/1.1 ")
	statusOffset  = len(httpVersion)
	shortestReply = statusOffset + 3
)

// http reads the status and the length, and nothing else: 200 is found, 404 not.
func http(received []byte) (int, reply, error) {
	end := bytes.Index(received, headEnd)
	if end < 0 {
		return 0, partial, nil
	}
	if end < shortestReply || !bytes.HasPrefix(received, httpVersion) {
		return 0, wrong, errNoHTTP
	}
	at := bytes.Index(received[:end+2], lengthField)
	if at < 0 {
		return 0, wrong, errNoHTTP
	}
	n := 0
	for _, c := range received[at+len(lengthField) : end+2] {
		if c == '\r' {
			break
		}
		if c < '0' || c > '9' || n > 1<<30 {
			return 0, wrong, errNoHTTP
		}
		n = 10*n + int(c-'0')
	}
	length := end + len(headEnd) + n
	if len(received) < length {
		return 0, partial, nil
	}
	switch string(received[statusOffset:shortestReply]) {
	case "200":
		return length, found, nil
	case "404":
		return length, notFound, nil
	}
	return length, wrong, nil
}

// resp reads a bulk string of Redis' protocol, which may be null.
func resp(received []byte) (int, reply, error) {
	end := bytes.IndexByte(received, '\n')
	if end < 0 {
		return 0, partial, nil
	}
	if received[0] != '$' || received[max(0, end-1)] != '\r' {
		return 0, wrong, fmt.Errorf("%w: %q", errNoRedis, received[:end])
	}
	if received[1] == '-' {
		return end + 1, notFound, nil
	}
	n := 0
	for _, c := range received[1 : end-1] {
		if c < '0' || c > '9' || n > 1<<30 {
			return 0, wrong, errNoRedis
		}
		n = 10*n + int(c-'0')
	}
	length := end + 1 + n + 2
	if len(received) < length {
		return 0, partial, nil
	}
	return length, found, nil
}

// httpGet is the request for one key.
func httpGet(keyID string) []byte {
	return []byte("GET /v1/keys/" + keyID + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

// httpBatch is the request for many.
func httpBatch(keyIDs []string) []byte {
	var body bytes.Buffer
	body.WriteString(`{"requests":[`)
	for i, id := range keyIDs {
		if i > 0 {
			body.WriteByte(',')
		}
		body.WriteString(`{"key_id":"` + id + `"}`)
	}
	body.WriteString(`]}`)
	return []byte("POST /v1/verify/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(body.Len()) + "\r\n\r\n" + body.String())
}

// respCommand is a command of Redis' protocol.
func respCommand(words ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.Bytes()
}
