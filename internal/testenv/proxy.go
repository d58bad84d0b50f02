package testenv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	proxyChunk = 32 << 10
	// proxyQueue is how many chunks a direction holds while they wait for their
	// delay or for a Thaw. Beyond, the sender's own socket buffers fill.
	proxyQueue = 64
)

// Proxy forwards TCP connections and breaks them in the ways networks do. Its
// methods may be called concurrently.
type Proxy struct {
	port *port
	addr string

	mu       sync.Mutex
	target   string
	tamper   Tamper
	listener net.Listener // nil while refusing
	pairs    map[*pair]struct{}
	thawed   chan struct{} // closed unless frozen
	delay    time.Duration
	accepted int
	closed   bool

	wg sync.WaitGroup
}

// pair is one connection through the proxy.
type pair struct {
	client, server net.Conn
	cut            chan struct{}
	once           sync.Once
}

// Tamper changes what goes through a proxy: it is given each piece of data, may
// change it in place, and returns what to forward of it. With end the connection
// ends behind that, in order. It is called by several goroutines.
type Tamper func(toClient bool, data []byte) (forward []byte, end bool)

// StartProxy starts a proxy in front of target (host:port), on a port of
// 127.0.0.1 that is its own until Close, also while it refuses.
func StartProxy(target string) (*Proxy, error) {
	port, err := reservePort()
	if err != nil {
		return nil, fmt.Errorf("start a proxy to %s: %w", target, err)
	}
	listener, err := net.Listen("tcp", port.addr())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a proxy to %s: %w", target, err), port.release())
	}
	p := &Proxy{port: port, target: target, addr: port.addr(), pairs: map[*pair]struct{}{}, thawed: make(chan struct{})}
	close(p.thawed)
	p.serve(listener)
	return p, nil
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return p.addr }

// Accepted returns how many connections were accepted so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Freeze stops forwarding, in both directions, without telling either end: what
// is sent meanwhile, the end of a connection included, arrives after Thaw. New
// connections are accepted and get no answer.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isClosed(p.thawed) {
		p.thawed = make(chan struct{})
	}
}

// Thaw undoes Freeze.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !isClosed(p.thawed) {
		close(p.thawed)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Delay makes each direction deliver d later than it could.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Retarget leads new connections to another address. Existing ones go on.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Tamper has f change what is forwarded from now on; nil ends that.
func (p *Proxy) Tamper(f Tamper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tamper = f
}

// Cut resets every connection (RST to both ends).
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.reset()
	}
}

// Refuse makes new connections fail (connection refused), or lets them in again.
// Existing ones go on.
func (p *Proxy) Refuse(yes bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if yes == (p.listener == nil) || p.closed {
		return nil
	}
	if yes {
		err := p.listener.Close()
		p.listener = nil
		return err
	}
	listener, err := net.Listen("tcp", p.addr)
	if err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	p.serveLocked(listener)
	return nil
}

// Close cuts everything and ends the proxy.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	var err error
	if p.listener != nil {
		err = p.listener.Close()
		p.listener = nil
	}
	for c := range p.pairs {
		c.reset()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return errors.Join(err, p.port.release())
}

func (p *Proxy) serve(l net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serveLocked(l)
}

func (p *Proxy) serveLocked(l net.Listener) {
	p.listener = l
	p.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // the listener was closed
			}
			c := &pair{client: client, cut: make(chan struct{})}
			if p.add(c) {
				p.wg.Go(func() { p.connect(c) })
			}
		}
	})
}

func (p *Proxy) add(c *pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted++
	if p.closed {
		c.reset()
		return false
	}
	p.pairs[c] = struct{}{}
	return true
}

// connect joins c to the target and forwards until both directions have ended.
func (p *Proxy) connect(c *pair) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.reset()
		delete(p.pairs, c)
	}()
	if !p.wait(c, 0) {
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	p.mu.Lock()
	c.server = server
	p.mu.Unlock()
	if isClosed(c.cut) {
		return // cut while dialling
	}
	var both sync.WaitGroup
	both.Go(func() { p.forward(c, false, c.client, server) })
	both.Go(func() { p.forward(c, true, server, c.client) })
	both.Wait()
}

type chunk struct {
	data []byte
	due  time.Time
	err  error // the sender's end
}

// forward copies from one end to the other, late or not at all as told.
func (p *Proxy) forward(c *pair, toClient bool, from, to net.Conn) {
	chunks := make(chan chunk, proxyQueue)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(chunks)
		for {
			buf := make([]byte, proxyChunk)
			n, err := from.Read(buf)
			p.mu.Lock()
			due := time.Now().Add(p.delay)
			p.mu.Unlock()
			select {
			case chunks <- chunk{buf[:n], due, err}:
			case <-c.cut:
				return
			}
			if err != nil {
				return
			}
		}
	})
	for ch := range chunks {
		if !p.wait(c, time.Until(ch.due)) {
			break
		}
		data, end := p.tampered(toClient, ch.data)
		if _, err := to.Write(data); err != nil {
			c.resetUnder(p)
			break
		}
		if end {
			p.end(c, to, io.EOF)
			break
		}
		if ch.err != nil {
			p.end(c, to, ch.err)
			break
		}
	}
	_ = from.SetReadDeadline(time.Now()) // frees the reader
	for range chunks {                   // and what it had in hand
	}
	reader.Wait()
}

func (p *Proxy) tampered(toClient bool, data []byte) (forward []byte, end bool) {
	p.mu.Lock()
	f := p.tamper
	p.mu.Unlock()
	if f == nil || len(data) == 0 {
		return data, false
	}
	return f(toClient, data)
}

// end passes on how the sender ended: an orderly end, or a reset.
func (p *Proxy) end(c *pair, to net.Conn, err error) {
	tcp, ok := to.(*net.TCPConn)
	if !ok || !errors.Is(err, io.EOF) {
		c.resetUnder(p)
		return
	}
	_ = tcp.CloseWrite() // the other end may be gone already
}

// wait waits for d and for the thaw; false if c was cut meanwhile.
func (p *Proxy) wait(c *pair, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.cut:
			return false
		}
	}
	p.mu.Lock()
	thawed := p.thawed
	p.mu.Unlock()
	select {
	case <-thawed:
		return !isClosed(c.cut)
	case <-c.cut:
		return false
	}
}

func (c *pair) resetUnder(p *Proxy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.reset()
}

// reset closes both ends at once. The caller holds the proxy's lock.
func (c *pair) reset() {
	c.once.Do(func() { close(c.cut) })
	for _, conn := range []net.Conn{c.client, c.server} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		}
	}
}
