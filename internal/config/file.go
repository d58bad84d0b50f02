package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fileValue is one setting as a file gives it.
type fileValue struct {
	text   string
	origin string // file and line
}

// readFile returns the content of a regular file of at most limit bytes, or of
// whatever else can be read under that name to its end (a pipe, /dev/stdin).
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return data, nil
}

// parseFile returns the settings in data, which is YAML or JSON, and every
// mistake in its form. A setting without a value (null) counts as not set.
func parseFile(name string, data []byte) (map[string]fileValue, []error) {
	var doc yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(string(data)))
	if err := decoder.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) { // empty, or comments only
			return nil, nil
		}
		return nil, []error{fmt.Errorf("%s: %w", name, err)}
	}
	p := fileParser{name: name, values: make(map[string]fileValue)}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		p.mistake(1, "a second document follows the first one: keep one")
	}
	for _, node := range doc.Content {
		p.mapping("", node)
	}
	return p.values, p.mistakes
}

// fileParser walks a document and collects settings and mistakes.
type fileParser struct {
	name     string
	values   map[string]fileValue
	mistakes []error
}

func (p *fileParser) mistake(line int, format string, args ...any) {
	p.mistakes = append(p.mistakes, &Mistake{Origin: fmt.Sprintf("%s:%d", p.name, line), Problem: fmt.Sprintf(format, args...)})
}

// mapping reads the members of node, whose keys go behind prefix.
func (p *fileParser) mapping(prefix string, node *yaml.Node) {
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return
	}
	if node.Kind != yaml.MappingNode {
		where := "the file"
		if prefix != "" {
			where = strings.TrimSuffix(prefix, ".")
		}
		p.mistake(node.Line, "%s must hold settings (name: value), not %s", where, kindName(node))
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		key := prefix + name.Value
		if first, twice := seen[key]; twice {
			p.mistake(name.Line, "%s is set a second time (first in line %d)", key, first)
			continue
		}
		seen[key] = name.Line
		p.member(key, name, value)
	}
}

// member reads one member: a setting, a group of settings, or a mistake. Names
// with dots in them are none of ours: groups are nested.
func (p *fileParser) member(key string, name, value *yaml.Node) {
	nested := !strings.Contains(name.Value, ".")
	if s := findSetting(key); s != nil && nested {
		p.setting(s, value)
		return
	}
	if isGroup(key) && nested {
		p.mapping(key+".", value)
		return
	}
	near := Nearest(key, groupsAndKeys())
	switch {
	case findSetting(key) != nil || isGroup(key):
		p.mistake(name.Line, "%s must be nested (%s)", key, strings.ReplaceAll(key, ".", ": { ")+" ...")
	case near != "":
		p.mistake(name.Line, "there is no setting %s; did you mean %s?", key, near)
	default:
		p.mistake(name.Line, "there is no setting %s", key)
	}
}

func (p *fileParser) setting(s *Setting, node *yaml.Node) {
	origin := fmt.Sprintf("%s:%d", p.name, node.Line)
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
	case node.Kind == yaml.ScalarNode:
		p.values[s.Key] = fileValue{node.Value, origin}
	case node.Kind == yaml.SequenceNode && s.isList():
		var items []string
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				p.mistake(item.Line, "%s: each item must be a plain value, not %s", s.Key, kindName(item))
				return
			}
			items = append(items, item.Value)
		}
		p.values[s.Key] = fileValue{strings.Join(items, ","), origin}
	case node.Kind == yaml.MappingNode && s.Type == "object":
		if text, ok := p.object(s, node); ok {
			p.values[s.Key] = fileValue{text, origin}
		}
	default:
		p.mistake(node.Line, "%s: want %s, not %s", s.Key, article(s.Type), kindName(node))
	}
}

func article(typeName string) string {
	switch typeName {
	case "octal":
		return "an octal number"
	case "object":
		return "a group of values"
	}
	return "a " + typeName
}

func kindName(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a group of settings"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		return "a single value" // not printed: it may be a secret in the wrong place
	}
}

func findSetting(key string) *Setting {
	for i := range settings() {
		if settings()[i].Key == key {
			return &settings()[i]
		}
	}
	return nil
}

// isGroup reports whether key is a group of settings, such as listen.socket.
func isGroup(key string) bool {
	for i := range settings() {
		if strings.HasPrefix(settings()[i].Key, key+".") {
			return true
		}
	}
	return false
}

// groupsAndKeys returns every name that a file may have.
func groupsAndKeys() []string {
	var names []string
	for i := range settings() {
		key := settings()[i].Key
		for at, r := range key {
			if r == '.' {
				names = append(names, key[:at])
			}
		}
		names = append(names, key)
	}
	return names
}
