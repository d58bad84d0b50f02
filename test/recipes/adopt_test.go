package recipes

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

var (
	block    = regexp.MustCompile("(?ms)^```(sql|sh)\n(.*?)^```")
	verifies = regexp.MustCompile(`(?m)^(keysidecar verify .*?) +# (.*)$`)
)

// The section's statements and commands are run in order, by a superuser and, for
// what a sidecar does, with a sidecar's rights.
func TestAdoptingATableWorksAsWritten(t *testing.T) {
	text, err := os.ReadFile("../../docs/capture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Adopt a table you already have\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatal("capture.md has no such section")
	}
	dsn := world.PG.NewDatabase(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	c := newClone(t)
	t.Setenv("KEYSIDECAR_LISTEN_SOCKET_PATH", filepath.Join(c.dir, "keysidecar.sock"))
	t.Setenv("KEYSIDECAR_STORE_POSTGRES_DSN", dsn)
	blocks := 0
	for _, b := range block.FindAllStringSubmatch(section, -1) {
		blocks++
		switch language, code := b[1], b[2]; {
		case language == "sql":
			statements(t, conn, code)
		case strings.HasPrefix(code, "keysidecar serve"):
			c.stays(t, code, "")
			if err := until(t.Context(), "the sidecar is ready", func() bool {
				return c.terminal(t, "keysidecar wait --timeout 1s").Run() == nil
			}); err != nil {
				t.Fatal(err)
			}
		case verifies.MatchString(code):
			for _, m := range verifies.FindAllStringSubmatch(code, -1) {
				says(t, c, m[1], m[2])
			}
		default:
			if out, err := c.terminal(t, code).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", code, err, out)
			}
			if strings.Contains(code, "migrate") { // from here on commands are the sidecar's
				t.Setenv("KEYSIDECAR_STORE_POSTGRES_DSN", dsn+"&options=-c%20role%3Dkeysidecar_sidecar")
			}
		}
	}
	if blocks != 10 {
		t.Errorf("%d blocks were run", blocks)
	}

	statements(t, conn, `UPDATE merchants SET blocked = false`)
	says(t, c, "keysidecar verify --no-cache pk_2", "valid: pk_2")
	statements(t, conn, `UPDATE api_keys SET disabled_at = NULL`)
	says(t, c, "keysidecar verify --no-cache pk_1", "valid: pk_1")
	statements(t, conn, `DELETE FROM merchants`)
	says(t, c, "keysidecar verify --no-cache pk_1", "not valid: pk_1 (unknown_key")
}

// says runs a command whose output must begin with want.
func says(t *testing.T, c clone, command, want string) {
	t.Helper()
	out, _ := c.terminal(t, command).Output()
	if !strings.HasPrefix(string(out), want) {
		t.Errorf("%s: %s, want %s", command, out, want)
	}
}

// statements runs a block of SQL, and checks what the page says of its results.
func statements(t *testing.T, conn *pgx.Conn, code string) {
	t.Helper()
	for statement := range strings.SplitSeq(code, ";\n") {
		if statement = strings.TrimSpace(statement); statement == "" {
			continue
		}
		rows, err := conn.Query(t.Context(), statement)
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		got, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		switch {
		case strings.Contains(statement, "uncaptured"):
			if len(got) > 0 {
				t.Errorf("unwatched: %v", got)
			}
		case strings.Contains(statement, "FROM keysidecar.events"):
			var kinds []string
			for _, row := range got {
				kinds = append(kinds, row[0].(string))
			}
			if want := []string{"owner_changed", "revoked"}; !slices.Equal(kinds, want) {
				t.Errorf("events, newest first: %v, want %v", kinds, want)
			}
		}
	}
}
