package rabbit

import (
	amqp "github.com/rabbitmq/amqp091-go"
)

// EnsureExchange makes sure that the exchange exists: it looks, and declares a
// durable fanout exchange if there is none. So a user without the right to declare
// it asks for nothing that is refused to it, and an exchange that somebody declared
// otherwise is left as it is.
func (s *Session) EnsureExchange(name string) error {
	err := s.onProbe(func(ch *amqp.Channel) error {
		return s.Call("look for exchange", func() error {
			return ch.ExchangeDeclarePassive(name, amqp.ExchangeFanout, true, false, false, false, nil)
		})
	})
	if code(err) != amqp.NotFound {
		return err
	}
	return s.onProbe(func(ch *amqp.Channel) error {
		return s.Call("declare exchange", func() error {
			return ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil)
		})
	})
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
