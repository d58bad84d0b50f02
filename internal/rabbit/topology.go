package rabbit

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// DeclareExchange makes sure that the durable fanout exchange exists. A user
// without the right to declare it (403), or an exchange somebody declared
// otherwise (406), is no obstacle if the exchange is there: then own is false.
func (s *Session) DeclareExchange(name string) (own bool, err error) {
	err = s.onProbe(func(ch *amqp.Channel) error {
		return s.Call("declare exchange", func() error {
			return ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil)
		})
	})
	if c := code(err); c != amqp.AccessRefused && c != amqp.PreconditionFailed {
		return err == nil, err
	}
	found := s.onProbe(func(ch *amqp.Channel) error {
		return s.Call("look for exchange", func() error {
			return ch.ExchangeDeclarePassive(name, amqp.ExchangeFanout, true, false, false, false, nil)
		})
	})
	if found != nil {
		return false, fmt.Errorf("%w; %w", err, found)
	}
	return false, nil
}

// onProbe runs do on a channel of its own: the broker closes a channel with
// every refusal.
func (s *Session) onProbe(do func(*amqp.Channel) error) error {
	ch, err := s.Channel()
	if err != nil {
		return err
	}
	if err := do(ch); err != nil {
		return err
	}
	return s.Call("close channel", ch.Close)
}

// Refusal reports whether err is the broker's refusal of one request (the channel
// is gone, the session lives), and its reply code.
func Refusal(err error) (replyCode int, ok bool) {
	switch c := code(err); c {
	case amqp.AccessRefused, amqp.NotFound, amqp.ResourceLocked, amqp.PreconditionFailed:
		return c, true
	default:
		return c, false
	}
}
