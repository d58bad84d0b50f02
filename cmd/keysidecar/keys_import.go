package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/publickey"
)

func (c *cli) keysImportCommand() *cobra.Command {
	var (
		i      keyImport
		report string
	)
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import many keys from JSON lines, CSV, a key file or a JWK Set",
		Long: `Imports keys from FILE, or from standard input for "-". Fields are those of a key
file: key_id, owner_id, algorithm, public_key (PEM, OpenSSH, JWK, or SPKI in base64),
scopes, not_before, expires_at, revoked_at, attributes, note. In CSV the first line
names the columns, scopes are separated by semicolons, and attributes are a JSON
object. Without an algorithm a key has that of its public key; a key of a JWK Set
without a kid is named by its RFC 7638 thumbprint.

A row that cannot be stored is refused, and said on standard error with its line and
how to mend it; --report writes the same for programs, a JSON object a line. The
other rows are imported. Keys that exist are never changed: they are refused, or
passed over with --skip-existing. Exit code 0: every row is in, 1: some were
refused, 2: it could not be done.`,
		Example: `  keysidecar keys import keys.csv --dry-run
  keysidecar keys import keys.jsonl --skip-existing --report refused.jsonl
  curl -s https://merchant.example/jwks.json | keysidecar keys import - --format jwks --owner m_books`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if i.format == "" {
				i.format = formatOf(args[0])
			}
			if i.format == "" {
				return &usageError{fmt.Errorf("--format: say what %s is: %s", args[0], strings.Join(admin.Formats, ", ")), cmd.CommandPath()}
			}
			if err := oneOf("format", i.format, admin.Formats); err != nil {
				return &usageError{err, cmd.CommandPath()}
			}
			return c.inStore(cmd, func(ctx context.Context, _ *config.Config, s keyStore) error {
				i.cli, i.store, i.progress = c, s, c.progress()
				return c.importKeys(ctx, &i, args[0], report)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&i.format, "format", "", "form of the file: "+strings.Join(admin.Formats, ", ")+" (default: by its name)")
	flags.StringVar(&i.owner, "owner", "", "owner of the rows that name none")
	flags.BoolVar(&i.dryRun, "dry-run", false, "check every row and import none")
	flags.BoolVar(&i.skipExisting, "skip-existing", false, "pass over keys that exist, without calling them refused")
	flags.StringVar(&report, "report", "", "file for the refused rows: a JSON object with line, key_id, problem and mend on each line")
	completeFlag(cmd, "format", admin.Formats)
	completeFiles(cmd, "report")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault // files
	}
	return cmd
}

// keyImport is one run of keys import.
type keyImport struct {
	format, owner        string
	dryRun, skipExisting bool

	cli      *cli
	store    keyStore
	progress *progress
	input    *countedReader
	report   *importReport

	seen map[string]bool // key_ids of the rows before; for a dry run

	batch []admin.Row // with those among them that cannot be read, so that all are told of in order

	Read     int `json:"read"`
	Imported int `json:"imported"`
	Existing int `json:"existing"`
	Refused  int `json:"refused"`
}

// countedReader knows how much of a file was read.
type countedReader struct {
	io.Reader
	read, size int64 // size is 0 if it is not known
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.read += int64(n)
	return n, err
}

// part says how much was read, for people: "42 %, " or nothing.
func (r *countedReader) part() string {
	if r.size <= 0 {
		return ""
	}
	return fmt.Sprintf("%d %%, ", min(100, 100*r.read/r.size))
}

func (c *cli) importKeys(ctx context.Context, i *keyImport, name, report string) (err error) {
	i.input = &countedReader{Reader: c.in}
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		i.input.Reader = f
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			i.input.size = info.Size()
		}
	}
	if i.report, err = newImportReport(c, i.format, report); err != nil {
		return err
	}
	i.seen = make(map[string]bool)
	err = admin.ReadRows(i.format, i.input, func(row admin.Row) error { return i.add(ctx, row) })
	if err == nil {
		err = i.flush(ctx)
	}
	i.progress.done()
	if how := meantName(err); how != "" { // in the first line of a CSV file
		err = fmt.Errorf("%w; %s", err, how)
	}
	err = errors.Join(err, i.report.close())
	if err != nil && i.Imported > 0 && !i.dryRun {
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
	k := &row.Key
	if k.OwnerID == "" {
		k.OwnerID = i.owner
	}
	if k.Algorithm == "" && k.PublicKey != "" {
		if public, err := publickey.ParseAny([]byte(k.PublicKey)); err == nil { // else it is refused below
			k.Algorithm = public.Algorithm
		}
	}
	if i.batch = append(i.batch, row); len(i.batch) < i.store.ImportBatch() {
		return nil
	}
	return i.flush(ctx)
}

// flush imports the batch and tells what became of its rows.
func (i *keyImport) flush(ctx context.Context) error {
	keys := make([]keystore.FileKey, 0, len(i.batch))
	for _, row := range i.batch {
		if row.Err == nil {
			keys = append(keys, row.Key)
		}
	}
	verdicts, err := i.send(ctx, keys)
	if err != nil {
		return err
	}
	for _, row := range i.batch {
		why, how := row.Err, meantName(row.Err)
		if why == nil {
			why, verdicts = verdicts[0], verdicts[1:]
			how = mend(&row.Key, why)
		}
		switch {
		case why == nil:
			i.Imported++
		case i.skipExisting && errors.Is(why, admin.ErrExists):
			i.Existing++
		default:
			i.Refused++
			i.progress.done()
			i.report.add(refusal{Line: row.Line, KeyID: row.Key.KeyID, Problem: problemText(why), Mend: how})
		}
	}
	i.batch = i.batch[:0]
	i.progress.show("%s%d rows read, %d imported, %d refused", i.input.part(), i.Read, i.Imported, i.Refused)
	return nil
}

// send imports keys, or says what would become of them.
func (i *keyImport) send(ctx context.Context, keys []keystore.FileKey) ([]error, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	if !i.dryRun {
		return i.store.Import(ctx, keys)
	}
	ids := make([]string, len(keys))
	for n := range keys {
		ids[n] = keys[n].KeyID
	}
	existing, err := i.store.Existing(ctx, ids)
	if err != nil {
		return nil, err
	}
	verdicts := make([]error, len(keys))
	for n, id := range ids {
		if _, verdicts[n] = keys[n].Key(); verdicts[n] != nil {
			continue
		}
		if existing[id] || i.seen[id] {
			verdicts[n] = fmt.Errorf("%s: %w", id, admin.ErrExists)
		}
		i.seen[id] = true
	}
	return verdicts, nil
}

func (c *cli) printImported(i *keyImport) error {
	if more := i.Refused - maxReportedRows; more > 0 {
		fmt.Fprintf(c.err, "... and %d more; --report FILE names all\n", more)
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

// mend says what would mend a row that could be read and was refused, if that is not
// plain from why.
func mend(k *keystore.FileKey, why error) string {
	switch {
	case errors.Is(why, admin.ErrExists):
		return "keys that exist are never changed; --skip-existing passes over them"
	case errors.Is(why, keystore.ErrBadKeyID):
		return "give the key another key_id, of 1 to 256 letters, digits and . _ ~ + = : -"
	case k.KeyID == "" || k.PublicKey != "":
		return "" // it is about the public key, which says it itself
	case k.OwnerID == "":
		return "name the owner in the row, or with --owner for all rows that name none"
	case k.Algorithm == "":
		return "give it a public_key, or the algorithm opaque if it has none"
	}
	return ""
}

// meantName is the column or member that was probably meant.
func meantName(err error) string {
	var unknown *admin.UnknownNameError
	if !errors.As(err, &unknown) {
		return ""
	}
	near := config.Nearest(unknown.Name, admin.Columns)
	for _, c := range admin.Columns {
		if len(unknown.Name) > 2 && strings.HasPrefix(c, unknown.Name) { // expires for expires_at
			near = c
		}
	}
	if near != "" {
		return "did you mean " + near + "?"
	}
	return "there are " + strings.Join(admin.Columns, ", ")
}

// problemText is what is wrong, without the word that all refusals begin with.
func problemText(err error) string {
	return strings.TrimPrefix(err.Error(), admin.ErrRefused.Error()+": ")
}
