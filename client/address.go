package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// maxSocketPath is the longest path of a Unix socket that Linux takes, in bytes.
const maxSocketPath = 107

// endpoint is where a sidecar listens.
type endpoint struct {
	network, address string
	// host is what requests say in Host.
	host string
}

// parseAddress reads unix:///absolute/path, unix:relative/path or
// http://127.0.0.1:port. Answers decide who gets in and travel in the clear, so that
// only this machine is accepted.
func parseAddress(address string) (endpoint, error) {
	path, isSocket := strings.CutPrefix(address, "unix:")
	if isSocket {
		if rest, ok := strings.CutPrefix(path, "//"); ok {
			if !strings.HasPrefix(rest, "/") {
				return endpoint{}, fmt.Errorf("keysidecar: address %q: a path behind unix:// begins with a slash (unix:///run/...); a relative one is written unix:%s", address, rest)
			}
			path = rest
		}
		if path == "" || len(path) > maxSocketPath || strings.ContainsRune(path, 0) {
			return endpoint{}, fmt.Errorf("keysidecar: address %q: the path of a socket has 1 to %d bytes", address, maxSocketPath)
		}
		return endpoint{"unix", path, "localhost"}, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return endpoint{}, fmt.Errorf("keysidecar: address %q: want unix:///path/to/socket or http://127.0.0.1:port", address)
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return endpoint{}, fmt.Errorf("keysidecar: address %q: nothing may stand beside host and port", u.Redacted())
	}
	host := u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1" // where the sidecar listens then, whatever the resolver says
	}
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsLoopback() {
		return endpoint{}, fmt.Errorf("keysidecar: address %q: a sidecar listens on this machine's loopback address only", address)
	}
	if u.Port() == "" {
		return endpoint{}, fmt.Errorf("keysidecar: address %q: a port is needed", address)
	}
	target := net.JoinHostPort(host, u.Port())
	return endpoint{"tcp", target, target}, nil
}

// dial connects to the endpoint, whatever address it is asked for.
func (e endpoint) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, e.network, e.address)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) { // without what only says that it was a dial
			err = op
		}
		return nil, fmt.Errorf("no sidecar at %s: %w", e.address, err)
	}
	return c, nil
}
