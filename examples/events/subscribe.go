package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// event is what a message says.
type event struct {
	Seq, Prev            int64
	Kind, KeyID, OwnerID string
}

// decode reads a message: CloudEvents 1.0, structured JSON.
func decode(body []byte) (e event, readable bool) {
	var m struct {
		SpecVersion string `json:"specversion"`
		Type        string `json:"type"`
		Subject     string `json:"subject"`
		Data        struct {
			Seq     *int64 `json:"seq"`
			Prev    *int64 `json:"prev"`
			Kind    string `json:"kind"`
			OwnerID string `json:"owner_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &m); err != nil || m.SpecVersion != "1.0" || m.Data.Seq == nil || m.Data.Prev == nil {
		return event{}, false
	}
	if !strings.HasPrefix(m.Type, "io.keysidecar.key.") || !strings.HasSuffix(m.Type, ".v1") {
		return event{}, false
	}
	return event{Seq: *m.Data.Seq, Prev: *m.Data.Prev, Kind: m.Data.Kind, KeyID: m.Subject, OwnerID: m.Data.OwnerID}, true
}

// subscribe reads events until ctx ends, over one connection after another.
func subscribe(ctx context.Context, url, exchange string, c *cache) {
	for ctx.Err() == nil {
		err := read(ctx, url, exchange, c)
		c.hear(false)
		if ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "not hearing events:", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// read is one connection's life. The queue is this connection's own and goes with
// it; what is published while there is none, is lost, and need not be known: the cache
// is empty then.
func read(ctx context.Context, url, exchange string, c *cache) error {
	conn, err := amqp.DialConfig(url, amqp.Config{Heartbeat: 5 * time.Second, Locale: "en_US", Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	// As the relay and the sidecars declare it, whoever is first.
	if err := ch.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return err
	}
	// The oldest messages go if this program is too slow; the next one shows the gap.
	q, err := ch.QueueDeclare("", false, true, true, false, amqp.Table{"x-max-length": int32(10_000)})
	if err != nil {
		return err
	}
	if err := ch.QueueBind(q.Name, "", exchange, false, nil); err != nil {
		return err
	}
	if err := ch.Qos(500, 0, false); err != nil {
		return err
	}
	messages, err := ch.ConsumeWithContext(ctx, q.Name, "", false, true, false, false, nil)
	if err != nil {
		return err
	}
	c.hear(true) // from here on nothing is missed
	for m := range messages {
		c.apply(decode(m.Body)) // first, and then:
		if err := m.Ack(false); err != nil {
			return err
		}
	}
	return fmt.Errorf("the queue is gone, or the connection")
}
