package evidence_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/test/evidence"
)

func TestSectionsReplaceTheirOwnAndLeaveTheOthers(t *testing.T) {
	t.Parallel()
	for name, title := range map[string]string{"benchmarks.md": "# Benchmarks\n", "evidence.md": "# Evidence\n"} {
		path := filepath.Join(t.TempDir(), name)
		for _, s := range [][2]string{{"one", "first"}, {"two", "second"}, {"one", "third\n\n"}} {
			if err := evidence.WriteSection(path, s[0], s[1]); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		want := "<!-- section: one -->\nthird\n<!-- end: one -->\n\n<!-- section: two -->\nsecond\n<!-- end: two -->\n"
		if !strings.HasPrefix(text, title) || !strings.HasSuffix(text, want) {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}
