package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/receipt"
)

// receiptReadTimeout bounds one look at the registry.
const receiptReadTimeout = 5 * time.Second

func (c *cli) receiptCommand() *cobra.Command {
	var (
		t    receipt.Target
		wait time.Duration
	)
	cmd := &cobra.Command{
		Use:   "receipt KEY_ID | --seq N | --owner OWNER_ID",
		Short: "Tell whether a revocation is over: no sidecar accepts the key any more",
		Long: `Tell whether a revocation is over. It is when every registered sidecar has
reported that it read the change, or its own bound (freshness.max_staleness, or
freshness.stale_limit) has passed since this command first saw the change.

Without --wait the answer is what is known now. Exit code 0: complete; 1: not yet,
or there is no such change; 2: cannot tell.`,
		Example: `  keysidecar receipt pk_live_1 --wait
  keysidecar receipt --owner m_books --wait=10s -o json
  keysidecar receipt --seq 1234`,
		Annotations: map[string]string{answers: "yes"},
		Args:        cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t.HasSeq = cmd.Flags().Changed("seq")
			if err := targetOf(&t, args); err != nil {
				return &usageError{err, cmd.CommandPath()}
			}
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				return c.showReceipt(ctx, s, t, wait)
			})
		},
	}
	addStoreFlags(cmd.Flags())
	cmd.Flags().Int64Var(&t.Seq, "seq", 0, "the number of an event")
	cmd.Flags().StringVar(&t.OwnerID, "owner", "", "the newest change of an owner")
	addWaitFlag(cmd.Flags(), &wait)
	return cmd
}

func addWaitFlag(flags *pflag.FlagSet, wait *time.Duration) {
	flags.DurationVar(wait, "wait", 0, "wait for the receipt to complete, at most this long (30s if no time is given)")
	flags.Lookup("wait").NoOptDefVal = "30s"
}

// targetOf completes t from the arguments: exactly one thing must be named.
func targetOf(t *receipt.Target, args []string) error {
	named := 0
	if len(args) == 1 {
		t.KeyID = args[0]
		named++
	}
	if t.OwnerID != "" {
		named++
	}
	if t.HasSeq {
		named++
	}
	if named != 1 {
		return errors.New("name one of a KEY_ID, --seq and --owner")
	}
	return nil
}

// showReceipt waits for a receipt and prints what came of it.
func (c *cli) showReceipt(ctx context.Context, s receipt.Reader, t receipt.Target, wait time.Duration) error {
	w := receipt.Waiter{Reader: s, Clock: clock.New(), ReadTimeout: receiptReadTimeout}
	r, err := w.Wait(ctx, t, wait)
	switch {
	case errors.Is(err, receipt.ErrNoEvent):
		return &noError{fmt.Errorf("%s: %w; events older than relay.retention are deleted", targetText(&t), err)}
	case err != nil:
		return fmt.Errorf("receipt for %s: %w", targetText(&t), err)
	}
	if err := c.printReceipt(&r, targetText(&t)); err != nil {
		return err
	}
	if !r.Complete {
		return &noError{errSaid}
	}
	return nil
}

func targetText(t *receipt.Target) string {
	switch {
	case t.HasSeq:
		return "event " + strconv.FormatInt(t.Seq, 10)
	case t.OwnerID != "":
		return "owner " + t.OwnerID
	}
	return t.KeyID
}

func (c *cli) printReceipt(r *receipt.Receipt, of string) error {
	a := r.Answer()
	if c.json() {
		return c.printJSON(a)
	}
	state := "complete: no sidecar answers by what was before this change any more"
	if !r.Complete {
		state = fmt.Sprintf("not complete yet; at the latest in %d ms", a.LeftMS)
	}
	if r.Superseded {
		state += "; the key was made valid again since"
	}
	rows := [][]string{
		{"receipt", of}, {"state", state}, {"event", fmt.Sprintf("%s (seq %d)", a.Kind, a.Seq)},
		{"changed_at", a.OccurredAt}, {"actor", a.Actor},
	}
	if a.CommittedAt != "" {
		rows = append(rows, []string{"committed_at", a.CommittedAt})
	}
	rows = append(rows,
		[]string{"acknowledged", groupText(a.Acknowledged)}, []string{"expired", groupText(a.Expired)}, []string{"awaited", groupText(a.Awaited)},
		[]string{"waited", fmt.Sprintf("%d ms", a.ElapsedMS)})
	return c.table(rows...)
}

func groupText(g receipt.Group) string {
	if g.Count == 0 {
		return "none"
	}
	text := fmt.Sprintf("%d: %s", g.Count, strings.Join(g.Names, " "))
	if len(g.Names) < g.Count {
		text += " ..."
	}
	return text
}
