package config

import (
	"errors"
	"fmt"
	"strings"
)

// Mistake is one thing that is wrong in a configuration.
type Mistake struct { //nolint:errname // it is what users call it, and an error only inside the package
	// Setting is the key it is about; empty if the form of the file is wrong.
	Setting string `json:"setting,omitempty"`
	// Value is what the setting has, in quotes, or "not set" or "(secret)"; empty
	// where the fault is elsewhere (a file that it names).
	Value string `json:"value,omitempty"`
	// Origin is where the value came from: a flag, a variable, a line of the file, or
	// "default".
	Origin string `json:"origin,omitempty"`
	// Problem says what is wrong and what would mend it.
	Problem string `json:"problem"`
}

func (m *Mistake) Error() string {
	var b strings.Builder
	b.WriteString(m.Setting)
	if m.Value != "" {
		b.WriteString(": " + m.Value)
	}
	switch {
	case m.Setting == "":
		b.WriteString(m.Origin)
	case m.Origin != "" && m.Value != "not set":
		b.WriteString(" (" + m.Origin + ")")
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	return b.String() + m.Problem
}

// ErrInvalid wraps every mistake in a configuration.
var ErrInvalid = errors.New("invalid configuration")

// invalidError is all the mistakes that were found, one a line.
type invalidError struct{ mistakes []error }

func (e *invalidError) Error() string {
	lines := make([]string, len(e.mistakes))
	for i, m := range e.mistakes {
		lines[i] = "  " + m.Error()
	}
	return fmt.Sprintf("%v:\n%s", ErrInvalid, strings.Join(lines, "\n"))
}

func (e *invalidError) Unwrap() []error { return append([]error{ErrInvalid}, e.mistakes...) }

// invalid returns one error for all mistakes, or nil if there are none.
func invalid(mistakes []error) error {
	if len(mistakes) == 0 {
		return nil
	}
	return &invalidError{mistakes}
}

// Mistakes returns the mistakes in errors of Load, Validate and CheckFiles; those
// that are nil hold none. ok is false if one of the errors is of another kind, such
// as a configuration file that cannot be read.
func Mistakes(errs ...error) (found []Mistake, ok bool) {
	for _, err := range errs {
		if err == nil {
			continue
		}
		var all *invalidError
		if !errors.As(err, &all) {
			return nil, false
		}
		for _, e := range all.mistakes {
			var m *Mistake
			if !errors.As(e, &m) {
				m = &Mistake{Problem: e.Error()}
			}
			found = append(found, *m)
		}
	}
	return found, true
}

// originOf says where the value of a setting came from; empty for a Config that Load
// has not made.
func (c *Config) originOf(key string) string {
	switch {
	case c.origins == nil:
		return ""
	case c.origins[key] == "":
		return "default"
	}
	return c.origins[key]
}

// aboutFile names the setting and its origin for an error that begins with the
// setting's key.
func (c *Config) aboutFile(err error) error {
	key, problem, found := strings.Cut(err.Error(), ": ")
	if !found || findSetting(key) == nil {
		return err
	}
	return &Mistake{Setting: key, Origin: c.originOf(key), Problem: problem}
}
