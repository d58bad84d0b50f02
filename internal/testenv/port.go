package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken from below the range that kernels take outgoing ports from
// (32768 and up), so that a stopped server finds its port free again.
const (
	firstPort = 20000
	lastPort  = 32000
)

// port is a TCP port of 127.0.0.1, reserved among all processes that use this
// package by a name in the abstract socket namespace. The name is free again
// when the process ends.
type port struct {
	number int
	claim  net.Listener
}

// reservePort returns a port that nobody listens on and nobody else reserved.
func reservePort() (*port, error) {
	for range 200 {
		n := firstPort + rand.IntN(lastPort-firstPort)
		claim, err := net.Listen("unix", fmt.Sprintf("@keysidecar-testenv-port-%d", n))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil {
			_ = claim.Close()
			continue
		}
		if err := l.Close(); err != nil {
			return nil, errors.Join(err, claim.Close())
		}
		return &port{number: n, claim: claim}, nil
	}
	return nil, errors.New("found no free port on 127.0.0.1")
}

// ReserveAddress returns an address of 127.0.0.1 that is the caller's until it
// calls release: no other user of this package gets it, and the kernel gives its
// port to nobody's outgoing connection. A server can be stopped and started there.
func ReserveAddress() (addr string, release func() error, err error) {
	p, err := reservePort()
	if err != nil {
		return "", nil, err
	}
	return p.addr(), p.release, nil
}

// addr returns 127.0.0.1:port.
func (p *port) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

func (p *port) release() error { return p.claim.Close() }
