package scale

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// bareExchange is not the fleet's, so that neither hears the other.
const bareExchange = "bare"

// bare is the same chain with nothing in it: one table, one trigger with NOTIFY, one
// listener that publishes, and processes that only note when a message arrived.
type bare struct {
	conn, listener *pgx.Conn
	broker         *amqp.Connection
	publishing     chan error
	stop           context.CancelFunc
	receivers      []*receiver
	mode           uint8 // of delivery, as the fleet's
}

func newBare(ctx context.Context, f *Fleet, self string, n int) (b *bare, err error) {
	b = &bare{publishing: make(chan error, 1), mode: amqp.Transient}
	if f.Size.Persistent {
		b.mode = amqp.Persistent
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.conn, err = pgx.Connect(ctx, f.DSN()); err != nil {
		return b, err
	}
	if _, err = b.conn.Exec(ctx, `CREATE TABLE IF NOT EXISTS bare (id text PRIMARY KEY, revoked_at timestamptz);
		CREATE OR REPLACE FUNCTION bare_tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('bare', NEW.id); RETURN NULL; END $$;
		CREATE OR REPLACE TRIGGER tell AFTER UPDATE ON bare FOR EACH ROW EXECUTE FUNCTION bare_tell()`); err != nil {
		return b, err
	}
	if b.listener, err = pgx.Connect(ctx, f.DSN()); err != nil {
		return b, err
	}
	if _, err = b.listener.Exec(ctx, `LISTEN bare`); err != nil {
		return b, err
	}
	if b.broker, err = amqp.Dial(f.MQ.URL()); err != nil {
		return b, err
	}
	ch, err := b.broker.Channel()
	if err != nil {
		return b, err
	}
	if err = errors.Join(ch.Confirm(false), ch.ExchangeDeclare(bareExchange, amqp.ExchangeFanout, true, false, false, false, nil)); err != nil {
		return b, err
	}
	for i := range n {
		r, err := startReceiver(self, f.MQ.URL(), fmt.Sprintf("bare.%d", i))
		if err != nil {
			return b, err
		}
		b.receivers = append(b.receivers, r)
	}
	publish, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	go func() { b.publishing <- b.publish(publish, ch) }()
	return b, nil
}

// publish sends what was told, one confirmed message after another.
func (b *bare) publish(ctx context.Context, ch *amqp.Channel) error {
	for {
		n, err := b.listener.WaitForNotification(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		if err != nil {
			return err
		}
		confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, bareExchange, "", false, false,
			amqp.Publishing{DeliveryMode: b.mode, Body: []byte(n.Payload)})
		if err != nil {
			return err
		}
		if _, err := confirm.WaitContext(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// round makes perRound changes and returns how long each took to the last receiver.
func (b *bare) round(ctx context.Context, n, perRound int) (Took, error) {
	committed := map[string]time.Time{}
	for i := range perRound {
		id := fmt.Sprintf("%d-%d", n, i)
		if _, err := b.conn.Exec(ctx, `INSERT INTO bare VALUES ($1)`, id); err != nil {
			return nil, err
		}
		if _, err := b.conn.Exec(ctx, `UPDATE bare SET revoked_at = now() WHERE id = $1`, id); err != nil {
			return nil, err
		}
		committed[id] = time.Now()
		if err := cluster.Sleep(ctx, 40*time.Millisecond+time.Duration(len(b.receivers))*time.Millisecond/2); err != nil {
			return nil, err
		}
	}
	last := map[string]time.Duration{}
	for _, r := range b.receivers {
		arrived, err := r.dump()
		if err != nil {
			return nil, err
		}
		for id, at := range committed {
			micros, ok := arrived[id]
			if !ok {
				return nil, fmt.Errorf("%s has not received %s", r.queue, id)
			}
			last[id] = max(last[id], time.UnixMicro(micros).Sub(at))
		}
	}
	var took Took
	for _, t := range last {
		took = append(took, t)
	}
	return took, nil
}

func (b *bare) close() error {
	var errs []error
	if b.stop != nil {
		b.stop()
		errs = append(errs, <-b.publishing)
	}
	for _, r := range b.receivers {
		errs = append(errs, r.close())
	}
	if b.broker != nil {
		errs = append(errs, b.broker.Close())
	}
	for _, c := range []*pgx.Conn{b.conn, b.listener} {
		if c != nil {
			errs = append(errs, c.Close(context.Background()))
		}
	}
	return errors.Join(errs...)
}

// receiver is a process that runs Receive.
type receiver struct {
	queue string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
}

// ReceiverCommand is the first argument that makes the command Receive.
const ReceiverCommand = "receive"

func startReceiver(self, url, queue string) (*receiver, error) {
	r := &receiver{queue: queue, cmd: exec.Command(self, ReceiverCommand, queue)}
	r.cmd.Env = append(os.Environ(), "BARE_URL="+url)
	r.cmd.Stderr = os.Stderr
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := r.out.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not begin: %w", queue, err), r.close())
	}
	return r, nil
}

// dump returns when what arrived since the last time, in microseconds since 1970.
func (r *receiver) dump() (map[string]int64, error) {
	if _, err := io.WriteString(r.in, "dump\n"); err != nil {
		return nil, err
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	var arrived map[string]int64
	return arrived, json.Unmarshal(line, &arrived)
}

func (r *receiver) close() error { return errors.Join(r.in.Close(), r.cmd.Wait()) }

// Receive consumes a queue of its own and notes when each message came, with the
// least that a consumer can do. It writes a line when it has begun, one of JSON for
// each line that it reads, and ends with its input.
func Receive(url, queue string, in io.Reader, out io.Writer) (err error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	q, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-expires": int64(60_000)})
	if err != nil {
		return err
	}
	if err := errors.Join(ch.QueueBind(q.Name, "", bareExchange, false, nil), ch.Qos(256, 0, false)); err != nil {
		return err
	}
	deliveries, err := ch.Consume(q.Name, "", false, true, false, false, nil)
	if err != nil {
		return err
	}
	lines := make(chan error)
	go func() {
		input := bufio.NewScanner(in)
		for input.Scan() {
			lines <- nil
		}
		lines <- errors.Join(io.EOF, input.Err())
	}()
	if _, err := fmt.Fprintln(out, "begun"); err != nil {
		return err
	}
	arrived := map[string]int64{}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("the broker ended it")
			}
			arrived[string(d.Body)] = time.Now().UnixMicro()
			if err := d.Ack(false); err != nil {
				return err
			}
		case end := <-lines:
			if end != nil {
				return nil
			}
			if err := json.NewEncoder(out).Encode(arrived); err != nil {
				return err
			}
			clear(arrived)
		}
	}
}
