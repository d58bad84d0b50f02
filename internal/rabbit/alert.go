package rabbit

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
)

// alerted keeps the alert with which the broker ended a TLS connection. What it
// says against a client's certificate comes with the first read after the
// handshake (TLS 1.3), and the library tells of it as of any other failed read.
type alerted struct {
	net.Conn
	alert atomic.Pointer[net.OpError]
}

func (a *alerted) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	var op *net.OpError
	if err != nil && errors.As(err, &op) && op.Op == "remote error" {
		a.alert.CompareAndSwap(nil, op)
	}
	return n, err
}

// or returns the broker's alert, if there was one, and else err.
func (a *alerted) or(err error) error {
	if alert := a.alert.Load(); err != nil && alert != nil {
		return fmt.Errorf("%w: %w", errTLS, alert)
	}
	return err
}
