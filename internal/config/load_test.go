package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// clearEnv takes every variable away that could change a configuration, for the
// length of the test.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, EnvPrefix) || strings.HasPrefix(name, "PG") || name == "POD_UID" {
			t.Setenv(name, value) // restores it at the end
			os.Unsetenv(name)
		}
	}
}

// load loads content as a file, with args as command line.
func load(t *testing.T, content string, args ...string) (*Config, []string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keysidecar.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := Load(file, flags)
	if err != nil {
		err = &plainError{strings.ReplaceAll(err.Error(), file, "FILE")}
	}
	return c, warnings, err
}

type plainError struct{ text string }

func (e *plainError) Error() string { return e.text }

func TestNothingSaidGivesTheDefaults(t *testing.T) {
	clearEnv(t)
	c, warnings, err := Load("", nil)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := Default()
	host, _ := os.Hostname()
	want.Instance = host
	c.origins = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("have %+v\nwant %+v", c, want)
	}
}

// example returns a value for s that is not its default.
func example(s *Setting) string {
	switch s.Type {
	case "duration":
		return "7m"
	case "octal":
		return "0606"
	case "number":
		return "77"
	case "true|false":
		return other(s.text(Default()))
	case "object":
		if s.Key == "authz.policies" {
			return `{"p":{"scopes":["x"]}}`
		}
		return `{"a":1}`
	}
	return "77"
}

// A setting that one of the three ways cannot reach would be off without a word.
func TestEverySettingCanBeSetInEveryWayAndFlagBeatsEnvironmentBeatsFile(t *testing.T) {
	names := make(map[string]string)
	for _, s := range Settings() {
		t.Run(s.Key, func(t *testing.T) {
			clearEnv(t)
			if s.Doc == "" {
				t.Error("the field has no comment")
			}
			if other := names[s.Env]; other != "" {
				t.Errorf("shares %s with %s", s.Env, other)
			}
			names[s.Env] = s.Key

			value := example(&s)
			file := nested(s.Key, value)
			c, _, err := load(t, file)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.text(c); got != value {
				t.Errorf("file: have %q, want %q", got, value)
			}
			if got := s.text(Default()); got == value {
				t.Errorf("the example %q is the default", value)
			}

			beaten := nested(s.Key, other(value))
			t.Setenv(s.Env, value)
			c, _, err = load(t, beaten)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.text(c); got != value {
				t.Errorf("environment: have %q, want %q", got, value)
			}

			t.Setenv(s.Env, other(value))
			c, _, err = loadWithFlag(t, beaten, s, value)
			if s.Secret {
				if err == nil || !strings.Contains(err.Error(), "unknown flag") {
					t.Errorf("a secret can be given on the command line: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := s.text(c); got != value {
				t.Errorf("flag: have %q, want %q", got, value)
			}
		})
	}
}

func loadWithFlag(t *testing.T, content string, s Setting, value string) (*Config, []string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keysidecar.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse([]string{"--" + s.Key + "=" + value}); err != nil {
		return nil, nil, err
	}
	return Load(file, flags)
}

func other(value string) string {
	if strings.HasPrefix(value, "{") {
		return strings.Replace(value, `{"`, `{"other-`, 1)
	}
	if value == "false" {
		return "true"
	}
	if value == "true" {
		return "false"
	}
	return value + value[len(value)-1:] // 77 -> 777, 0606 -> 06066: replaced, never parsed
}

// nested writes a.b.c: value as YAML.
func nested(key, value string) string {
	var b strings.Builder
	path := strings.Split(key, ".")
	for depth, name := range path {
		b.WriteString(strings.Repeat("  ", depth) + name + ":")
		if depth < len(path)-1 {
			b.WriteString("\n")
		}
	}
	b.WriteString(" " + value + "\n")
	return b.String()
}

func TestMistakesInTheFileAreNamedWithTheirLine(t *testing.T) {
	clearEnv(t)
	for name, test := range map[string]struct{ file, want string }{
		"misspelt setting":      {"freshness:\n  max_stalenes: 3s\n", "FILE:2: there is no setting freshness.max_stalenes; did you mean freshness.max_staleness?"},
		"misspelt group":        {"freshnes:\n  max_staleness: 3s\n", "FILE:1: there is no setting freshnes; did you mean freshness?"},
		"upper case":            {"Freshness:\n  max_staleness: 3s\n", "FILE:1: there is no setting Freshness; did you mean freshness?"},
		"nothing near":          {"\n\nbananas: 3\n", "FILE:3: there is no setting bananas"},
		"dotted name":           {"listen.tcp.address: x\n", "FILE:1: listen.tcp.address must be nested"},
		"twice":                 {"instance: a\ninstance: b\n", "FILE:2: instance is set a second time (first in line 1)"},
		"group given a value":   {"freshness: 3s\n", "FILE:1: freshness must hold settings (name: value), not a single value"},
		"value given a group":   {"instance:\n  a: b\n", "FILE:2: instance: want a text, not a group of settings"},
		"value given a list":    {"instance: [a, b]\n", "FILE:1: instance: want a text, not a list"},
		"list of lists":         {"allow_insecure: [[amqp]]\n", "FILE:1: allow_insecure: each item must be a plain value, not a list"},
		"an alias":              {"instance: &a x\nlog:\n  level: *a\n", "FILE:3: log.level: want a text, not an alias"},
		"a list":                {"- a\n- b\n", "FILE:1: the file must hold settings (name: value), not a list"},
		"two documents":         {"instance: a\n---\ninstance: b\n", "a second document follows the first one"},
		"not YAML":              {"instance: [\n", "FILE: yaml: line"},
		"number without unit":   {"freshness:\n  max_staleness: 3\n", `freshness.max_staleness: "3" (FILE:2): want a duration with its unit, such as 500ms, 3s or 10m`},
		"days":                  {"relay:\n  retention: 7d\n", `relay.retention: "7d" (FILE:2): want a duration with its unit`},
		"words for a number":    {"cache:\n  capacity: many\n", `cache.capacity: "many" (FILE:2): want a whole number`},
		"fraction":              {"cache:\n  capacity: 1.5\n", `cache.capacity: "1.5" (FILE:2): want a whole number`},
		"yes for true":          {"fleet:\n  report: yes\n", `fleet.report: "yes" (FILE:2): want true or false`},
		"symbolic mode":         {"listen:\n  socket:\n    mode: rw-rw----\n", `listen.socket.mode: "rw-rw----" (FILE:3): want a file mode in octal, such as 0660`},
		"decimal mode":          {"listen:\n  socket:\n    mode: 888\n", `listen.socket.mode: "888" (FILE:3): want a file mode in octal`},
		"setuid mode":           {"listen:\n  socket:\n    mode: 4755\n", `listen.socket.mode: "4755" (FILE:3): want a file mode in octal`},
		"name for a number":     {"listen:\n  socket:\n    gid: staff\n", `listen.socket.gid: "staff" (FILE:3): want a whole number`},
		"one of a list":         {"listen:\n  socket:\n    allowed_uids: [1, root]\n", `"root" is none`},
		"password out of place": {"store:\n  postgres: postgres://u:hunter2@h/d\n", "store.postgres must hold settings"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := load(t, test.file)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("have %v\nwant %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	clearEnv(t)
	_, _, err := load(t, "freshness:\n  max_staleness: 3\n  fence_intervall: 1s\ncache:\n  capacity: x\n")
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("have %v, want three lines of mistakes", err)
	}
}

func TestValuesAreReadAsTheyAreWritten(t *testing.T) {
	clearEnv(t)
	c, _, err := load(t, `
instance: 007
listen:
  socket: {path: off, mode: 0o640, gid: 65532, allowed_uids: "1000, 1001"}
  admin: {address: ""}
store: {postgres: {dsn: ~}}
amqp:
  url:
    - amqp://a
    - amqp://b
cache: {capacity: 1_000_000, max_ttl: 0}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Instance = "007"
	gid := 65532
	want.Listen.Socket = Socket{Path: "", Mode: 0o640, GID: &gid, AllowedUIDs: []int{1000, 1001}}
	want.Listen.Admin.Address = ""
	want.AMQP.URL = []string{"amqp://a", "amqp://b"}
	want.Cache.Capacity = 1_000_000
	c.origins = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("have %+v\nwant %+v", c, want)
	}
}

func TestPodUIDNamesTheInstance(t *testing.T) {
	clearEnv(t)
	t.Setenv("POD_UID", "7f1c")
	c, _, err := Load("", nil)
	if err != nil || c.Instance != "7f1c" {
		t.Errorf("have %v, %v", c, err)
	}
}

func TestAnEmptyVariableCountsAsNotSet(t *testing.T) {
	clearEnv(t)
	t.Setenv("KEYSIDECAR_FRESHNESS_MAX_STALENESS", "")
	c, _, err := load(t, "freshness: {max_staleness: 5s}")
	if err != nil || c.Freshness.MaxStaleness != 5*time.Second {
		t.Errorf("have %v, %v", c, err)
	}
}

func TestUnknownVariablesAreWarningsAndThoseOfKubernetesAreNot(t *testing.T) {
	clearEnv(t)
	for _, name := range []string{"KEYSIDECAR_PORT", "KEYSIDECAR_PORT_9476_TCP", "KEYSIDECAR_PORT_9476_TCP_ADDR",
		"KEYSIDECAR_SERVICE_HOST", "KEYSIDECAR_SERVICE_PORT_KS_METRICS", "KEYSIDECAR_RELAY_SERVICE_HOST"} {
		t.Setenv(name, "10.0.0.1")
	}
	t.Setenv("KEYSIDECAR_FRESHNES_MAX_STALENESS", "secret-value")
	_, warnings, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"environment variable KEYSIDECAR_FRESHNES_MAX_STALENESS is not a setting and was ignored; did you mean KEYSIDECAR_FRESHNESS_MAX_STALENESS?"}
	if !reflect.DeepEqual(warnings, want) {
		t.Errorf("have %q\nwant %q", warnings, want)
	}
}

func TestFilesThatCannotBeReadAreErrors(t *testing.T) {
	clearEnv(t)
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, []byte(strings.Repeat("# padding\n", MaxFileBytes/10+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join(dir, "missing"), dir, large} {
		if _, _, err := Load(name, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: have %v, want an error that names it", name, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("instance: a\nlisten: {socket: {mode: 0660}}\n")
	f.Add("amqp: {url: [amqp://a:b@c/d, 'x']}\nstore: {postgres: {dsn: 'postgres://u:p@h/d'}}")
	f.Add("a: &a [*a]\n")
	f.Add("? [x]\n: y\n")
	f.Add("{\"freshness\": {\"on_stale\": \"serve_stale\", \"stale_limit\": \"1h\"}}")
	f.Fuzz(func(t *testing.T, content string) {
		values, mistakes := parseFile("fuzz", []byte(content))
		for _, m := range mistakes {
			if m.Error() == "" {
				t.Error("a mistake without words")
			}
		}
		c := Default()
		for key, value := range values {
			_ = findSetting(key).set(c, value.text)
		}
		_ = c.Validate(ForSidecar)
		_ = c.Validate(ForRelay)
		// What is printed is a file that can be read back to the same values.
		var b strings.Builder
		if err := WriteYAML(&b, c.Redacted()); err != nil {
			t.Fatal(err)
		}
		again, mistakes := parseFile("printed", []byte(b.String()))
		if len(mistakes) > 0 {
			t.Fatalf("what was printed cannot be read: %v\n%s", mistakes, b.String())
		}
		for _, s := range Settings() {
			if have, want := again[s.Key].text, s.text(c); !s.Secret && have != want {
				t.Errorf("%s: printed and read back as %q, was %q", s.Key, have, want)
			}
		}
	})
}
