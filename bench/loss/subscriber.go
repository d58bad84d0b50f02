package loss

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Way is how caches are told.
type Way string

// The ways.
const (
	PubSub    Way = "Redis Pub/Sub"
	Transient Way = "RabbitMQ, transient queue"
	Durable   Way = "RabbitMQ, durable queue"
	Sidecar   Way = "keysidecar"
)

// SubscriberCommand is the first argument that makes the command a subscriber; what
// subscription.args returns follows.
const SubscriberCommand = "subscriber"

// subscription is what a subscriber process is told.
type subscription struct {
	way Way
	// socket is where it answers, dsn where keys are, broker where messages come from.
	socket, dsn, broker string
	// queue is its name if it is durable.
	queue string
	// received is a file that it writes the id of each message to.
	received string
}

func (s *subscription) args() []string {
	return []string{SubscriberCommand, string(s.way), s.socket, s.dsn, s.broker, s.queue, s.received}
}

// retry is how long a subscriber waits before it connects again.
const retry = 100 * time.Millisecond

// cache is a subscriber's memory.
type cache struct {
	mu       sync.Mutex
	valid    map[string]bool
	received *os.File
}

// Subscribe is the subscriber: it reads the keys, subscribes, answers on its socket,
// and ends with ctx.
func Subscribe(ctx context.Context, args []string) (err error) {
	if len(args) != 6 {
		return errors.New("a subscriber wants six arguments")
	}
	s := subscription{way: Way(args[0]), socket: args[1], dsn: args[2], broker: args[3], queue: args[4], received: args[5]}
	c := &cache{}
	if c.received, err = os.OpenFile(s.received, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	defer func() { _ = c.received.Close() }()
	if err := c.read(ctx, s.dsn); err != nil {
		return err
	}
	subscribed := make(chan struct{})
	var first sync.Once
	ctx, cancel := context.WithCancel(ctx)
	hearing := make(chan struct{})
	go func() {
		defer close(hearing)
		s.hear(ctx, func() { first.Do(func() { close(subscribed) }) }, c.forget)
	}()
	defer func() { <-hearing }()
	defer cancel()
	select {
	case <-subscribed:
	case <-ctx.Done():
		return nil
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// hear subscribes again and again until ctx ends.
func (s *subscription) hear(ctx context.Context, subscribed func(), revoked func(string)) {
	for ctx.Err() == nil {
		var err error
		if s.way == PubSub {
			err = hearRedis(ctx, s.broker, subscribed, revoked)
		} else {
			err = hearRabbit(ctx, s.broker, s.queue, subscribed, revoked)
		}
		if ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err)
		}
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// read fills the cache with all keys that are valid.
func (c *cache) read(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT key_id FROM keysidecar.public_keys WHERE revoked_at IS NULL`)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	c.valid = make(map[string]bool, len(ids))
	for _, id := range ids {
		c.valid[id] = true
	}
	return nil
}

func (c *cache) forget(keyID string) {
	c.mu.Lock()
	delete(c.valid, keyID)
	c.mu.Unlock()
	if _, err := c.received.WriteString(keyID + "\n"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// ServeHTTP answers as a sidecar does, as far as the measurement looks: 200 if the key
// may be used, 410 if not.
func (c *cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	valid := c.valid[strings.TrimPrefix(r.URL.Path, keyPath)]
	c.mu.Unlock()
	if !valid {
		w.WriteHeader(http.StatusGone)
	}
}

// keyPath is what the path of a key begins with.
const keyPath = "/v1/keys/"
