package subscriber

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/event"
)

// Store is what the subscriber does to the keystore. Both methods return without
// waiting for anything and may be called as often as messages come.
type Store interface {
	// Evict takes trust away from what e names and asks for a fence.
	Evict(e event.Event)
	// RequestFence asks for a fence soon; why is "reconnect", "gap" or "unreadable".
	RequestFence(why string)
}

// Options configure a Subscriber. All but TLS are required; URLs may return an
// empty list, which means that there is no broker: Run then waits.
type Options struct {
	// URLs and TLS: see rabbit.Options.
	URLs func() ([]string, error)
	TLS  func() (*tls.Config, error)
	// Instance names this sidecar among all that share the exchange.
	Instance string
	// Exchange is the fanout exchange the relay publishes to.
	Exchange string
	// QueuePrefix is put before Instance to name the queue.
	QueuePrefix string
	// QueueExpires is how long the broker keeps the queue without a consumer.
	QueueExpires time.Duration
	// QueueMaxLength is how many messages it keeps; the oldest go first.
	QueueMaxLength int
	Store          Store
	Logger         *zap.Logger
	Registerer     prometheus.Registerer
}

const (
	// AMQP 0-9-1 names are short strings.
	maxNameBytes = 255
	suffixBytes  = 8 // random bytes of a queue's suffix and of a shortened name's, written in hex
	maxPrefix    = 128
)

func (o Options) check() error {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New(what))
		}
	}
	require(o.URLs != nil && o.Store != nil && o.Logger != nil && o.Registerer != nil, "URLs, Store, Logger and Registerer are required")
	require(o.Instance != "", "the instance has no name")
	require(o.Exchange != "" && len(o.Exchange) <= maxNameBytes && !strings.HasPrefix(o.Exchange, "amq."), "the exchange's name must have 1 to 255 bytes and not begin with amq.")
	require(len(o.QueuePrefix) <= maxPrefix && cleanName(o.QueuePrefix) == o.QueuePrefix, fmt.Sprintf("the queue prefix must have at most %d bytes of A-Z a-z 0-9 . _ ~ : -", maxPrefix))
	require(!strings.HasPrefix(o.QueuePrefix+o.Instance, "amq."), "the queue's name must not begin with amq.")
	require(o.QueueExpires >= time.Second && o.QueueExpires <= 30*24*time.Hour, "the queue's expiry must be between 1s and 30 days")
	require(o.QueueMaxLength > 0, "the queue's length limit must be positive")
	if len(errs) > 0 {
		return fmt.Errorf("subscriber: %w", errors.Join(errs...))
	}
	return nil
}

// queueName returns the name of instance's queue, with room for a suffix. An
// instance whose name had to be altered gets its hash added, so that two
// instances never share a queue by accident.
func queueName(prefix, instance string) string {
	room := maxNameBytes - len(prefix) - len(".") - 2*suffixBytes
	name := cleanName(instance)
	if name == instance && len(name) <= room {
		return prefix + name
	}
	sum := sha256.Sum256([]byte(instance))
	hash := "-" + hex.EncodeToString(sum[:suffixBytes])
	return prefix + name[:min(len(name), room-len(hash))] + hash
}

// cleanName replaces each byte that needs quoting somewhere.
func cleanName(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._~:-", c) >= 0:
		default:
			b[i] = '-'
		}
	}
	return string(b)
}
