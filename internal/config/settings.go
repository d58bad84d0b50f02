package config

import (
	"fmt"
	"io/fs"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EnvPrefix is what the name of every environment variable begins with.
const EnvPrefix = "KEYSIDECAR_"

// Setting describes one key.
type Setting struct {
	// Key is the path of the setting, such as listen.socket.path.
	Key string
	// Env is the environment variable that sets it.
	Env string
	// Doc says what it means and what is dangerous about it.
	Doc string
	// Type names the form of its values, for help texts.
	Type string
	// Secret settings have no flag and are never printed.
	Secret bool

	index []int // path of the field in Config
}

//go:generate go test -run TestFieldDocs -update .
//go:generate go test -run TestTablesInTheDocuments -update .

// Settings returns every setting in the order of Config's fields.
func Settings() []Setting { return settings() }

var settings = sync.OnceValue(func() []Setting {
	return appendSettings(nil, reflect.TypeFor[Config](), "", nil)
})

func appendSettings(list []Setting, t reflect.Type, prefix string, index []int) []Setting {
	for i := range t.NumField() {
		f := t.Field(i)
		name, ok := f.Tag.Lookup("key")
		if !ok {
			continue
		}
		key, at := prefix+name, append(index[:len(index):len(index)], i)
		if f.Type.Kind() == reflect.Struct {
			list = appendSettings(list, f.Type, key+".", at)
			continue
		}
		list = append(list, Setting{
			Key:    key,
			Env:    EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
			Doc:    fieldDocs[key],
			Type:   typeName(f.Type),
			Secret: f.Tag.Get("secret") == "true",
			index:  at,
		})
	}
	return list
}

// value returns the field of c that s describes.
func (s *Setting) value(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(s.index)
}

// The types a setting can have.
var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeMode     = reflect.TypeFor[fs.FileMode]()
	typeStrings  = reflect.TypeFor[[]string]()
	typeInts     = reflect.TypeFor[[]int]()
	typeOptInt   = reflect.TypeFor[*int]()

	typeAttributes = reflect.TypeFor[Attributes]()
	typePolicies   = reflect.TypeFor[Policies]()
)

// typeName must not return the name of a type that viper converts by itself
// (int, bool, stringSlice, ...): it would turn a mistake into a zero.
func typeName(t reflect.Type) string {
	switch t {
	case typeDuration:
		return "duration"
	case typeMode:
		return "octal"
	case typeStrings, typeInts:
		return "list"
	case typeOptInt:
		return "number"
	case typeAttributes, typePolicies:
		return "object"
	}
	switch t.Kind() {
	case reflect.Int:
		return "number"
	case reflect.Bool:
		return "true|false"
	case reflect.String:
		return "text"
	default:
		panic("config: a field of type " + t.String() + " cannot be a setting")
	}
}

// isList reports whether s takes several values.
// mayHoldSecret: the setting names a file, and the file's content is easily put in
// its place.
func (s *Setting) mayHoldSecret() bool { return strings.HasSuffix(s.Key, "_file") }

func (s *Setting) isList() bool { return s.Type == "list" }

// set parses text into the field of c.
func (s *Setting) set(c *Config, text string) error {
	v := s.value(c)
	switch v.Type() {
	case typeDuration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("want a duration with its unit, such as 500ms, 3s or 10m")
		}
		v.SetInt(int64(d))
	case typeMode:
		n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
		if err != nil || n > 0o777 {
			return fmt.Errorf("want a file mode in octal, such as 0660")
		}
		v.SetUint(n)
	case typeStrings:
		v.Set(reflect.ValueOf(splitList(text)))
	case typeInts:
		var list []int
		for _, item := range splitList(text) {
			n, err := strconv.Atoi(item)
			if err != nil {
				return fmt.Errorf("want whole numbers separated by commas; %q is none", item)
			}
			list = append(list, n)
		}
		v.Set(reflect.ValueOf(list))
	case typeOptInt:
		if text == "" {
			v.SetZero()
			return nil
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("want a whole number")
		}
		v.Set(reflect.ValueOf(&n))
	case typeAttributes, typePolicies:
		return setObject(v, text)
	default:
		return setPlain(v, text)
	}
	return nil
}

func setPlain(v reflect.Value, text string) error {
	switch v.Kind() {
	case reflect.Int:
		n, err := strconv.Atoi(strings.ReplaceAll(text, "_", ""))
		if err != nil {
			return fmt.Errorf("want a whole number")
		}
		v.SetInt(int64(n))
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("want true or false")
		}
		v.SetBool(text == "true")
	default:
		v.SetString(text)
	}
	return nil
}

// off is the value that switches a listener off, for the environment, where an
// empty value means "not set".
const off = "off"

// splitList splits at commas and line ends and drops what is empty.
func splitList(text string) []string {
	var list []string
	for item := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// text returns the field's value in the form that set reads.
func (s *Setting) text(c *Config) string {
	v := s.value(c)
	switch value := v.Interface().(type) {
	case time.Duration:
		return formatDuration(value)
	case fs.FileMode:
		return fmt.Sprintf("0%03o", uint32(value))
	case []string:
		return strings.Join(value, ",")
	case []int:
		return strings.Trim(strings.ReplaceAll(fmt.Sprint(value), " ", ","), "[]")
	case Policies:
		return value.String()
	case *int:
		if value == nil {
			return ""
		}
		return strconv.Itoa(*value)
	}
	return fmt.Sprint(v.Interface())
}

// formatDuration writes 10m where time.Duration writes 10m0s.
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
