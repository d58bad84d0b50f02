package config

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// hidden stands in the place of what must not be printed.
const hidden = "***"

// Value is one setting as Redacted returns it.
type Value struct {
	Key string `json:"key"`
	// Value is in the form in which a file or a variable would hold it, with
	// passwords replaced.
	Value string `json:"value"`
	// Origin says where the value came from: "default" or the place that set it.
	Origin string `json:"origin"`
}

// Redacted returns every setting with its value and where it came from. Secrets
// are left out but for the parts that help to find a mistake (host, database).
func (c *Config) Redacted() []Value {
	values := make([]Value, 0, len(settings()))
	for i := range settings() {
		s := &settings()[i]
		text, origin := s.text(c), c.origins[s.Key]
		if origin == "" {
			origin = "default"
		}
		switch {
		case s.mayHoldSecret() && text != "" && !isPath(text):
			text = hidden
		case !s.Secret || text == "":
		case s.isList():
			var urls []string
			for _, u := range splitList(text) {
				urls = append(urls, RedactURL(u))
			}
			text = strings.Join(urls, ",")
		default:
			text = RedactDSN(text)
		}
		values = append(values, Value{Key: s.Key, Value: text, Origin: origin})
	}
	return values
}

// RedactURL returns a URL without its password and parameters.
func RedactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return hidden
	}
	redacted := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	user := ""
	if u.User != nil {
		user = url.User(u.User.Username()).String() + ":" + hidden + "@"
	}
	rest := strings.TrimPrefix(redacted.String(), u.Scheme+"://")
	return u.Scheme + "://" + user + rest
}

// RedactDSN returns what a Postgres connection string says about where and as
// whom to connect.
func RedactDSN(dsn string) string {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return hidden
	}
	return fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=%s", c.Host, c.Port, c.Database, c.User, hidden)
}

// WriteYAML writes values as a configuration file, each line with its origin.
func WriteYAML(w io.Writer, values []Value) error {
	var open []string // groups that are open
	for _, v := range values {
		path := strings.Split(v.Key, ".")
		groups := path[:len(path)-1]
		same := 0
		for same < len(open) && same < len(groups) && open[same] == groups[same] {
			same++
		}
		for depth := same; depth < len(groups); depth++ {
			if _, err := fmt.Fprintf(w, "%s%s:\n", strings.Repeat("  ", depth), groups[depth]); err != nil {
				return err
			}
		}
		open = groups
		line := fmt.Sprintf("%s%s: %s", strings.Repeat("  ", len(groups)), path[len(path)-1], yamlText(v.Value))
		if _, err := fmt.Fprintf(w, "%-50s # %s\n", line, v.Origin); err != nil {
			return err
		}
	}
	return nil
}

// yamlText quotes text where YAML would read something else. Quoting too much
// does no harm: every value is read as text.
func yamlText(text string) string {
	plain := text != ""
	for _, r := range text {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-", r) {
			plain = false
		}
	}
	if plain && text[0] != '-' {
		return text
	}
	return fmt.Sprintf("%q", text)
}
