package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/keysidecar/keysidecar/internal/schema"
)

const root = "../.."

// next is the version of the schema after this one.
const next = schema.Latest + 1

// expand is a migration that older programs can live with, as the first step of any
// change is: it takes the strongest locks on the tables that sidecars read all the
// time, and makes statements that they have prepared invalid.
const expand = `-- +goose Up
ALTER TABLE keysidecar.public_keys ADD COLUMN next_hint text;
ALTER TABLE keysidecar.owners ADD COLUMN next_hint text;
ALTER TABLE keysidecar.events ADD COLUMN next_hint text;
ALTER TABLE keysidecar.instances ADD COLUMN next_hint text;
CREATE OR REPLACE FUNCTION keysidecar.next_version() RETURNS bigint LANGUAGE sql RETURN %d;

-- +goose Down
DROP FUNCTION keysidecar.next_version();
ALTER TABLE keysidecar.instances DROP COLUMN next_hint;
ALTER TABLE keysidecar.events DROP COLUMN next_hint;
ALTER TABLE keysidecar.owners DROP COLUMN next_hint;
ALTER TABLE keysidecar.public_keys DROP COLUMN next_hint;
`

// buildOld compiles the program of this tree, and buildNew the one with the next
// schema. Both return its path.
func buildOld(ctx context.Context, dir string) (string, error) { return compile(ctx, dir, "old") }

func buildNew(ctx context.Context, dir string) (string, error) {
	overlay, err := nextSource(dir)
	if err != nil {
		return "", err
	}
	return compile(ctx, dir, "new", "-overlay", overlay)
}

func compile(ctx context.Context, dir, version string, more ...string) (string, error) {
	bin := filepath.Join(dir, "keysidecar-"+version)
	args := append([]string{"build", "-race", "-ldflags", "-X main.version=" + version, "-o", bin}, more...)
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/keysidecar/keysidecar/cmd/keysidecar")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build keysidecar %s: %w\n%s", version, err, out)
	}
	return bin, nil
}

// nextSource describes, for the compiler, the source with one migration more.
func nextSource(dir string) (overlay string, err error) {
	source, err := filepath.Abs(filepath.Join(root, "internal/schema"))
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(source, "migrations.go"))
	if err != nil {
		return "", err
	}
	was, is := fmt.Sprintf("const Latest = %d\n", schema.Latest), fmt.Sprintf("const Latest = %d\n", next)
	if !strings.Contains(string(text), was) {
		return "", fmt.Errorf("migrations.go does not say %q", was)
	}
	files := map[string]string{
		"migrations.go": strings.Replace(string(text), was, is, 1),
		fmt.Sprintf("migrations/%05d_next.sql", next): fmt.Sprintf(expand, next),
	}
	replace := make(map[string]string)
	for name, content := range files {
		replace[filepath.Join(source, name)] = filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, data, 0o600)
}
