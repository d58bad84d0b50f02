package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/keystore"
)

// maxReportedRows is how many refused rows are named one by one.
const maxReportedRows = 1000

func (c *cli) keysImportCommand() *cobra.Command {
	var i keyImport
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import many keys from JSON lines, CSV, a key file or a JWK Set",
		Long: `Imports keys from FILE, or from standard input for "-". Fields are those of a key
file: key_id, owner_id, algorithm, public_key (SPKI in base64), scopes, not_before,
expires_at, revoked_at, attributes, note. In CSV the first line names the columns,
scopes are separated by semicolons, and attributes are a JSON object.

A row that cannot be stored is refused and named; the others are imported. Keys that
exist are never changed: they are refused, or passed over with --skip-existing.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				i.store, i.progress, i.report = s, c.progress(), c.err
				return c.importKeys(ctx, &i, args[0])
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&i.format, "format", "", "form of the file: "+strings.Join(admin.Formats, ", ")+" (default: by its name)")
	flags.StringVar(&i.owner, "owner", "", "owner of the rows that name none")
	flags.BoolVar(&i.dryRun, "dry-run", false, "check every row and import none")
	flags.BoolVar(&i.skipExisting, "skip-existing", false, "pass over keys that exist, without calling them refused")
	return cmd
}

// keyImport is one run of keys import.
type keyImport struct {
	format, owner        string
	dryRun, skipExisting bool

	store    keyStore
	progress *progress
	report   io.Writer

	known map[string]bool // key_ids in the store and in the rows before; for a dry run

	batch []keystore.FileKey
	lines []int

	Read     int `json:"read"`
	Imported int `json:"imported"`
	Existing int `json:"existing"`
	Refused  int `json:"refused"`
}

func (c *cli) importKeys(ctx context.Context, i *keyImport, name string) error {
	if i.format == "" {
		i.format = formatOf(name)
	}
	if !slices.Contains(admin.Formats, i.format) {
		return fmt.Errorf("--format: say what %s is: %s", name, strings.Join(admin.Formats, ", "))
	}
	r := c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	if i.dryRun {
		i.known = make(map[string]bool)
		if err := i.store.List(ctx, "", func(e *admin.Entry) bool { i.known[e.KeyID] = true; return true }); err != nil {
			return err
		}
	}
	err := admin.ReadRows(i.format, r, func(row admin.Row) error { return i.add(ctx, row) })
	if err == nil {
		err = i.flush(ctx)
	}
	i.progress.done()
	if err != nil && i.Imported > 0 {
		return fmt.Errorf("%w (%d keys were imported before that)", err, i.Imported)
	}
	if err != nil {
		return err
	}
	return c.printImported(i)
}

func formatOf(name string) string {
	switch ext := strings.ToLower(filepath.Ext(name)); ext {
	case ".jsonl", ".ndjson":
		return "jsonl"
	case ".csv", ".jwks":
		return ext[1:]
	case ".yaml", ".yml", ".json":
		return "yaml"
	}
	return ""
}

func (i *keyImport) add(ctx context.Context, row admin.Row) error {
	i.Read++
	if row.Err != nil {
		i.refuse(row.Line, row.Err)
		return nil //nolint:nilerr // a bad row is reported, and the others go on
	}
	// A JWK Set that names no owner is read as that of an owner called default.
	if i.owner != "" && (row.Key.OwnerID == "" || (i.format == "jwks" && row.Key.OwnerID == "default")) {
		row.Key.OwnerID = i.owner
	}
	i.batch, i.lines = append(i.batch, row.Key), append(i.lines, row.Line)
	if len(i.batch) < i.store.ImportBatch() {
		return nil
	}
	return i.flush(ctx)
}

func (i *keyImport) flush(ctx context.Context) error {
	if len(i.batch) == 0 {
		return nil
	}
	verdicts, err := i.send(ctx)
	if err != nil {
		return err
	}
	for n, verdict := range verdicts {
		switch {
		case verdict == nil:
			i.Imported++
		case i.skipExisting && errors.Is(verdict, admin.ErrExists):
			i.Existing++
		default:
			i.refuse(i.lines[n], verdict)
		}
	}
	i.batch, i.lines = i.batch[:0], i.lines[:0]
	i.progress.show("%d rows read, %d imported, %d refused", i.Read, i.Imported, i.Refused)
	return nil
}

func (i *keyImport) send(ctx context.Context) ([]error, error) {
	if !i.dryRun {
		return i.store.Import(ctx, i.batch)
	}
	verdicts := make([]error, len(i.batch))
	for n := range i.batch {
		id := i.batch[n].KeyID
		if _, verdicts[n] = i.batch[n].Key(); verdicts[n] != nil {
			continue
		}
		if i.known[id] {
			verdicts[n] = fmt.Errorf("%s: %w", id, admin.ErrExists)
		}
		i.known[id] = true
	}
	return verdicts, nil
}

func (i *keyImport) refuse(line int, why error) {
	i.Refused++
	if i.Refused <= maxReportedRows {
		i.progress.done()
		fmt.Fprintf(i.report, "row %d: %v\n", line, why)
	}
}

func (c *cli) printImported(i *keyImport) error {
	if more := i.Refused - maxReportedRows; more > 0 {
		fmt.Fprintf(c.err, "... and %d rows more\n", more)
	}
	var err error
	switch {
	case c.json():
		err = c.printJSON(i)
	case i.dryRun:
		_, err = fmt.Fprintf(c.out, "%d rows read; %d would be imported, %d exist, %d refused (dry run: nothing was changed)\n", i.Read, i.Imported, i.Existing, i.Refused)
	default:
		_, err = fmt.Fprintf(c.out, "%d rows read, %d imported, %d existed, %d refused\n", i.Read, i.Imported, i.Existing, i.Refused)
	}
	if err == nil && i.Refused > 0 {
		return &noError{errSaid}
	}
	return err
}
