package config

import (
	"fmt"
	"io"
	"strings"
)

// WriteTable writes the configuration table of the documentation, in Markdown.
func WriteTable(w io.Writer) error {
	if _, err := io.WriteString(w, "| key | default | meaning |\n|---|---|---|\n"); err != nil {
		return err
	}
	defaults := Default()
	for i := range settings() {
		s := &settings()[i]
		value := "-"
		if text := s.text(defaults); text != "" {
			value = "`" + text + "`"
		}
		doc := strings.ReplaceAll(s.Doc, "|", `\|`)
		if _, err := fmt.Fprintf(w, "| `%s` | %s | %s |\n", s.Key, value, doc); err != nil {
			return err
		}
	}
	return nil
}
