package config

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// FileEnv is the variable that names the configuration file.
const FileEnv = EnvPrefix + "CONFIG"

// MaxFileBytes bounds a configuration file that Load will read.
const MaxFileBytes = 1 << 20

// Load reads the configuration: flags over environment over file over Default.
// An empty file means none; flags, which may be nil, come from AddFlags. The
// warnings are about things that were ignored. The error joins every mistake that
// was found and wraps ErrInvalid; a file that cannot be read gives its own.
//
// Load only reads: Validate says whether the values can work.
func Load(file string, flags *pflag.FlagSet) (c *Config, warnings []string, err error) {
	// A delimiter that no key has keeps viper's keys flat: "listen.tcp.address"
	// is one name to it, with no map around it.
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00"))
	var (
		fromFile map[string]fileValue
		mistakes []error
	)
	if file != "" {
		data, err := readFile(file, MaxFileBytes)
		if err != nil {
			return nil, nil, fmt.Errorf("configuration file: %w", err)
		}
		fromFile, mistakes = parseFile(file, data)
		texts := make(map[string]any, len(fromFile))
		for key, value := range fromFile {
			texts[key] = value.text
		}
		if err := v.MergeConfigMap(texts); err != nil {
			return nil, nil, fmt.Errorf("configuration file %s: %w", file, err)
		}
	}

	c = Default()
	c.origins = make(map[string]string)
	for i := range settings() {
		s := &settings()[i]
		if err := bind(v, s, flags); err != nil {
			return nil, nil, err
		}
		if !v.IsSet(s.Key) {
			continue
		}
		origin := originIn(s, flags, fromFile)
		text := v.GetString(s.Key)
		if err := s.set(c, text); err != nil {
			if s.Secret {
				text = "(secret)"
			}
			mistakes = append(mistakes, &Mistake{s.Key, strconv.Quote(text), origin, err.Error()})
			continue
		}
		c.origins[s.Key] = origin
	}
	for _, address := range []*string{&c.Listen.Socket.Path, &c.Listen.TCP.Address, &c.Listen.Admin.Address} {
		if *address == off {
			*address = ""
		}
	}
	if c.Instance == "" {
		c.Instance, c.origins["instance"] = defaultInstance()
	}
	if len(mistakes) > 0 {
		return nil, nil, invalid(mistakes)
	}
	return c, unknownEnv(os.Environ()), nil
}

func bind(v *viper.Viper, s *Setting, flags *pflag.FlagSet) error {
	if err := v.BindEnv(s.Key, s.Env); err != nil {
		return fmt.Errorf("binding %s: %w", s.Env, err)
	}
	if flags == nil {
		return nil
	}
	if f := flags.Lookup(s.Key); f != nil {
		if err := v.BindPFlag(s.Key, f); err != nil {
			return fmt.Errorf("binding --%s: %w", s.Key, err)
		}
	}
	return nil
}

// originIn says, in viper's order of precedence, where the value of s came from.
func originIn(s *Setting, flags *pflag.FlagSet, fromFile map[string]fileValue) string {
	if flags != nil && flags.Changed(s.Key) {
		return "flag --" + s.Key
	}
	if os.Getenv(s.Env) != "" {
		return "environment " + s.Env
	}
	return fromFile[s.Key].origin
}

// defaultInstance follows the downward API of Kubernetes: the pod's uid is unique
// where its name is not.
func defaultInstance() (name, origin string) {
	if uid := os.Getenv("POD_UID"); uid != "" {
		return uid, "environment POD_UID"
	}
	host, err := os.Hostname()
	if err != nil {
		return "", "no host name: " + err.Error()
	}
	return host, "host name"
}

// serviceEnv matches what Kubernetes adds for a Service called keysidecar or
// keysidecar-something (KEYSIDECAR_SERVICE_HOST, KEYSIDECAR_PORT_9476_TCP, ...).
var serviceEnv = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// unknownEnv returns a warning for each variable that looks like a setting and is
// none. Values are left out: they may be secrets.
func unknownEnv(environ []string) (warnings []string) {
	known := []string{FileEnv}
	for i := range settings() {
		known = append(known, settings()[i].Env)
	}
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, EnvPrefix) || slices.Contains(known, name) || serviceEnv.MatchString(name) {
			continue
		}
		w := "environment variable " + name + " is not a setting and was ignored"
		if near := Nearest(name, known); near != "" {
			w += "; did you mean " + near + "?"
		}
		warnings = append(warnings, w)
	}
	slices.Sort(warnings)
	return warnings
}
