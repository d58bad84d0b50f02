package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/schema"
)

func (c *cli) migrateCommand() *cobra.Command {
	var (
		show   bool
		downTo int64
	)
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Make or update keysidecar's tables in the database",
		Long: `Makes or updates the schema keysidecar in the database of relay.dsn or
store.postgres.dsn. It may be run again, and by several at once: they take turns.
The role needs the right to create a schema; sidecars and relays never migrate.

Sidecars may go on: where a table is in use, it stands back and tries again.

With --down-to it takes the schema back to an older version, for the way back from
an update that went wrong. What belongs to the newer version is lost; stop the
sidecars and relays of that version first.

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
			options := schema.Options{Progress: func(line string) { fmt.Fprintln(c.err, line) }}
			if !cmd.Flags().Changed("down-to") {
				return schema.Migrate(cmd.Context(), dsn, options)
			}
			if downTo < schema.Oldest || downTo > schema.Latest {
				return &usageError{fmt.Errorf("--down-to: %d: must be between %d, the first release's, and %d, this program's", downTo, schema.Oldest, schema.Latest), cmd.CommandPath()}
			}
			return schema.Rollback(cmd.Context(), dsn, downTo, options)
		},
	}
	cmd.Flags().BoolVar(&show, "print", false, "write the SQL instead of running it")
	cmd.Flags().Int64Var(&downTo, "down-to", 0, "take the schema back to this version instead")
	config.AddFlags(cmd.Flags(), "store.postgres.dsn_file", "relay.dsn_file", "allow_insecure")
	return cmd
}
