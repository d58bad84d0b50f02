package main

import (
	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

func (c *cli) configCommand() *cobra.Command {
	return group("config", "Check, print and describe the configuration", c.configValidateCommand(), c.configPrintCommand(), c.configDocsCommand())
}

func (c *cli) configValidateCommand() *cobra.Command {
	var (
		role string
		v    validation
	)
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration, and say what it promises",
		Long: `Checks everything at once: for each mistake it says which setting it is about, its
value, where that was set (flag, variable, line of the file, default), and what would
mend it. Values that are legal and risky are warnings.

Exit codes: 0 valid; 1 not valid, a database that is not ready (--connect), or a
warning under --strict; 2 the configuration cannot be read or the database reached.`,
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
			return c.validate(cmd, what, v)
		},
	}
	cmd.Flags().StringVar(&role, "for", "sidecar", "what it is to run: sidecar or relay")
	completeFlag(cmd, "for", []string{"sidecar", "relay"})
	cmd.Flags().BoolVar(&v.noFiles, "no-files", false, "do not look at the files and directories it names (they are on another machine)")
	cmd.Flags().BoolVar(&v.connect, "connect", false, "connect to Postgres, too, and check schema, rights, capture and how keys are read")
	cmd.Flags().BoolVar(&v.strict, "strict", false, "answer no (exit code 1) to a configuration with warnings, too")
	config.AddFlags(cmd.Flags())
	return cmd
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
