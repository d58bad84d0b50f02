package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

// waitPause is how often wait asks again.
const waitPause = 100 * time.Millisecond

func (c *cli) waitCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the sidecar is ready, to start after it",
		Example: `  keysidecar wait && exec ./application
  keysidecar wait --timeout 30s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load(cmd, config.ForClient)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return c.waitReady(ctx, newSidecar(cfg, 2*time.Second), timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	config.AddFlags(cmd.Flags(), clientFlags...)
	return cmd
}

func (c *cli) waitReady(ctx context.Context, s *sidecar, timeout time.Duration) error {
	tick := time.NewTicker(waitPause)
	defer tick.Stop()
	last := errors.New("it was not asked")
	for {
		status, err := fetchStatus(ctx, s)
		switch {
		case err == nil && status.ready():
			return nil
		case err == nil:
			last = errors.New(status.why())
		case ctx.Err() == nil:
			last = err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return &noError{fmt.Errorf("not ready after %s: %w", timeout, last)}
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}
