package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/receipt"
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
	var wait time.Duration
	verb, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use:         use,
		Short:       short,
		Example:     fmt.Sprintf("  keysidecar owners %[1]s m_books\n  keysidecar owners %[1]s m_books --wait=10s -o json", verb),
		Annotations: map[string]string{answers: "yes"},
		Args:        cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				already, err := change(s, ctx, args[0])
				if err != nil {
					return err
				}
				if wait > 0 && c.json() {
					return c.showReceipt(ctx, s, receipt.Target{OwnerID: args[0]}, wait)
				}
				if c.json() {
					return c.printJSON(map[string]any{"owner_id": args[0], "state": state, "already": already})
				}
				before := ""
				if already {
					before = ", and was before"
				}
				if _, err = fmt.Fprintf(c.out, "%s is %s%s\n", args[0], state, before); err != nil || wait == 0 {
					return err
				}
				return c.showReceipt(ctx, s, receipt.Target{OwnerID: args[0]}, wait)
			})
		},
	}
	addWaitFlag(cmd.Flags(), &wait)
	return cmd
}

func (c *cli) ownersShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:         "show OWNER_ID",
		Short:       "Show an owner and how many keys it has",
		Example:     `  keysidecar owners show m_books`,
		Annotations: map[string]string{answers: "yes"},
		Args:        cobra.ExactArgs(1),
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
				return c.table([]string{"owner_id", o.OwnerID}, []string{"state", state}, []string{"suspended_at", timeText(o.SuspendedAt)},
					[]string{"keys", fmt.Sprint(o.Keys)}, []string{"revoked_keys", fmt.Sprint(o.Revoked)})
			})
		},
	}
}
