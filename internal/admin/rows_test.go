package admin

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func read(format, text string) (rows []Row, err error) {
	err = ReadRows(format, strings.NewReader(text), func(r Row) error {
		rows = append(rows, r)
		return nil
	})
	return rows, err
}

func TestRowsCarryTheLineTheyBeganIn(t *testing.T) {
	t.Parallel()
	for format, text := range map[string]string{
		"jsonl": "{\"key_id\":\"a\",\"owner_id\":\"m\",\"scopes\":[\"x\",\"y\"]}\n\n{\"key_id\":\"b\"}\n",
		"csv":   "key_id,owner_id,scopes,note\na,m,x; y,\"two\nlines\"\nb,,,\n",
	} {
		rows, err := read(format, text)
		if err != nil || len(rows) != 2 {
			t.Fatalf("%s: %+v, %v", format, rows, err)
		}
		first := rows[0].Key
		if first.KeyID != "a" || first.OwnerID != "m" || fmt.Sprint(first.Scopes) != "[x y]" {
			t.Errorf("%s: %+v", format, first)
		}
		want := map[string]int{"jsonl": 3, "csv": 4}[format]
		if rows[1].Line != want || rows[1].Key.KeyID != "b" {
			t.Errorf("%s: line %d, want %d", format, rows[1].Line, want)
		}
	}
}

// A misspelt column must not make a key that never expires.
func TestUnknownColumnsAreRefused(t *testing.T) {
	t.Parallel()
	rows, err := read("jsonl", `{"key_id":"a","expires":"2027-01-01T00:00:00Z"}`)
	if err != nil || !errors.Is(rows[0].Err, ErrRefused) {
		t.Errorf("jsonl: %+v, %v", rows, err)
	}
	if _, err := read("csv", "key_id,expires\na,2027\n"); err == nil || !strings.Contains(err.Error(), `column 2 is called "expires"`) {
		t.Errorf("csv: %v", err)
	}
	if _, err := read("yaml", "keys:\n  - key_id: a\n    expires: 2027-01-01T00:00:00Z\n"); err == nil {
		t.Error("yaml: accepted")
	}
}

func TestAnUnreadableRowDoesNotEndTheImport(t *testing.T) {
	t.Parallel()
	for format, text := range map[string]string{
		"jsonl": "{\"key_id\":\"a\"}\nnonsense\n{\"key_id\":\"b\"} {}\n{\"key_id\":\"c\"}\n",
		"csv":   "key_id,expires_at\na,\nb,tomorrow\nb\nc,2027-01-01T00:00:00Z\n",
	} {
		rows, err := read(format, text)
		if err != nil || len(rows) != 4 {
			t.Fatalf("%s: %+v, %v", format, rows, err)
		}
		for i, r := range rows {
			if bad := i == 1 || i == 2; bad != errors.Is(r.Err, ErrRefused) || (bad && r.Line != map[string]int{"jsonl": 1, "csv": 2}[format]+i) {
				t.Errorf("%s row %d: line %d, %v", format, i, r.Line, r.Err)
			}
		}
	}
}

// Importing the keys of a suspended owner as they are would turn them on.
func TestAKeyFileWithASuspendedOwnerIsNotImported(t *testing.T) {
	t.Parallel()
	_, err := read("yaml", "owners: [{owner_id: m, suspended_at: 2026-01-01T00:00:00Z}]\nkeys: [{key_id: a, owner_id: m, algorithm: opaque}]\n")
	if err == nil || !strings.Contains(err.Error(), "owner m is suspended") {
		t.Errorf("have %v", err)
	}
}

func FuzzReadRows(f *testing.F) {
	f.Add("jsonl", `{"key_id":"a","owner_id":"m","attributes":{"a":1}}`)
	f.Add("csv", "key_id,scopes,attributes\n\"a\",x;y,\"{\"\"a\"\":1}\"\n")
	f.Add("yaml", "keys: [{key_id: a, owner_id: m, algorithm: opaque}]")
	f.Add("jwks", `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"}]}`)
	f.Fuzz(func(t *testing.T, format, text string) {
		_ = ReadRows(format, strings.NewReader(text), func(r Row) error {
			if r.Line < 1 {
				t.Errorf("line %d", r.Line)
			}
			_, _ = check(&r.Key)
			return nil
		})
	})
}
