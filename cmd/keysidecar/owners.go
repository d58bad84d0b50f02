package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

func (c *cli) ownersCommand() *cobra.Command {
	cmd := group("owners", "Suspend, reactivate and show owners of keys",
		c.ownerChangeCommand("suspend OWNER_ID", "Turn off all keys of an owner", "suspended", keyStore.Suspend),
		c.ownerChangeCommand("reactivate OWNER_ID", "Turn the keys of an owner on again", "active", keyStore.Reactivate),
		c.ownersShowCommand())
	addStoreFlags(cmd.PersistentFlags())
	return cmd
}

func (c *cli) ownerChangeCommand(use, short, state string, change func(keyStore, context.Context, string) (bool, error)) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				already, err := change(s, ctx, args[0])
				if err != nil {
					return err
				}
				if c.json() {
					return c.printJSON(map[string]any{"owner_id": args[0], "state": state, "already": already})
				}
				before := ""
				if already {
					before = ", and was before"
				}
				_, err = fmt.Fprintf(c.out, "%s is %s%s\n", args[0], state, before)
				return err
			})
		},
	}
}

func (c *cli) ownersShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show OWNER_ID",
		Short: "Show an owner and how many keys it has",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				o, err := s.Owner(ctx, args[0])
				if err != nil {
					return err
				}
				if c.json() {
					return c.printJSON(o)
				}
				state := "active"
				if o.SuspendedAt != nil {
					state = "suspended"
				}
				return table(c.out, []string{"owner_id", o.OwnerID}, []string{"state", state}, []string{"suspended_at", timeText(o.SuspendedAt)},
					[]string{"keys", fmt.Sprint(o.Keys)}, []string{"revoked_keys", fmt.Sprint(o.Revoked)})
			})
		},
	}
}
