package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Conn is a kept-alive HTTP/1.1 connection over a Unix socket, for GETs, one at a
// time. net/http would take most of a core for what the drivers ask together.
type Conn struct {
	net.Conn
	in  *bufio.Reader
	out []byte
	// process is who listened when it was made, for a prober.
	process int
	body    []byte
	// last: the server will close it after this answer.
	last bool
}

// Dial connects to a sidecar's socket.
func Dial(ctx context.Context, socket string) (*Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: c, in: bufio.NewReaderSize(c, 8<<10)}, nil
}

// Last reports whether the server closes the connection after the answer that was read.
func (c *Conn) Last() bool { return c.last }

// maxBody is more than any answer of the routes that are asked.
const maxBody = 1 << 20

var errAnswer = errors.New("not an HTTP answer with a length")

// Get asks for a path. The body is overwritten by the next call. After an error
// the connection is of no use.
func (c *Conn) Get(path, keyID, query string, timeout time.Duration) (status int, body []byte, err error) {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return 0, nil, err
	}
	b := append(c.out[:0], "GET "...)
	b = append(append(append(b, path...), keyID...), query...)
	c.out = append(b, " HTTP/1.1\r\nHost: keysidecar\r\n\r\n"...)
	if _, err := c.Write(c.out); err != nil {
		return 0, nil, err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < len("HTTP/1.1 200\r\n") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, errAnswer
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, errAnswer
	}
	length, err := c.header()
	if err != nil {
		return 0, nil, err
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	_, err = io.ReadFull(c.in, c.body)
	return status, c.body, err
}

// header reads up to the body and returns its length.
func (c *Conn) header() (length int, err error) {
	length = -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, errAnswer
			}
		case bytes.EqualFold(name, []byte("connection")):
			c.last = bytes.EqualFold(value, []byte("close"))
		}
	}
	if length < 0 || length > maxBody {
		return 0, errAnswer
	}
	return length, nil
}

// why is a short word for an error of Dial or Get.
func why(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, errAnswer):
		return "malformed"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		if op.Timeout() {
			return "timeout"
		}
		if op.Op == "dial" {
			return "refused"
		}
		return "closed"
	}
	return strings.ReplaceAll(fmt.Sprintf("%T", err), "*", "")
}
