package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/rabbit"
)

// listenCheck is how long a silent LISTEN connection is believed to be alive.
const listenCheck = 5 * time.Second

// listen wakes the leader at each commit that wrote events, and tells it when it
// cannot, until ctx ends.
func (r *Relay) listen(ctx context.Context, wake chan<- struct{}, listening chan<- bool) {
	pauses := rabbit.Backoff{Min: 100 * time.Millisecond, Max: 1500 * time.Millisecond}
	tell := func(on bool) {
		select {
		case listening <- on:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		err := r.listenOnce(ctx, wake, func() {
			pauses.Reset()
			tell(true)
		})
		if ctx.Err() != nil {
			return
		}
		tell(false)
		r.opts.Logger.Warn("not woken by the database, polling", zap.String("reason", databaseError(err)), zap.Error(err))
		pauses.Wait(ctx)
	}
}

func (r *Relay) listenOnce(ctx context.Context, wake chan<- struct{}, begun func()) error {
	db, err := r.open(ctx, "-listen", r.limits.db)
	if err != nil {
		return err
	}
	defer db.close()
	if err := db.exec(ctx, "LISTEN keysidecar"); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	begun()
	for {
		quiet, cancel := context.WithTimeout(ctx, listenCheck)
		_, err := db.conn.WaitForNotification(quiet)
		cancel()
		switch {
		case err == nil:
			select {
			case wake <- struct{}{}:
			default:
			}
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			if err := db.exec(ctx, "SELECT 1"); err != nil {
				return fmt.Errorf("is the server there: %w", err)
			}
		default:
			return fmt.Errorf("wait for a notification: %w", err)
		}
	}
}
