package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"
)

// Client asks one sidecar over one kept-alive connection, one question at a time.
// It reads no more of an answer than its status.
type Client struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

// NewClient connects to a sidecar's socket.
func NewClient(ctx context.Context, socket string) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, in: bufio.NewReader(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() { _ = c.conn.Close() }

var errNoAnswer = errors.New("not an HTTP answer")

// Status asks for a key and returns the status of the answer.
func (c *Client) Status(key string) (int, error) {
	if err := c.conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	c.out = append(append(append(c.out[:0], "GET /v1/keys/"...), key...), " HTTP/1.1\r\nHost: keysidecar\r\n\r\n"...)
	if _, err := c.conn.Write(c.out); err != nil {
		return 0, err
	}
	status, length := 0, 0
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
		switch {
		case status == 0 && len(line) >= 12:
			status, err = strconv.Atoi(string(line[9:12]))
		case bytes.EqualFold(name, []byte("content-length")):
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
		if err != nil {
			return 0, errNoAnswer
		}
	}
	_, err := io.CopyN(io.Discard, c.in, int64(length))
	return status, err
}
