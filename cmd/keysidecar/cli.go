package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keysidecar/keysidecar/internal/config"
)

// Exit codes of every command.
const (
	exitYes        = 0 // done; valid; ready
	exitNo         = 1 // not valid; not there; not ready; refused
	exitCannotTell = 2 // could not find out; used wrongly
)

// defaultConfigFile is read if it is there and no other file is named.
const defaultConfigFile = "/etc/keysidecar/keysidecar.yaml"

// cli is one run of the program: its streams and the flags of all commands.
type cli struct {
	in       io.Reader
	out, err io.Writer

	configFile string
	output     string
	noColor    bool

	// helped: a command that answers by its exit code printed its help instead.
	helped bool
}

// noError says no: the question was answered, and not with yes. With an empty
// text everything has been said already.
type noError struct{ err error }

func (e *noError) Error() string { return e.err.Error() }
func (e *noError) Unwrap() error { return e.err }

// answers marks commands whose exit code says yes or no of an argument. That may come
// from anywhere, and "--help" for a KEY_ID must not be a yes.
const answers = "answers"

// errSaid is for answers that have been printed.
var errSaid = errors.New("")

// usageError is a command used wrongly; help for it is at hand.
type usageError struct {
	err     error
	command string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// run executes the command line and returns the exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	err := root.ExecuteContext(ctx)
	if err == nil && c.helped {
		return exitCannotTell
	}
	if err == nil {
		return exitYes
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(c.err, c.paintedFor(c.err, red, "keysidecar:")+" "+text)
	}
	var (
		usage *usageError
		no    *noError
	)
	if errors.As(err, &usage) {
		fmt.Fprintf(c.err, "Run '%s --help' for how to use it.\n", usage.command)
	}
	if errors.As(err, &no) {
		return exitNo
	}
	return exitCannotTell
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "keysidecar",
		Short: "Answers from memory whether a key may still be used, and hears of revocations within milliseconds",
		Long: `keysidecar runs beside every pod of a service and answers, over a local Unix
socket, whether a key may still be used. When a key is revoked in Postgres, every
sidecar of the fleet refuses it: in milliseconds when all is well, and never later
than a stated bound, whatever breaks.

Settings come from flags, then the environment (KEYSIDECAR_...), then a file
(--config), then defaults. Exit codes: 0 yes, 1 no, 2 cannot tell or wrong usage.`,
		Example: `  keysidecar serve --config /etc/keysidecar/keysidecar.yaml
  keysidecar verify pk_live_1 && echo may be used
  keysidecar keys revoke pk_live_1 --reason lost --wait`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          needSubcommand,
		Args:          cobra.ArbitraryArgs,

		SuggestionsMinimumDistance: 2,
	}
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	flags := root.PersistentFlags()
	flags.StringVar(&c.configFile, "config", "", "configuration file (default $"+config.FileEnv+", else "+defaultConfigFile+" if it exists)")
	flags.StringVarP(&c.output, "output", "o", outputTable, "form of what is printed: table, wide (a table with all columns), or json for programs")
	flags.BoolVar(&c.noColor, "no-color", false, "no colours; they are used on terminals only, and not if $NO_COLOR is set")
	completeFlag(root, "output", outputs)
	completeFiles(root, "config")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := oneOf("output", c.output, outputs); err != nil {
			return &usageError{err, cmd.CommandPath()}
		}
		return nil
	}
	root.SetFlagErrorFunc(flagError)
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help(cmd, args)
		c.helped = c.helped || cmd.Annotations[answers] != "" && cmd.Flags().Changed("help")
	})
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "ask", Title: "Ask a running sidecar:"},
		&cobra.Group{ID: "manage", Title: "Manage:"},
	)
	root.SetHelpCommandGroupID("manage")
	root.SetCompletionCommandGroupID("manage")
	c.addGroup(root, "run", c.serveCommand(), c.relayCommand(), c.migrateCommand())
	c.addGroup(root, "ask", c.verifyCommand(), c.auditCommand(), c.statusCommand(), c.waitCommand(), c.healthcheckCommand(), c.debugCommand())
	c.addGroup(root, "manage", c.keysCommand(), c.ownersCommand(), c.receiptCommand(), c.configCommand(), c.versionCommand())
	return root
}

func (c *cli) addGroup(root *cobra.Command, id string, commands ...*cobra.Command) {
	for _, cmd := range commands {
		cmd.GroupID = id
		wrapArgs(cmd)
		completeSettings(cmd)
		root.AddCommand(cmd)
	}
}

// wrapArgs makes wrong arguments of cmd and its subcommands a usageError.
func wrapArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err, cmd.CommandPath()}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
}

// needSubcommand runs a command that only holds others.
func needSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		if err := cmd.Help(); err != nil {
			return err
		}
		return errSaid
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{errors.New(text), cmd.CommandPath()}
}

// group returns a command that only holds others.
func group(use, short string, subcommands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, RunE: needSubcommand, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2}
	cmd.AddCommand(subcommands...)
	return cmd
}

// flagError names the flag that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		name := unknown.GetSpecifiedName()
		if slices.ContainsFunc(config.Settings(), func(s config.Setting) bool { return s.Secret && s.Key == name }) {
			err = fmt.Errorf("%w: secrets are no flags, because every user can see command lines; use --%s_file, the environment or the configuration file", err, name)
		} else if near := config.Nearest(name, flagNames(cmd)); near != "" {
			err = fmt.Errorf("%w; did you mean --%s?", err, near)
		}
	}
	return &usageError{err, cmd.CommandPath()}
}

func flagNames(cmd *cobra.Command) (names []string) {
	add := func(f *pflag.Flag) { names = append(names, f.Name) }
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return names
}

// load reads and checks the configuration for role. Warnings go to standard error.
func (c *cli) load(cmd *cobra.Command, role config.Role) (*config.Config, error) {
	cfg, warnings, err := c.loadUnchecked(cmd)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		c.warn(w)
	}
	return cfg, cfg.Validate(role)
}

func (c *cli) loadUnchecked(cmd *cobra.Command) (*config.Config, []string, error) {
	file := c.configFile
	if file == "" {
		file = os.Getenv(config.FileEnv)
	}
	if file == "" {
		if _, err := os.Stat(defaultConfigFile); err == nil {
			file = defaultConfigFile
		}
	}
	return config.Load(file, cmd.Flags())
}
