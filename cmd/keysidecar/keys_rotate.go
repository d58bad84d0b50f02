package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
)

func (c *cli) keysRotateCommand() *cobra.Command {
	var (
		n       newKey
		overlap time.Duration
		reason  string
	)
	cmd := &cobra.Command{
		Use:   "rotate KEY_ID [--public-key FILE | --secret]",
		Short: "Replace a key by a new one of the same owner, scopes and attributes",
		Long: `Issues a new key with the owner, the scopes and the attributes of an old one, and
ends the old one in the same transaction: at once, or after --overlap, during which
both are valid.`,
		Example: `  keysidecar keys rotate pk_live_1 --public-key new.pem --overlap 24h
  keysidecar keys rotate sha256:vhH6 --secret --overlap 1h`,
		Annotations: map[string]string{answers: "yes"},
		Args:        cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if overlap < 0 {
				return &usageError{errors.New("--overlap: must not be negative"), cmd.CommandPath()}
			}
			return c.inStore(cmd, func(ctx context.Context, cfg *config.Config, s keyStore) error {
				old, err := s.Get(ctx, args[0])
				if err != nil {
					return err
				}
				n.owner, n.scopes = old.OwnerID, old.Scopes
				k, secret, err := n.make(cfg, c.in)
				if err != nil {
					return err
				}
				k.Attributes = old.Attributes
				if err := s.Rotate(ctx, admin.Rotation{Old: args[0], New: k, Overlap: overlap, Reason: reason}); err != nil {
					return err
				}
				return c.printIssued(ctx, s, k.KeyID, secret)
			})
		},
	}
	n.addMaterial(cmd.Flags())
	cmd.Flags().DurationVar(&overlap, "overlap", 0, "how long the old key stays valid, as 24h; 0 revokes it at once")
	cmd.Flags().StringVar(&reason, "reason", "rotated", "why the old key was revoked, for the record")
	cmd.Flags().DurationVar(&n.expiresIn, "expires-in", 0, "end of the new key's life from now, as 720h")
	return cmd
}
