package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
)

func (c *cli) configCommand() *cobra.Command {
	return group("config", "Check, print and describe the configuration", c.configValidateCommand(), c.configPrintCommand(), c.configDocsCommand())
}

func (c *cli) configValidateCommand() *cobra.Command {
	var (
		role             string
		connect, noFiles bool
	)
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration, and say what it promises",
		Example: `  keysidecar config validate --config keysidecar.yaml
  keysidecar config validate --connect
  keysidecar config validate --for relay --no-files --config relay.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			roles := map[string]config.Role{"sidecar": config.ForSidecar, "relay": config.ForRelay}
			what, ok := roles[role]
			if !ok {
				return &usageError{oneOf("for", role, []string{"sidecar", "relay"}), cmd.CommandPath()}
			}
			cfg, err := c.load(cmd, what)
			if err == nil && !noFiles {
				err = cfg.CheckFiles(what)
			}
			if errors.Is(err, config.ErrInvalid) {
				return &noError{err}
			}
			if err != nil {
				return err
			}
			for _, w := range cfg.Warnings() {
				c.warn(w)
			}
			if connect {
				if err := c.checkDatabase(cmd, cfg); err != nil {
					return err
				}
			}
			fmt.Fprintln(c.out, "the configuration is valid")
			if what == config.ForSidecar {
				for _, line := range cfg.Promise() {
					fmt.Fprintln(c.out, "- "+line)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&role, "for", "sidecar", "what it is to run: sidecar or relay")
	completeFlag(cmd, "for", []string{"sidecar", "relay"})
	cmd.Flags().BoolVar(&noFiles, "no-files", false, "do not look at the files and directories it names (they are on another machine)")
	cmd.Flags().BoolVar(&connect, "connect", false, "connect to Postgres, too, and check schema, rights, capture and how keys are read")
	config.AddFlags(cmd.Flags())
	return cmd
}

func (c *cli) checkDatabase(cmd *cobra.Command, cfg *config.Config) error {
	if cfg.Store.Kind != config.StorePostgres {
		return nil
	}
	dsn, err := cfg.StoreDSN()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	db, err := admin.OpenPostgres(ctx, dsn, cfg.Store.Postgres.Relation, "")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(ctx) }()
	problems, err := db.Problems(ctx)
	if err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintln(c.err, "keysidecar: problem: "+p)
	}
	if len(problems) > 0 {
		return &noError{errSaid}
	}
	fmt.Fprintln(c.out, "the database is ready")
	return nil
}

func (c *cli) configPrintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print every setting, where its value comes from, and no secret",
		Example: `  keysidecar config print
  keysidecar config print --config keysidecar.yaml --freshness.max_staleness 5s -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := c.loadUnchecked(cmd)
			if err != nil {
				return err
			}
			for _, w := range warnings {
				c.warn(w)
			}
			if c.json() {
				return c.printJSON(cfg.Redacted())
			}
			return config.WriteYAML(c.out, cfg.Redacted())
		},
	}
	config.AddFlags(cmd.Flags())
	return cmd
}

func (c *cli) configDocsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "docs",
		Short:   "Print the table of all settings in Markdown",
		Example: `  keysidecar config docs > settings.md`,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return config.WriteTable(c.out) },
	}
}
