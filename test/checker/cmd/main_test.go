package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

func write(t *testing.T, name string, records ...history.Record) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	w, err := history.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		w.Add(r)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExitCodesSayTheWrongThing(t *testing.T) {
	second := int64(time.Second)
	clean := []history.Record{
		&history.Meta{MaxStaleness: 3 * time.Second}, &history.Incarnation{Process: 1},
		&history.Revocation{KeyID: "k", SentAt: second, AckedAt: second},
		&history.Request{Process: 1, KeyID: "k", SentAt: 5 * second, DoneAt: 5*second + 1, Status: 410, Code: "revoked"},
	}
	late := &history.Request{Process: 1, KeyID: "k", SentAt: 6 * second, DoneAt: 6*second + 1, Status: 200, Code: "active", Valid: true}
	good, bad, empty := write(t, "good", clean...), write(t, "bad", append(clean, late)...), write(t, "empty")
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(t.TempDir(), "torn")
	if err := os.WriteFile(torn, data[:len(data)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code  int
		says  string
		files []string
	}{
		{0, "", []string{good}},
		{0, "", []string{"-markdown", good, good}},
		{1, "violations", []string{good, bad}},
		{2, "torn", []string{torn, good}},
		{2, "there are no requests", []string{bad, empty, good}},
		{2, "no such file", []string{filepath.Join(t.TempDir(), "missing")}},
		{2, "at least one", nil},
		{2, "", []string{"-no-such-flag"}},
	} {
		var out, complaints bytes.Buffer
		if got := run(c.files, &out, &complaints); got != c.code || !strings.Contains(complaints.String(), c.says) {
			t.Errorf("%v: exit %d, %s", c.files, got, complaints.String())
		}
	}
}
