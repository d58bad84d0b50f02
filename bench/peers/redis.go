package peers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// Redis is a private Redis that keeps nothing on disk.
type Redis struct {
	*Program
	// Socket is its Unix socket, Address that on 127.0.0.1.
	Socket, Address string
	release         func() error
}

// StartRedis starts a Redis with its defaults, but for persistence, which is off.
func StartRedis(ctx context.Context) (*Redis, error) {
	path, err := find("redis-server")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ksredis")
	if err != nil {
		return nil, err
	}
	r := &Redis{Socket: filepath.Join(dir, "s")}
	if r.Address, r.release, err = testenv.ReserveAddress(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	_, port, err := net.SplitHostPort(r.Address)
	if err != nil {
		return nil, errors.Join(err, r.release(), os.RemoveAll(dir))
	}
	args := []string{"--bind", "127.0.0.1", "--port", port, "--unixsocket", r.Socket, "--dir", dir, "--save", "", "--appendonly", "no", "--daemonize", "no"}
	r.Program, err = StartProgram(ctx, dir, path, args, func() error {
		_, err := ask(ctx, "tcp", r.Address, resp, respCommand("GET", "nothing"))
		return err
	})
	if err != nil {
		return nil, errors.Join(err, r.release())
	}
	return r, nil
}

// Close ends Redis.
func (r *Redis) Close() error { return errors.Join(r.Program.Close(), r.release()) }

// fill stores an answer for each key, pipelined.
func (r *Redis) fill(ctx context.Context, keys int, value []byte) (err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", r.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(conn)
		for i := range keys {
			if _, err := w.Write(respCommand("SET", keyID(i), string(value))); err != nil {
				sent <- err
				return
			}
		}
		sent <- w.Flush()
	}()
	answers := bufio.NewReader(conn)
	for range keys {
		line, err := answers.ReadString('\n')
		if err != nil || line != "+OK\r\n" {
			_ = conn.Close() // so that the writer ends
			return errors.Join(fmt.Errorf("redis answers SET with %q: %w", line, err), <-sent)
		}
	}
	return <-sent
}

// RedisVersion is what the program says of itself.
func RedisVersion(ctx context.Context) (string, error) {
	return version(ctx, "redis-server", "--version")
}
