package main

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/publickey"
)

// shownEntry is an Entry as printed, with its state.
type shownEntry struct {
	State string `json:"state"`
	// Thumbprint is the public key's, by RFC 7638; empty for an opaque key and one that
	// is not fit for use.
	Thumbprint string `json:"thumbprint,omitempty"`
	*admin.Entry
}

func show(e *admin.Entry) shownEntry {
	shown := shownEntry{State: e.State(e.Now), Entry: e}
	k, err := e.Key()
	if err != nil || k.PublicKey == nil {
		return shown
	}
	e.PublicKey = base64.StdEncoding.EncodeToString(k.PublicKey) // a key file may hold another form
	if public, err := publickey.Parse(k.PublicKey); err == nil {
		shown.Thumbprint = public.Thumbprint()
	}
	return shown
}

func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(text)
}

func (c *cli) keysShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show KEY_ID",
		Short: "Show one key as the store has it",
		Example: `  keysidecar keys show pk_live_1
  keysidecar keys show pk_live_1 -o json`,
		Annotations: map[string]string{answers: "yes"},
		Args:        cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				e, err := s.Get(ctx, args[0])
				if err != nil {
					return err
				}
				shown := show(&e)
				if c.json() {
					return c.printJSON(shown)
				}
				return c.table(entryRows(&shown)...)
			})
		},
	}
}
