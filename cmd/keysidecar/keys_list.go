package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
)

// listRows are printed at a time: columns may move then, but a million keys are not
// held in memory.
const listRows = 1000

// listFlags are the flags of keys list, as they were typed.
type listFlags struct {
	filter admin.Filter

	createdAfter, createdBefore, expiresAfter, expiresBefore, usedAfter, unusedSince string
}

func (l *listFlags) add(flags *pflag.FlagSet) {
	f := &l.filter
	flags.StringVar(&f.Owner, "owner", "", "only keys of this owner")
	flags.StringVar(&f.Algorithm, "algorithm", "", "only keys of this algorithm")
	flags.StringSliceVar(&f.States, "state", nil, "only keys in these states: "+strings.Join(admin.States, ", "))
	flags.StringVar(&l.createdAfter, "created-after", "", "only keys made since then: "+whenHelp+" (ago)")
	flags.StringVar(&l.createdBefore, "created-before", "", "only keys made before then")
	flags.StringVar(&l.expiresAfter, "expires-after", "", "only keys that end then or later: a time, or as 30d (from now)")
	flags.StringVar(&l.expiresBefore, "expires-before", "", "only keys that end before then")
	flags.StringVar(&l.usedAfter, "used-after", "", "only keys used since then (needs usage.enabled on the sidecars)")
	flags.StringVar(&l.unusedSince, "unused-since", "", "only keys not used since then, or never")
	flags.StringVar(&f.After, "after", "", "only keys that follow this KEY_ID: the next page")
	flags.IntVar(&f.Limit, "limit", 0, "at most so many (0: all)")
}

// read completes the filter from what was typed.
func (l *listFlags) read(now time.Time) (err error) {
	f := &l.filter
	for _, state := range f.States {
		if err := oneOf("state", state, admin.States); err != nil {
			return err
		}
	}
	if f.Limit < 0 {
		return fmt.Errorf("--limit: %d: must not be negative", f.Limit)
	}
	for _, m := range []struct {
		flag, text string
		ahead      bool
		into       *time.Time
	}{
		{"created-after", l.createdAfter, false, &f.CreatedAfter}, {"created-before", l.createdBefore, false, &f.CreatedBefore},
		{"expires-after", l.expiresAfter, true, &f.ExpiresAfter}, {"expires-before", l.expiresBefore, true, &f.ExpiresBefore},
		{"used-after", l.usedAfter, false, &f.UsedAfter}, {"unused-since", l.unusedSince, false, &f.UnusedSince},
	} {
		if *m.into, err = moment(m.flag, m.text, now, m.ahead); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) keysListCommand() *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List keys, by key_id",
		Long: `Lists keys in the order of their key_id; all that is asked for must hold. With -o wide
there are more columns, with -o json each key is a JSON object on a line. Keys are
printed as they are read, however many there are. If --limit leaves some out, the
--after of the next page is said on standard error.`,
		Example: `  keysidecar keys list --owner m_books --state active
  keysidecar keys list --state revoked,expired --limit 100 --after pk_live_7
  keysidecar keys list --expires-before 30d -o wide
  keysidecar keys list --unused-since 90d --created-before 90d -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.read(time.Now()); err != nil { //nolint:forbidigo // what a person means by "ago"
				return &usageError{err, cmd.CommandPath()}
			}
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error { return c.listKeys(ctx, s, l.filter) })
		},
	}
	l.add(cmd.Flags())
	completeFlag(cmd, "state", admin.States)
	return cmd
}

// keyList prints entries as they come.
type keyList struct {
	cli     *cli
	head    []string // nil once it is printed
	rows    [][]string
	printed int
	last    string
	more    bool
}

func (c *cli) listKeys(ctx context.Context, s keyStore, f admin.Filter) error {
	l := &keyList{cli: c, head: []string{"KEY_ID", "STATE", "OWNER_ID", "ALGORITHM", "SCOPES", "EXPIRES_AT"}}
	if c.wide() {
		l.head = append(l.head, "NOT_BEFORE", "CREATED_AT", "LAST_USED_AT", "ATTRIBUTES", "NOTE")
	}
	limit := f.Limit
	if limit > 0 {
		f.Limit++ // one more, to know whether there are more
	}
	var failed error
	err := s.List(ctx, f, func(e *admin.Entry) bool {
		if l.more = limit > 0 && l.printed == limit; l.more {
			return false
		}
		failed = l.add(e)
		return failed == nil
	})
	if err != nil {
		return err
	}
	if failed == nil {
		failed = l.flush()
	}
	if failed != nil {
		return failed
	}
	switch {
	case l.more:
		fmt.Fprintf(c.err, "There are more: --after %s\n", l.last)
	case isTerminal(c.out) && !c.json():
		fmt.Fprintf(c.err, "%d keys\n", l.printed)
	}
	return nil
}

func (l *keyList) add(e *admin.Entry) error {
	shown := show(e)
	l.printed, l.last = l.printed+1, e.KeyID
	if l.cli.json() {
		return l.cli.printJSON(shown)
	}
	row := []string{e.KeyID, shown.State, e.OwnerID, e.Algorithm, orDash(strings.Join(e.Scopes, " ")), timeText(e.ExpiresAt)}
	if l.cli.wide() {
		attributes := "-"
		if len(e.Attributes) > 0 {
			attributes = jsonText(e.Attributes)
		}
		row = append(row, timeText(e.NotBefore), timeText(e.CreatedAt), timeText(e.LastUsedAt), attributes, orDash(e.Note))
	}
	if l.rows = append(l.rows, row); len(l.rows) < listRows {
		return nil
	}
	return l.flush()
}

func (l *keyList) flush() error {
	if l.cli.json() {
		return nil
	}
	err := l.cli.list(l.head, l.rows, 1)
	l.head, l.rows = nil, l.rows[:0]
	return err
}
