package main

import (
	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/app"
	"github.com/keysidecar/keysidecar/internal/config"
)

func (c *cli) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a sidecar: answer on the socket until told to stop",
		Example: `  keysidecar serve --config keysidecar.yaml
  keysidecar serve --store.kind file --store.file.path keys.yaml --listen.socket.path run/k.sock
  keysidecar serve --usage.enabled --log.format console`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.daemon(cmd, config.ForSidecar, app.Serve)
		},
	}
	config.AddFlags(cmd.Flags(), "instance", "listen", "store", "startup", "cache", "freshness", "audit", "usage", "amqp", "fleet", "keys", "allow_insecure", "log")
	return cmd
}
