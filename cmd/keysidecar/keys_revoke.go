package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/receipt"
)

func (c *cli) keysRevokeCommand() *cobra.Command {
	var (
		reason string
		wait   time.Duration
	)
	cmd := &cobra.Command{
		Use:   "revoke KEY_ID",
		Short: "Revoke a key, in every sidecar",
		Example: `  keysidecar keys revoke pk_live_1 --reason 'lost laptop'
  keysidecar keys revoke pk_live_1 --wait=10s && echo nobody accepts it any more`,
		Annotations: map[string]string{answers: "yes"},
		Args:        cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				already, err := s.Revoke(ctx, args[0], reason)
				if err != nil {
					return err
				}
				if wait > 0 && c.json() {
					return c.showReceipt(ctx, s, receipt.Target{KeyID: args[0]}, wait) // it names the key, and the event
				}
				if c.json() {
					return c.printJSON(map[string]any{"key_id": args[0], "revoked": true, "already": already})
				}
				if already {
					_, err = fmt.Fprintf(c.out, "%s was revoked before\n", args[0])
				} else {
					_, err = fmt.Fprintf(c.out, "%s is revoked\n", args[0])
				}
				if err != nil || wait == 0 {
					return err
				}
				return c.showReceipt(ctx, s, receipt.Target{KeyID: args[0]}, wait)
			})
		},
	}
	addWaitFlag(cmd.Flags(), &wait)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}
