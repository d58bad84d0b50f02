package server

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// guard looks at every request of the TCP listener. Whoever can open a
// connection to 127.0.0.1 includes every web page that a browser on this machine
// shows, and every URL that the application can be talked into fetching; so the
// Host must be a name of this machine (DNS rebinding), requests that a browser
// sends for a page are refused, and a token can be required.
type guard struct {
	// token reads the token; nil if none is required.
	token  func() (string, error)
	logger *zap.Logger

	// digest is the SHA-256 of the token in force. Comparing digests in constant
	// time tells nothing of the token, nor of its length.
	digest atomic.Pointer[[sha256.Size]byte]
	// mu is held while the token is read; readAt is the tick at which it last was.
	mu     sync.Mutex
	readAt int64
	tick   *atomic.Int64
}

// errNoToken is a token source that has none.
var errNoToken = errors.New("the token is empty")

// refresh reads the token again. If that fails the one in force stays.
func (g *guard) refresh() error {
	if g.token == nil {
		return nil
	}
	token, err := g.token()
	if token = strings.TrimSpace(token); err == nil && token == "" {
		err = errNoToken
	}
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	sum := sha256.Sum256([]byte(token))
	g.digest.Store(&sum)
	return nil
}

// admit refuses what a browser or a stranger sends.
func (g *guard) admit(h *headers) error {
	switch {
	case !localHost(h.host):
		return errHost
	case h.hasOrigin, h.hasSecFetchSite && !equalFold(h.secFetchSite, "none"):
		return errBrowser
	}
	return g.authenticate(h)
}

// admitGateway is admit for requests that a gateway makes of its own clients'
// requests, with their Host, Origin and Sec-Fetch-Site. A token is enough then. Where
// none is asked for, a name that resolves to this machine must still be refused; a
// page that uses this machine's own name is not allowed by the browser to set the
// header that holds a credential, nor to read the answer, and nothing is changed.
func (g *guard) admitGateway(h *headers) error {
	if g.token == nil && !localHost(h.host) {
		return errHost
	}
	return g.authenticate(h)
}

// authenticate asks for the token, if there is one.
func (g *guard) authenticate(h *headers) error {
	if g.token != nil && (h.repeated == "Authorization" || !g.matches(h.authorization)) {
		return errUnauthorized
	}
	return nil
}

// matches compares an Authorization field with the token: as bearer, or as the
// password of the scheme Basic, which is how clients of introspection authenticate
// (RFC 7662, 2.1). One that does not match makes the token be read again, at most
// once a tick: it may be new.
func (g *guard) matches(authorization []byte) bool {
	scheme, token, ok := bytes.Cut(authorization, []byte{' '})
	token = trimBlanks(token)
	if ok && equalFold(scheme, "basic") {
		token, ok = password(token)
	} else if !equalFold(scheme, "bearer") {
		return false
	}
	if !ok || len(token) == 0 {
		return false
	}
	sum := sha256.Sum256(token)
	if g.equal(&sum) {
		return true
	}
	g.reread()
	return g.equal(&sum)
}

// password returns the password of Basic credentials (RFC 7617).
func password(credentials []byte) ([]byte, bool) {
	if len(credentials) > maxSecretBytes {
		return nil, false
	}
	plain, err := base64.StdEncoding.AppendDecode(nil, credentials)
	if err != nil {
		return nil, false
	}
	_, secret, ok := bytes.Cut(plain, []byte{':'})
	return secret, ok
}

// reread refreshes the token, at most once a tick.
func (g *guard) reread() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.tick.Load()
	if now == g.readAt {
		return
	}
	g.readAt = now
	if err := g.refresh(); err != nil {
		g.logger.Warn("the token of the tcp listener cannot be read", zap.Error(err))
	}
}

func (g *guard) equal(sum *[sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(g.digest.Load()[:], sum[:]) == 1
}

// localHost reports whether a Host field names this machine, with or without a
// port.
func localHost(host []byte) bool {
	name := host
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && bytes.IndexByte(host[i:], ']') < 0 {
		name = host[:i]
		for _, c := range host[i+1:] {
			if c < '0' || c > '9' {
				return false
			}
		}
	}
	return equalFold(name, "localhost") || string(name) == "127.0.0.1" || string(name) == "[::1]"
}

// listenLoopback binds a TCP address, which must be of this machine alone.
func listenLoopback(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("tcp address %q: %w", address, err)
	}
	if host == "localhost" {
		host = "127.0.0.1" // whatever the resolver says
	}
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("tcp address %q: the data plane listens on a loopback address only, such as 127.0.0.1:9475", address)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("tcp address %q: %w", address, err)
	}
	return l, nil
}
