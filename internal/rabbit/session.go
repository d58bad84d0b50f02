package rabbit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// DefaultHeartbeat makes a silent broker known after 7.5 s and a broker that
	// forgot the connection (restart, failover) after 2.5 s. Shorter ones end
	// connections of a machine that is merely busy. Nothing that is promised rests
	// on it.
	DefaultHeartbeat = 5 * time.Second
	// DefaultDialTimeout bounds an attempt: connect, TLS and AMQP handshake. The
	// broker takes 3 s to turn down a wrong password.
	DefaultDialTimeout = 5 * time.Second
	// connectTimeout bounds the TCP part of it.
	connectTimeout = 2 * time.Second
	// DefaultRPCTimeout bounds each request and each write.
	DefaultRPCTimeout = 3 * time.Second
	// closeTimeout bounds an orderly end.
	closeTimeout = 500 * time.Millisecond
)

// Options say whom to connect to and how. URLs is required.
type Options struct {
	// URLs returns the brokers to try (amqp:// or amqps://). It is asked again for
	// every attempt, so that rotated credentials are picked up.
	URLs func() ([]string, error)
	// TLS returns how to speak to amqps:// brokers, and is asked again for every
	// attempt, so that rotated certificates are picked up. Nil, or a nil result,
	// means the URL's own parameters. An empty ServerName stands for the URL's host.
	TLS func() (*tls.Config, error)
	// Name is what the broker's lists show as the connection's name.
	Name string
	// MaxMessageBytes is the size beyond which a message arrives empty; 0: none.
	MaxMessageBytes int
	// Heartbeat, DialTimeout and RPCTimeout default to the constants above. The
	// heartbeat counts in whole seconds.
	Heartbeat, DialTimeout, RPCTimeout time.Duration
}

// Dialer opens sessions. It is not safe for concurrent use.
type Dialer struct {
	opts Options
	next int // the URL to begin with
}

// NewDialer returns a Dialer.
func NewDialer(opts Options) *Dialer {
	if opts.Heartbeat == 0 {
		opts.Heartbeat = DefaultHeartbeat
	}
	if opts.DialTimeout == 0 {
		opts.DialTimeout = DefaultDialTimeout
	}
	if opts.RPCTimeout == 0 {
		opts.RPCTimeout = DefaultRPCTimeout
	}
	return &Dialer{opts: opts}
}

// Dial opens a session with the first broker that lets it, beginning with the
// one that let it last. The error joins every broker's reason and is ErrNoURLs
// where there is none to try.
func (d *Dialer) Dial(ctx context.Context) (*Session, error) {
	urls, err := d.opts.URLs()
	if err != nil {
		return nil, fmt.Errorf("read the broker URLs: %w", err)
	}
	if len(urls) == 0 {
		return nil, ErrNoURLs
	}
	var errs []error
	for i := range urls {
		at := (d.next + i) % len(urls)
		s, err := d.dial(ctx, urls[at], at)
		if err == nil {
			d.next = at
			return s, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	d.next++
	return nil, errors.Join(errs...)
}

func (d *Dialer) dial(ctx context.Context, raw string, at int) (*Session, error) {
	addr, err := parseAddress(raw)
	if err != nil {
		return nil, fmt.Errorf("broker URL %d: %w", at+1, err)
	}
	s, err := d.open(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("broker %s: %w", addr.host, err)
	}
	return s, nil
}

func (d *Dialer) open(ctx context.Context, addr address) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opts.DialTimeout)
	defer cancel()
	auth, err := addr.auth()
	if err != nil {
		return nil, err
	}
	secure, err := d.tls(addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTLS, err)
	}
	tcp := net.Dialer{
		Timeout:         connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	raw, err := tcp.DialContext(ctx, "tcp", addr.host)
	if err != nil {
		return nil, err
	}
	// Until the handshakes are done the end of ctx is the end of the socket, which
	// is the only way to interrupt the library.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, err := d.handshake(ctx, raw, addr, secure, auth)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close() // also where the library left it open
		switch {
		case ctx.Err() != nil:
			err = fmt.Errorf("handshake: %w", context.Cause(ctx))
		case code(err) == amqp.AccessRefused:
			err = fmt.Errorf("%w: %w", errAuth, err)
		}
		return nil, err
	}
	return newSession(conn, raw, addr.host, d.opts.RPCTimeout), nil
}

// tls returns how to speak to addr, as the files say now; nil for plain text.
func (d *Dialer) tls(addr address) (*tls.Config, error) {
	if addr.uri.Scheme != "amqps" {
		return nil, nil //nolint:nilnil // plain text is no mistake
	}
	var base *tls.Config
	if d.opts.TLS != nil {
		var err error
		if base, err = d.opts.TLS(); err != nil {
			return nil, err
		}
	}
	return addr.tls(base)
}

func (d *Dialer) handshake(ctx context.Context, raw net.Conn, addr address, secure *tls.Config, auth []amqp.Authentication) (*amqp.Connection, error) {
	watched := &alerted{Conn: raw}
	if secure != nil {
		client := tls.Client(raw, secure)
		if err := client.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", errTLS, err)
		}
		watched.Conn = client
	}
	var conn net.Conn = watched
	if d.opts.MaxMessageBytes > 0 {
		conn = newLimited(conn, d.opts.MaxMessageBytes)
	}
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(d.opts.Name)
	properties["product"] = "keysidecar"
	opened, err := amqp.Open(conn, amqp.Config{
		SASL:       auth,
		Vhost:      addr.uri.Vhost,
		Heartbeat:  d.opts.Heartbeat,
		ChannelMax: addr.uri.ChannelMax,
		FrameSize:  frameMax,
		Properties: properties,
		Locale:     "en_US",
	})
	return opened, watched.or(err)
}

// frameMax is the broker's own default. RabbitMQ 4.1 refuses values under 8192.
const frameMax = 131072

// Session is one connection. Its methods are safe for concurrent use.
type Session struct {
	conn       *amqp.Connection
	raw        net.Conn
	host       string
	rpcTimeout time.Duration

	done chan struct{}
	once sync.Once
	err  error // why it ended; set before done is closed

	mu        sync.Mutex
	unblocked chan struct{} // closed unless the broker has blocked publishers

	helpers sync.WaitGroup // joined by Close
}

func newSession(conn *amqp.Connection, raw net.Conn, host string, rpcTimeout time.Duration) *Session {
	s := &Session{conn: conn, raw: raw, host: host, rpcTimeout: rpcTimeout, done: make(chan struct{}), unblocked: make(chan struct{})}
	close(s.unblocked)
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	s.helpers.Go(func() { s.watch(closed, blocked) })
	return s
}

// watch runs until the library has reported the connection's end, and then ends
// the socket beneath whatever still hangs in it.
func (s *Session) watch(closed <-chan *amqp.Error, blocked <-chan amqp.Blocking) {
	for {
		select {
		case reason, ok := <-closed:
			if ok {
				s.Fail(reason)
			}
			s.Fail(amqp.ErrClosed)
			return
		case b, ok := <-blocked:
			if !ok {
				blocked = nil // the end is next
				continue
			}
			s.setBlocked(b.Active)
		}
	}
}

func (s *Session) setBlocked(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.unblocked:
		if yes {
			s.unblocked = make(chan struct{})
		}
	default:
		if !yes {
			close(s.unblocked)
		}
	}
}

// Unblocked returns a channel that is closed unless the broker has told this
// connection to publish nothing (a memory or disk alarm), or once it allows it
// again. Only a connection that tries to publish is told.
func (s *Session) Unblocked() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unblocked
}

// Host returns the broker's host:port.
func (s *Session) Host() string { return s.host }

// Done is closed when the session has ended, for whatever reason.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended; nil while it lives.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Fail ends the session at once, with err as its reason if it is the first. It
// closes the socket and never blocks.
func (s *Session) Fail(err error) {
	s.end(err)
	_ = s.raw.Close() // may be closed already
}

// end records why the session ended; true if this is the first reason.
func (s *Session) end(err error) (first bool) {
	s.once.Do(func() {
		s.err, first = err, true
		close(s.done)
	})
	return first
}

// Call runs do, which makes one request through the library, and ends the
// session if do has not returned within the RPC time-out. The error is then
// ErrTimeout.
func (s *Session) Call(what string, do func() error) error {
	watchdog := time.AfterFunc(s.rpcTimeout, func() { s.Fail(fmt.Errorf("%s: %w", what, ErrTimeout)) })
	err := do()
	if !watchdog.Stop() {
		if reason := s.Err(); errors.Is(reason, ErrTimeout) {
			return reason
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Channel opens a channel.
func (s *Session) Channel() (*amqp.Channel, error) {
	var ch *amqp.Channel
	err := s.Call("open channel", func() (err error) {
		ch, err = s.conn.Channel()
		return err
	})
	return ch, err
}

// EndWith ends the session at most grace after ctx, whatever request is under way
// then. Nothing else that a session does looks at a context.
func (s *Session) EndWith(ctx context.Context, grace time.Duration) {
	s.helpers.Go(func() {
		select {
		case <-ctx.Done():
		case <-s.done:
			return
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
			s.Fail(context.Cause(ctx))
		case <-s.done:
		}
	})
}

// Close ends the session, in order if the broker answers at once, and waits until
// nothing of it runs. It takes no longer than about half a second.
func (s *Session) Close() {
	if s.end(ErrClosed) {
		force := time.AfterFunc(closeTimeout, func() { _ = s.raw.Close() })
		//nolint:forbidigo // sockets count their deadlines on the wall clock's monotonic reading
		_ = s.conn.CloseDeadline(time.Now().Add(closeTimeout)) // whatever it says, this is the end
		force.Stop()
	}
	_ = s.raw.Close()
	s.helpers.Wait()
}
