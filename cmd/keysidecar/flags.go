package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keysidecar/keysidecar/internal/config"
)

// oneOf checks a flag that has a closed set of values, and names the one that was
// probably meant.
func oneOf(flag, value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	text := fmt.Sprintf("--%s: %q: must be %s or %s", flag, value, strings.Join(allowed[:len(allowed)-1], ", "), allowed[len(allowed)-1])
	if near := config.Nearest(value, allowed); near != "" {
		text += "; did you mean " + near + "?"
	}
	return errors.New(text)
}

// completeFlag has the shell complete a flag from a closed set of values.
func completeFlag(cmd *cobra.Command, flag string, values []string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined beside the call
	}
}

// completeFiles has the shell complete a flag by the names of files.
func completeFiles(cmd *cobra.Command, flag string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)); err != nil {
		panic(err) // the flag is defined beside the call
	}
}

// completeSettings has the shell complete flags that are settings with files.
func completeSettings(cmd *cobra.Command) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if strings.HasSuffix(f.Name, "_file") || strings.HasSuffix(f.Name, ".path") || f.Name == "public-key" {
				completeFiles(cmd, f.Name)
			}
		})
	}
	for _, sub := range cmd.Commands() {
		completeSettings(sub)
	}
}

// whenHelp is what moment reads, for help texts.
const whenHelp = "2027-01-31, 2027-01-31T12:00:00Z, or as 90d or 36h"

// moment reads a moment that somebody typed: a time, a day (in UTC), or a distance
// from now, which leads into the past unless ahead. Empty is the zero Time.
func moment(flag, text string, now time.Time, ahead bool) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	d, err := distance(text)
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("--%s: %q: want a moment as %s", flag, text, whenHelp)
	}
	if !ahead {
		d = -d
	}
	return now.UTC().Add(d), nil
}

// distance is time.ParseDuration with days.
func distance(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}
