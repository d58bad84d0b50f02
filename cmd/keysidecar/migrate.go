package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/schema"
)

func (c *cli) migrateCommand() *cobra.Command {
	var show bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Make or update keysidecar's tables in the database",
		Long: `Makes or updates the schema keysidecar in the database of relay.dsn or
store.postgres.dsn. It may be run again, and by several at once: they take turns.
The role needs the right to create a schema; sidecars and relays never migrate.

With --print it connects to nothing and writes the SQL for an empty database, for
an administrator to read and run.`,
		Example: `  keysidecar migrate --store.postgres.dsn_file owner-dsn
  keysidecar migrate --print | psql "$DSN"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if show {
				return schema.Print(c.out)
			}
			cfg, err := c.load(cmd, config.ForDatabase)
			if err != nil {
				return err
			}
			dsn, err := cfg.RelayDSN()
			if err != nil {
				return err
			}
			return schema.Migrate(cmd.Context(), dsn, schema.Options{
				Progress: func(line string) { fmt.Fprintln(c.err, line) },
			})
		},
	}
	cmd.Flags().BoolVar(&show, "print", false, "write the SQL instead of running it")
	config.AddFlags(cmd.Flags(), "store.postgres.dsn_file", "relay.dsn_file", "allow_insecure")
	return cmd
}
