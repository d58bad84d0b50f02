package main

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

// eachCommand calls visit for every command that does something.
func eachCommand(cmd *cobra.Command, visit func(*cobra.Command)) {
	for _, sub := range cmd.Commands() {
		eachCommand(sub, visit)
	}
	if cmd.Runnable() && !cmd.HasSubCommands() && cmd.Name() != "help" {
		visit(cmd)
	}
}

// words splits a command of an example as a shell would, as far as examples need it.
func words(command string) (list []string) {
	for _, w := range regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`).FindAllString(command, -1) {
		if w == ">" || w == "|" || w == "||" || w == "&&" {
			break
		}
		end := strings.HasSuffix(w, ";")
		if w = strings.Trim(w, `'";`); w != "" {
			list = append(list, w)
		}
		if end {
			break
		}
	}
	return list
}

// An example that does not work is worse than none.
func TestEveryCommandHasExamplesThatItWouldTake(t *testing.T) {
	t.Parallel()
	count := 0
	eachCommand((&cli{}).root(), func(cmd *cobra.Command) {
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			if _, inside, container := strings.Cut(line, " -- /"); container {
				line = inside
			}
			_, rest, found := strings.Cut(line, "keysidecar ")
			if !found {
				t.Errorf("%s: an example without it: %s", cmd.CommandPath(), line)
				continue
			}
			count++
			root := (&cli{}).root() // flags keep what was parsed
			used, args, err := root.Find(words(rest))
			if err != nil {
				t.Errorf("%s: %s: %v", cmd.CommandPath(), line, err)
				continue
			}
			if used.CommandPath() != cmd.CommandPath() {
				t.Errorf("%s: an example of %s: %s", cmd.CommandPath(), used.CommandPath(), line)
			}
			if err := errors.Join(used.ParseFlags(args), used.ValidateArgs(used.Flags().Args()), used.ValidateRequiredFlags()); err != nil {
				t.Errorf("%s: %s: %v", cmd.CommandPath(), line, err)
			}
		}
	})
	if count < 30 {
		t.Errorf("only %d examples", count)
	}
}

func TestMomentsAreTimesDaysAndDistances(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"":                          "0001-01-01T00:00:00Z",
		"2027-01-31":                "2027-01-31T00:00:00Z",
		"2027-01-31T12:00:00Z":      "2027-01-31T12:00:00Z",
		"2027-01-31T12:00:00+01:00": "2027-01-31T11:00:00Z",
		"30d":                       "2026-10-22T10:00:00Z", "36h": "2026-11-19T22:00:00Z", "0s": "2026-11-21T10:00:00Z",
	} {
		if have, err := moment("x", text, now, false); err != nil || have.Format(time.RFC3339) != want {
			t.Errorf("%q: have %v, %v, want %s", text, have, err, want)
		}
	}
	if have, err := moment("x", "1d", now, true); err != nil || !have.Equal(now.Add(24*time.Hour)) {
		t.Errorf("ahead: %v, %v", have, err)
	}
	for _, text := range []string{"soon", "-1h", "-3d", "1.5d", "2027-13-01", "90", "d"} {
		if have, err := moment("x", text, now, false); err == nil {
			t.Errorf("%q is taken for %v", text, have)
		}
	}
}

// A note or an owner's name may have been written to deceive whoever reads it.
func TestWhatOthersWroteCannotMoveTheCursor(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain Ünï ☺":      "plain Ünï ☺",
		"a\x1b[2Jb":        `a\x1b[2Jb`,
		"a\nstate  active": `a\nstate  active`,
		"\u202egnp.exe":    `\u202egnp.exe`,
		"bad \xff utf8":    `bad \ufffd utf8`,
		"c1 \u009b31m":     `c1 \u009b31m`,
	} {
		if have := printable(text); have != want {
			t.Errorf("%q: have %q, want %q", text, have, want)
		}
	}
	var out bytes.Buffer
	c := &cli{out: &out}
	if err := c.table([]string{"note", "x\r\x1b[1Aactive"}, []string{"a long name", "y"}); err != nil {
		t.Fatal(err)
	}
	if have := out.String(); have != "note         x\\r\\x1b[1Aactive\na long name  y\n" {
		t.Errorf("have %q", have)
	}
}

// Every word that is suggested for a mistake is one that works.
func TestMistakesInFlagsAndCommandsAreAnsweredWithWhatIsThere(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"keys lst":                       "did you mean list?",
		"key list":                       "did you mean keys?",
		"owners suspnd m":                "did you mean suspend?",
		"serve --cache.capcity 1":        "did you mean --cache.capacity?",
		"serve --usage.enable":           "did you mean --usage.enabled?",
		"keys list --unused-sinc 1d":     "did you mean --unused-since?",
		"keys list --state actve":        "did you mean active?",
		"keys import x.csv --format cvs": "did you mean csv?",
		"config validate --for relais":   "did you mean relay?",
		"status -o tabel":                "did you mean table?",
	} {
		var out, errs bytes.Buffer
		c := &cli{in: strings.NewReader(""), out: &out, err: &errs}
		if code := c.run(t.Context(), strings.Fields(args)); code != exitCannotTell || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: exit code %d, %s", args, code, errs.String())
		}
	}
	if near := config.Nearest("completely-else", []string{"owner", "state"}); near != "" {
		t.Errorf("%s is suggested for nothing like it", near)
	}
}
