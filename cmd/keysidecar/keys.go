package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/receipt"
)

// keyStore is where the keys and owners commands work: a database or a key file.
type keyStore interface {
	Issue(context.Context, keystore.FileKey) error
	Import(context.Context, []keystore.FileKey) ([]error, error)
	ImportBatch() int
	List(ctx context.Context, f admin.Filter, yield func(*admin.Entry) bool) error
	Existing(ctx context.Context, ids []string) (map[string]bool, error)
	Get(ctx context.Context, keyID string) (admin.Entry, error)
	Revoke(ctx context.Context, keyID, reason string) (already bool, err error)
	Rotate(context.Context, admin.Rotation) error
	Suspend(ctx context.Context, ownerID string) (already bool, err error)
	Reactivate(ctx context.Context, ownerID string) (already bool, err error)
	Owner(ctx context.Context, ownerID string) (admin.Owner, error)
	receipt.Reader
	Close(context.Context) error
}

var (
	_ keyStore = (*admin.Postgres)(nil)
	_ keyStore = (*admin.File)(nil)
)

func (c *cli) keysCommand() *cobra.Command {
	cmd := group("keys", "Issue, import, list, show, revoke and rotate keys",
		c.keysIssueCommand(), c.keysImportCommand(), c.keysListCommand(), c.keysShowCommand(), c.keysRevokeCommand(), c.keysRotateCommand())
	addStoreFlags(cmd.PersistentFlags())
	return cmd
}

// addStoreFlags adds what says where the keys are, and who changes them.
func addStoreFlags(flags *pflag.FlagSet) {
	config.AddFlags(flags, "store.kind", "store.postgres.dsn_file", "store.postgres.relation", "store.file", "keys", "allow_insecure")
	flags.String("actor", "", "who makes the change, for the log (default: this user's name)")
}

// inStore opens the store of the configuration, runs work, and turns what the
// store says no to into exit code 1.
func (c *cli) inStore(cmd *cobra.Command, work func(context.Context, *config.Config, keyStore) error) error {
	cfg, err := c.load(cmd, config.ForAdmin)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	store, err := openStore(ctx, cmd, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close(context.WithoutCancel(ctx)) }()
	return answer(work(ctx, cfg, store))
}

func openStore(ctx context.Context, cmd *cobra.Command, cfg *config.Config) (keyStore, error) {
	if cfg.Store.Kind == config.StoreFile {
		return admin.OpenFile(cfg.Store.File.Path)
	}
	actor, err := cmd.Flags().GetString("actor")
	if err != nil {
		return nil, err
	}
	if actor == "" {
		actor = "cli:" + userName()
	}
	dsn, err := cfg.StoreDSN()
	if err != nil {
		return nil, err
	}
	return admin.OpenPostgres(ctx, dsn, cfg.Store.Postgres.Relation, actor)
}

// userName is the person at the keyboard, as far as it can be known.
func userName() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Getuid())
}

// answer tells a no from a failure to find out.
func answer(err error) error {
	for _, no := range []error{admin.ErrNoKey, admin.ErrNoOwner, admin.ErrExists, admin.ErrRefused} {
		if errors.Is(err, no) {
			return &noError{err}
		}
	}
	return err
}

// entryRows are the lines in which a key is shown.
func entryRows(e *shownEntry) [][]string {
	rows := [][]string{
		{"key_id", e.KeyID},
		{"state", e.State},
		{"owner_id", e.OwnerID},
		{"algorithm", e.Algorithm},
		{"public_key", orDash(e.PublicKey)},
		{"thumbprint", orDash(e.Thumbprint)},
		{"scopes", orDash(strings.Join(e.Scopes, " "))},
		{"not_before", timeText(e.NotBefore)},
		{"expires_at", timeText(e.ExpiresAt)},
		{"revoked_at", timeText(e.RevokedAt)},
	}
	if e.RevokedReason != "" {
		rows = append(rows, []string{"revoked_reason", e.RevokedReason})
	}
	if len(e.Attributes) > 0 {
		rows = append(rows, []string{"attributes", jsonText(e.Attributes)})
	}
	if e.Note != "" {
		rows = append(rows, []string{"note", e.Note})
	}
	if e.CreatedAt != nil {
		rows = append(rows, []string{"created_at", timeText(e.CreatedAt)})
	}
	if e.UsageKnown {
		rows = append(rows, []string{"last_used_at", timeText(e.LastUsedAt)})
	}
	return rows
}
