package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Options of a Client. The zero value is good.
type Options struct {
	// Timeout bounds one call, if the caller's context does not end before. 0 means
	// 3 s: the sidecar takes up to 2 s for a batch of keys that it has to read. Wait
	// may take that much longer than it is asked to wait.
	Timeout time.Duration
	// Token is asked before each request for the token of the loopback listener
	// (listen.tcp.token_file); nil if it wants none. TokenFile makes one.
	Token func() (string, error)
	// MaxConnections bounds the connections kept to the sidecar; calls beyond wait
	// for one. 0 means 64. The sidecar serves 1,024 to all its clients.
	MaxConnections int
}

const (
	defaultTimeout        = 3 * time.Second
	defaultMaxConnections = 64
	// maxAnswer is above the largest answer about one key: a public key of 8 KiB in
	// base64, and 64 scopes of 256 bytes that all have to be escaped.
	maxAnswer = 256 << 10
	// maxBatchAnswer is a bound for a thousand of them as they are in life.
	maxBatchAnswer = 32 << 20
	maxHeader      = 16 << 10
)

// Client asks one sidecar. It is safe for concurrent use.
type Client struct {
	options   Options
	host      string
	transport *http.Transport
	// cacheControl is what Within asks for; empty for nothing.
	cacheControl string
}

// New returns a client of the sidecar at address: unix:///path/to/its.sock, or
// http://127.0.0.1:port. It connects to nothing yet.
func New(address string, o Options) (*Client, error) {
	at, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	if o.Timeout < 0 || o.MaxConnections < 0 {
		return nil, fmt.Errorf("keysidecar: Timeout and MaxConnections must not be negative")
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = defaultMaxConnections
	}
	return &Client{options: o, host: at.host, transport: &http.Transport{
		DialContext:            at.dial,
		DisableCompression:     true,
		MaxConnsPerHost:        o.MaxConnections,
		MaxIdleConns:           o.MaxConnections,
		MaxIdleConnsPerHost:    o.MaxConnections,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
	}}, nil
}

// Close closes the connections that are idle. The client can still be used.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// TokenFile returns a source of tokens that reads a file each time, so that a token
// can be changed in place.
func TokenFile(path string) func() (string, error) {
	return func() (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(text)), nil
	}
}

// Bounds are what a caller asks of an answer's freshness beyond the sidecar's promise.
// They can only shorten it. The zero value asks for nothing.
type Bounds struct {
	// NoCache waits for what the database says after the question.
	NoCache bool
	// MaxAge wants an answer that the database was asked for less than so long ago, in
	// whole seconds (fractions are dropped; less than a second is as good as NoCache).
	// 0 asks for nothing.
	MaxAge time.Duration
	// OnlyIfCached wants the answer from memory at once, or none: an
	// *UnavailableError with the code not_cached.
	OnlyIfCached bool
}

// Within returns a client that asks with these bounds over the same connections.
func (c *Client) Within(b Bounds) *Client {
	var directives []string
	if b.NoCache {
		directives = append(directives, "no-cache")
	}
	if b.MaxAge != 0 {
		directives = append(directives, "max-age="+strconv.FormatInt(int64(max(0, b.MaxAge)/time.Second), 10))
	}
	if b.OnlyIfCached {
		directives = append(directives, "only-if-cached")
	}
	within := *c
	within.cacheControl = strings.Join(directives, ", ")
	return &within
}

// request is what is sent. Its path is made of constants and checked ids.
type request struct {
	method, path, query string
	body                []byte // JSON, or nil
	// longer is how much longer than others it may take.
	longer time.Duration
	// limit bounds the body of the answer.
	limit int64
}

// reply is what came back, whole.
type reply struct {
	status int
	// media is the answer's type without parameters.
	media string
	body  []byte
}

// noKey declares a POST as one that may be sent again over another connection if
// the first was closed without an answer: net/http takes the field for that and,
// having no value, does not send it. Read-only.
var noKey = []string{}

// send asks, and reads the answer to its end. Errors are of the network and its like.
func (c *Client) send(ctx context.Context, r *request) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout+r.longer)
	defer cancel()
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body) // which net/http can rewind
	}
	target := url.URL{Scheme: "http", Host: c.host, Path: r.path, RawQuery: r.query}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.Header["Content-Type"] = []string{"application/json"}
		req.Header["Idempotency-Key"] = noKey
	}
	req.Header["User-Agent"] = noKey
	if c.cacheControl != "" {
		req.Header["Cache-Control"] = []string{c.cacheControl}
	}
	if c.options.Token != nil {
		token, err := c.options.Token()
		if err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
		req.Header["Authorization"] = []string{"Bearer " + token}
	}
	// Not through an http.Client, which would follow redirects.
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, whyEnded(ctx, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, r.limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer broke off: %w", whyEnded(ctx, err))
	case int64(len(text)) > r.limit:
		return nil, errAnswerTooBig
	}
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		media = ""
	}
	return &reply{res.StatusCode, media, text}, nil
}

// whyEnded prefers the end of the context to what the network made of it.
func whyEnded(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	return err
}
