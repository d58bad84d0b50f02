package main

import (
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/schema"
)

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  keysidecar version
  keysidecar version -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if c.json() {
				return c.printJSON(map[string]any{"version": version, "revision": revision(), "go": runtime.Version(), "schema": schema.Latest})
			}
			return c.table([]string{"keysidecar", version}, []string{"revision", orDash(revision())},
				[]string{"go", runtime.Version()}, []string{"schema", strconv.Itoa(schema.Latest)})
		},
	}
}

// revision is the commit the program was built from, if the build knew it.
func revision() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
