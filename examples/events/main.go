// Command events keeps verdicts in a cache of its own and evicts by keysidecar's
// events, for programs that ask so often that even a local question is too much.
// docs/events.md says what it must do and why.
//
//	go run . -amqp amqp://guest:guest@127.0.0.1:5672/ -socket /run/keysidecar/keysidecar.sock -ttl 10s
//
// It answers key ids, one a line of standard input, with "yes" or "no" and why, or
// "cannot tell" and why; after "yes" it says where that comes from.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	url := flag.String("amqp", "amqp://guest:guest@127.0.0.1:5672/", "URL of the broker")
	exchange := flag.String("exchange", "keysidecar.events", "exchange that the relay publishes to")
	socket := flag.String("socket", "/run/keysidecar/keysidecar.sock", "socket of the sidecar")
	ttl := flag.Duration("ttl", 10*time.Second, "how long a lost message can keep a revoked key alive, beyond the sidecar's own bound")
	size := flag.Int("size", 100_000, "most keys to keep")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := newCache(*ttl, *size)
	var running sync.WaitGroup
	running.Go(func() { subscribe(ctx, *url, *exchange, c) })
	answer(ctx, newSidecar(*socket), c)
	stop()
	running.Wait()
}

// answer answers lines until there are no more.
func answer(ctx context.Context, s *sidecar, c *cache) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan() && ctx.Err() == nil; {
		keyID := lines.Text()
		if c.has(keyID, time.Now()) {
			fmt.Println("yes, from here")
			continue
		}
		q := c.ask(time.Now())
		v, err := s.ask(ctx, keyID, q.fresh)
		switch {
		case err != nil:
			fmt.Println("cannot tell:", err)
		case !v.Valid:
			fmt.Println("no", v.Code)
		default:
			c.keep(v, q)
			fmt.Println("yes, from the sidecar")
		}
	}
}
