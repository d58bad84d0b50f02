package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What stands between these lines of a document is the output of
// `keysidecar config docs`.
const (
	tableBegin = "<!-- begin settings -->\n"
	tableEnd   = "<!-- end settings -->\n"
)

// A table of settings that was written by hand would soon be wrong. The documents
// are brought up to date by go generate ./internal/config.
func TestTablesInTheDocumentsAreTheSettingsThereAre(t *testing.T) {
	var b strings.Builder
	if err := WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	for _, name := range append(documents, "../../README.md") {
		data, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			t.Skip("there is no README yet")
		}
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(data), tableBegin)
		if !found {
			continue
		}
		tables++
		table, after, found := strings.Cut(rest, tableEnd)
		if !found {
			t.Errorf("%s: the table has no end", name)
			continue
		}
		if table == b.String() {
			continue
		}
		if !*update {
			t.Errorf("%s: the table of settings is out of date: run go generate ./internal/config", name)
			continue
		}
		if err := os.WriteFile(name, []byte(before+tableBegin+b.String()+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if tables == 0 {
		t.Errorf("no document has a table of settings; put it between %q and %q", tableBegin, tableEnd)
	}
}
