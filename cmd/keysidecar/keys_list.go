package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
)

func (c *cli) keysListCommand() *cobra.Command {
	var (
		owner, state string
		limit        int
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List keys, by key_id",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				return c.listKeys(ctx, s, owner, state, limit)
			})
		},
	}
	cmd.Flags().StringVar(&owner, "owner", "", "only keys of this owner")
	cmd.Flags().StringVar(&state, "state", "", "only keys in this state: active, revoked, expired, not_yet_valid, owner_suspended")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many (0: all)")
	return cmd
}

func (c *cli) listKeys(ctx context.Context, s keyStore, owner, state string, limit int) error {
	rows := [][]string{{"KEY_ID", "STATE", "OWNER_ID", "ALGORITHM", "SCOPES", "EXPIRES_AT"}}
	n := 0
	var failed error
	err := s.List(ctx, owner, func(e *admin.Entry) bool {
		shown := show(e)
		if state != "" && shown.State != state {
			return true
		}
		n++
		if c.json() {
			failed = c.printJSON(shown)
		} else {
			rows = append(rows, []string{e.KeyID, shown.State, e.OwnerID, e.Algorithm, orDash(strings.Join(e.Scopes, " ")), timeText(e.ExpiresAt)})
			if len(rows) == 1000 { // columns may move, but a million keys are not held
				failed = table(c.out, rows...)
				rows = rows[:0]
			}
		}
		return failed == nil && (limit <= 0 || n < limit)
	})
	if err != nil {
		return err
	}
	if failed != nil || c.json() {
		return failed
	}
	if err := table(c.out, rows...); err != nil {
		return err
	}
	if isTerminal(c.out) {
		fmt.Fprintf(c.err, "%d keys\n", n)
	}
	return nil
}
