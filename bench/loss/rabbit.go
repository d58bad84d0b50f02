package loss

import (
	"context"
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"
)

// exchange is the fanout exchange that revocations are published to.
const exchange = "bench.loss"

// rabbitPublisher publishes persistent messages and waits for each to be confirmed.
type rabbitPublisher struct {
	conn *amqp.Connection
	ch   *amqp.Channel
}

func newRabbitPublisher(url string) (*rabbitPublisher, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := errors.Join(ch.Confirm(false), declare(ch)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &rabbitPublisher{conn, ch}, nil
}

func declare(ch *amqp.Channel) error {
	return ch.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, false, false, false, nil)
}

func (p *rabbitPublisher) publish(ctx context.Context, keyID string) error {
	confirm, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, exchange, "", false, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(keyID)})
	if err != nil {
		return err
	}
	ok, err := confirm.WaitContext(ctx)
	if err == nil && !ok {
		err = errors.New("the broker did not take it")
	}
	return err
}

// hearRabbit consumes a queue: a durable one with this name, or an exclusive one that
// goes with its connection if the name is empty. It returns when the connection is
// lost or ctx ends.
func hearRabbit(ctx context.Context, url, queue string, subscribed func(), revoked func(string)) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	durable := queue != ""
	q, err := ch.QueueDeclare(queue, durable, !durable, !durable, false, nil)
	if err != nil {
		return err
	}
	if err := errors.Join(declare(ch), ch.QueueBind(q.Name, "", exchange, false, nil)); err != nil {
		return err
	}
	messages, err := ch.ConsumeWithContext(ctx, q.Name, "", false, !durable, false, false, nil)
	if err != nil {
		return err
	}
	subscribed()
	for m := range messages {
		revoked(string(m.Body))
		if err := m.Ack(false); err != nil {
			return err
		}
	}
	return errors.New("the connection is lost")
}
