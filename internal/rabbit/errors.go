package rabbit

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Category is a short word for what went wrong, from a closed set: fit for a
// metric label and for a status page.
type Category string

// The categories.
const (
	None         Category = ""
	NotSet       Category = "no_url"       // no broker is configured
	BadURL       Category = "bad_url"      // unreadable or malformed
	Unreachable  Category = "unreachable"  // no TCP connection: refused, no route, no such name
	BadTLS       Category = "tls"          // handshake or certificate
	Refused      Category = "auth"         // user, password or mechanism
	NoVhost      Category = "vhost"        // it does not exist or is closed to the user
	NoRight      Category = "permission"   // 403 on a request
	NotFound     Category = "not_found"    // 404: exchange or queue missing, or its node is down
	Other        Category = "precondition" // 406, 405: it exists with other properties or belongs to another
	TimedOut     Category = "timeout"      // silence
	BrokerClosed Category = "broker_closed"
	Lost         Category = "connection_lost"
	Internal     Category = "internal" // anything else
)

var (
	// ErrTimeout is the reason of a Session that was closed because the broker did
	// not answer a request.
	ErrTimeout = errors.New("the broker did not answer in time")
	// ErrClosed is the reason of a Session whose owner closed it.
	ErrClosed = errors.New("session closed")
	errTLS    = errors.New("TLS handshake failed")
	errAuth   = errors.New("login refused")
)

// Categorise names err.
func Categorise(err error) Category {
	var (
		reply *amqp.Error
		netOp *net.OpError
		dns   *net.DNSError
	)
	switch {
	case err == nil:
		return None
	case errors.Is(err, ErrNoURLs):
		return NotSet
	case errors.Is(err, errURL):
		return BadURL
	case errors.Is(err, errTLS):
		return BadTLS
	case errors.Is(err, ErrTimeout), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.Is(err, errAuth):
		return Refused
	case errors.As(err, &reply):
		return categoriseReply(reply)
	case errors.As(err, &dns):
		return Unreachable
	case errors.As(err, &netOp) && netOp.Op == "dial":
		return Unreachable
	case errors.Is(err, ErrClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Lost
	}
	return Internal
}

// categoriseReply names a reply code (AMQP 0-9-1, section 1.2).
func categoriseReply(reply *amqp.Error) Category {
	switch reply.Code {
	case amqp.AccessRefused:
		return NoRight
	case amqp.NotFound:
		return NotFound
	case amqp.PreconditionFailed, amqp.ResourceLocked:
		return Other
	case amqp.NotAllowed, amqp.InvalidPath:
		return NoVhost
	case amqp.ConnectionForced:
		return BrokerClosed
	case amqp.FrameError, amqp.ChannelError:
		return Lost // how the library reports a socket that failed, and a use after the end
	}
	return Internal
}

// code returns the reply code in err, 0 if there is none.
func code(err error) int {
	var reply *amqp.Error
	if errors.As(err, &reply) {
		return reply.Code
	}
	return 0
}

// Categories returns all of them but None.
func Categories() []Category {
	return []Category{NotSet, BadURL, Unreachable, BadTLS, Refused, NoVhost, NoRight, NotFound, Other, TimedOut, BrokerClosed, Lost, Internal}
}
