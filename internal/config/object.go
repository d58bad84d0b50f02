package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Attributes are what attributes of a key must be equal to: a JSON object of
// strings, numbers and truth values, or empty.
type Attributes string

// Policies are policies by name.
type Policies map[string]Policy

// Policy is what a key must have; whatever is empty is not asked.
type Policy struct {
	OwnerID    string
	Scopes     []string
	Attributes Attributes
}

// policyMembers are what a policy can have in a file.
var policyMembers = []string{"owner_id", "scopes", "attributes"}

// String returns the policies as one JSON object, or "" if there are none.
func (p Policies) String() string {
	if len(p) == 0 {
		return ""
	}
	type policy struct {
		OwnerID    string          `json:"owner_id,omitempty"`
		Scopes     []string        `json:"scopes,omitempty"`
		Attributes json.RawMessage `json:"attributes,omitempty"`
	}
	all := make(map[string]policy, len(p))
	for name, one := range p {
		all[name] = policy{one.OwnerID, one.Scopes, json.RawMessage(one.Attributes)}
	}
	text, err := json.Marshal(all)
	if err != nil { // not reached: attributes are JSON
		return err.Error()
	}
	return string(text)
}

// object reads a setting that the file gives as a group, and returns it as text.
func (p *fileParser) object(s *Setting, node *yaml.Node) (text string, ok bool) {
	r := objectReader{key: s.Key, fail: p.mistake}
	if reflect.TypeFor[Config]().FieldByIndex(s.index).Type == typePolicies {
		text = r.policies(node).String()
	} else {
		text = string(r.attributes(s.Key, node))
	}
	return text, !r.failed
}

// setObject parses text, which is JSON or YAML, as attributes or policies.
func setObject(v reflect.Value, text string) error {
	if strings.TrimSpace(text) == "" {
		v.SetZero()
		return nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) != 1 {
		return errors.New("want a JSON object")
	}
	var mistakes []string
	r := objectReader{key: "the value", fail: func(_ int, format string, args ...any) {
		mistakes = append(mistakes, fmt.Sprintf(format, args...))
	}}
	if v.Type() == typePolicies {
		v.Set(reflect.ValueOf(r.policies(doc.Content[0])))
	} else {
		v.SetString(string(r.attributes(r.key, doc.Content[0])))
	}
	if r.failed {
		return errors.New(strings.Join(mistakes, "; "))
	}
	return nil
}

// objectReader reads groups whose names are not known beforehand.
type objectReader struct {
	key    string
	fail   func(line int, format string, args ...any)
	failed bool
}

func (r *objectReader) mistake(node *yaml.Node, format string, args ...any) {
	r.failed = true
	r.fail(node.Line, format, args...)
}

// members calls read for every member of node, each with its path.
func (r *objectReader) members(path string, node *yaml.Node, read func(name string, path string, value *yaml.Node)) {
	if node.Kind != yaml.MappingNode {
		r.mistake(node, "%s must hold names and values, not %s", path, kindName(node))
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		if seen[name.Value] || name.Kind != yaml.ScalarNode {
			r.mistake(name, "%s: %q is no name, or there twice", path, name.Value)
			return
		}
		seen[name.Value] = true
		read(name.Value, path+"."+name.Value, node.Content[i+1])
	}
}

// attributes returns a group of values as a JSON object. Its members keep their
// order.
func (r *objectReader) attributes(path string, node *yaml.Node) Attributes {
	var b strings.Builder
	r.members(path, node, func(name, path string, value *yaml.Node) {
		text, ok := scalarJSON(value)
		if !ok {
			r.mistake(value, "%s must be a text, a number, true or false", path)
			return
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			r.mistake(value, "%s: %v", path, err)
			return
		}
		separator := ","
		if b.Len() == 0 {
			separator = "{"
		}
		b.WriteString(separator + string(quoted) + ":" + text)
	})
	if b.Len() == 0 {
		if !r.failed {
			r.mistake(node, "%s is empty: leave it out to ask nothing", path)
		}
		return ""
	}
	return Attributes(b.String() + "}")
}

// scalarJSON returns one value as JSON, of the type that it has in YAML.
func scalarJSON(node *yaml.Node) (text string, ok bool) {
	if node.Kind != yaml.ScalarNode {
		return "", false
	}
	switch node.Tag {
	case "!!str":
		quoted, err := json.Marshal(node.Value)
		return string(quoted), err == nil
	case "!!int", "!!float":
		return node.Value, json.Valid([]byte(node.Value)) // 0x10, 1_000 and .inf are no JSON
	case "!!bool":
		return node.Value, node.Value == "true" || node.Value == "false"
	}
	return "", false
}

// policies reads a group of policies.
func (r *objectReader) policies(node *yaml.Node) Policies {
	all := make(Policies)
	r.members(r.key, node, func(name, path string, value *yaml.Node) {
		if len(name) > maxName || !policyName.MatchString(name) {
			r.mistake(value, "%s: the name of a policy is part of a path: use 1 to 64 letters, digits, dashes and underscores", path)
			return
		}
		var one Policy
		r.members(path, value, func(name, path string, value *yaml.Node) {
			switch name {
			case "owner_id":
				one.OwnerID = r.text(path, value)
			case "scopes":
				one.Scopes = r.list(path, value)
			case "attributes":
				one.Attributes = r.attributes(path, value)
			default:
				r.unknown(path, name, value)
			}
		})
		if one.OwnerID == "" && len(one.Scopes) == 0 && one.Attributes == "" && !r.failed {
			r.mistake(value, "%s asks nothing; it needs owner_id, scopes or attributes", path)
		}
		all[name] = one
	})
	return all
}

func (r *objectReader) unknown(path, name string, value *yaml.Node) {
	if near := Nearest(name, policyMembers); near != "" {
		r.mistake(value, "there is no setting %s; did you mean %s?", path, near)
		return
	}
	r.mistake(value, "there is no setting %s; a policy has %s", path, strings.Join(policyMembers, ", "))
}

// text reads a value that is not empty.
func (r *objectReader) text(path string, node *yaml.Node) string {
	if node.Kind != yaml.ScalarNode || node.Tag == "!!null" || node.Value == "" {
		r.mistake(node, "%s must be a text, and not empty: leave it out to ask nothing", path)
	}
	return node.Value
}

// list reads a sequence, or a text with commas.
func (r *objectReader) list(path string, node *yaml.Node) (items []string) {
	switch node.Kind {
	case yaml.SequenceNode:
		for _, item := range node.Content {
			items = append(items, r.text(path, item))
		}
	case yaml.ScalarNode:
		items = splitList(node.Value)
	default:
	}
	if len(items) == 0 || slices.Contains(items, "") {
		r.mistake(node, "%s must be a list, and not empty: leave it out to ask nothing", path)
	}
	return items
}
