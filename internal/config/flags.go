package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// AddFlags adds a flag for each setting that is no secret and whose key begins
// with one of groups (all, if there are none) to flags.
func AddFlags(flags *pflag.FlagSet, groups ...string) {
	for i := range settings() {
		s := &settings()[i]
		if s.Secret || !inGroups(s.Key, groups) {
			continue
		}
		flags.Var(&flagValue{setting: s, text: s.text(Default())}, s.Key, s.Doc)
		if s.Type == "true|false" {
			flags.Lookup(s.Key).NoOptDefVal = "true"
		}
	}
}

func inGroups(key string, groups []string) bool {
	for _, g := range groups {
		if key == g || strings.HasPrefix(key, g+".") {
			return true
		}
	}
	return len(groups) == 0
}

// flagValue is a flag that checks its text as Load will parse it.
type flagValue struct {
	setting *Setting
	text    string
}

func (f *flagValue) String() string { return f.text }
func (f *flagValue) Type() string   { return f.setting.Type }

func (f *flagValue) Set(text string) error {
	f.text = text
	return f.setting.set(new(Config), text)
}
