package loss

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// channel is the Pub/Sub channel that revocations are published to.
const channel = "revoked"

// redisConn speaks as much of Redis' protocol as Pub/Sub takes.
type redisConn struct {
	net.Conn
	in *bufio.Reader
}

func dialRedis(ctx context.Context, address string) (*redisConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &redisConn{Conn: conn, in: bufio.NewReader(conn)}, nil
}

func (c *redisConn) send(words ...string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	_, err := io.WriteString(c, b.String())
	return err
}

// read reads one reply: the bulk strings of an array, or one number.
func (c *redisConn) read() ([]string, error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSpace(line)
	if line == "" {
		return nil, errors.New("redis: an empty line")
	}
	switch line[0] {
	case ':':
		return []string{line[1:]}, nil
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return nil, fmt.Errorf("redis: %q", line)
		}
		text := make([]byte, n+2)
		if _, err := io.ReadFull(c.in, text); err != nil {
			return nil, err
		}
		return []string{string(text[:n])}, nil
	case '*':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			return nil, fmt.Errorf("redis: %q", line)
		}
		var all []string
		for range n {
			part, err := c.read()
			if err != nil {
				return nil, err
			}
			all = append(all, part...)
		}
		return all, nil
	}
	return nil, fmt.Errorf("redis: %q", line)
}

// publish tells everybody who listens now.
func (c *redisConn) publish(keyID string) error {
	if err := c.send("PUBLISH", channel, keyID); err != nil {
		return err
	}
	_, err := c.read()
	return err
}

// hearRedis subscribes, calls subscribed, and then revoked for each message, until the
// connection is lost or ctx ends.
func hearRedis(ctx context.Context, address string, subscribed func(), revoked func(string)) error {
	c, err := dialRedis(ctx, address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer func() { _ = c.Close() }()
	if err := c.send("SUBSCRIBE", channel); err != nil {
		return err
	}
	for {
		message, err := c.read()
		switch {
		case err != nil:
			return err
		case len(message) == 3 && message[0] == "subscribe":
			subscribed()
		case len(message) == 3 && message[0] == "message":
			revoked(message[2])
		default:
			return fmt.Errorf("redis: %q", message)
		}
	}
}
