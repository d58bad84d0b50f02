package admin

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// Formats are the forms in which keys can be imported. JSON lines and CSV are
// read as a stream; key files and JWK Sets are held in memory.
var Formats = []string{"jsonl", "csv", "yaml", "jwks"}

// Row is a key read from an import, with the line it began in (for key files and
// JWK Sets: its place in the list).
type Row struct {
	Line int
	Key  keystore.FileKey
	// Err is why the row cannot be read; the others can.
	Err error
}

// maxRowBytes is far above the largest key that can be stored.
const maxRowBytes = 1 << 20

// ReadRows calls yield for each row of r, until yield returns an error, which it
// returns. Other errors mean that the rest cannot be read.
func ReadRows(format string, r io.Reader, yield func(Row) error) error {
	switch format {
	case "jsonl":
		return readLines(r, yield)
	case "csv":
		return readCSV(r, yield)
	case "yaml", "jwks":
		return readKeyFile(r, yield)
	}
	return fmt.Errorf("unknown format %q: use %s", format, strings.Join(Formats, ", "))
}

func readLines(r io.Reader, yield func(Row) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxRowBytes)
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		row := Row{Line: n}
		row.Err = decodeStrict(text, &row.Key)
		if err := yield(row); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line has more than %d bytes", maxRowBytes)
	}
	return lines.Err()
}

// decodeStrict refuses members that are no column: a misspelt expires_at must not
// make a key that never expires.
func decodeStrict(text []byte, k *keystore.FileKey) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(k); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one JSON value in a line", ErrRefused)
	}
	return nil
}

// csvColumns are the names a CSV file's first line may have.
var csvColumns = []string{"key_id", "owner_id", "algorithm", "public_key", "scopes", "not_before", "expires_at", "revoked_at", "attributes", "note"}

func readCSV(r io.Reader, yield func(Row) error) error {
	c := csv.NewReader(r)
	c.ReuseRecord = true
	head, err := c.Read()
	if err != nil {
		return fmt.Errorf("the first line must name the columns: %w", err)
	}
	head = slices.Clone(head)
	head[0] = strings.TrimPrefix(head[0], "\uFEFF")
	for i, name := range head {
		if !slices.Contains(csvColumns, name) {
			return fmt.Errorf("column %d is called %q: columns are %s", i+1, name, strings.Join(csvColumns, ", "))
		}
	}
	for {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var row Row
		var parse *csv.ParseError
		switch {
		case errors.As(err, &parse) && errors.Is(err, csv.ErrFieldCount):
			row.Line, row.Err = parse.StartLine, fmt.Errorf("%w: %d columns, the first line has %d", ErrRefused, len(record), len(head))
		case err != nil:
			return err
		default:
			row.Line, _ = c.FieldPos(0)
			row.Key, row.Err = fromCSV(head, record)
		}
		if err := yield(row); err != nil {
			return err
		}
	}
}

// fromCSV reads a record; an empty field means absent. Scopes are separated by
// semicolons, attributes are a JSON object.
func fromCSV(head, record []string) (k keystore.FileKey, err error) {
	for i, text := range record {
		if text = strings.Clone(strings.TrimSpace(text)); text == "" {
			continue
		}
		switch head[i] {
		case "key_id":
			k.KeyID = text
		case "owner_id":
			k.OwnerID = text
		case "algorithm":
			k.Algorithm = text
		case "public_key":
			k.PublicKey = text
		case "note":
			k.Note = text
		case "scopes":
			for scope := range strings.SplitSeq(text, ";") {
				k.Scopes = append(k.Scopes, strings.TrimSpace(scope))
			}
		case "not_before":
			k.NotBefore, err = parseTime(text)
		case "expires_at":
			k.ExpiresAt, err = parseTime(text)
		case "revoked_at":
			k.RevokedAt, err = parseTime(text)
		case "attributes":
			err = json.Unmarshal([]byte(text), &k.Attributes)
		}
		if err != nil {
			return k, fmt.Errorf("%w: %s: %w", ErrRefused, head[i], err)
		}
	}
	return k, nil
}

func parseTime(text string) (*time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, errors.New("want a time such as 2027-01-31T12:00:00Z")
	}
	t = t.UTC()
	return &t, nil
}

func readKeyFile(r io.Reader, yield func(Row) error) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	kf, err := keystore.ParseKeyFile(data)
	if err != nil {
		return err
	}
	for _, o := range kf.Owners {
		if o.SuspendedAt != nil {
			return fmt.Errorf("owner %s is suspended in this file, and importing its keys would not suspend it: run owners suspend first, and take the owner out of the file", o.OwnerID)
		}
	}
	for i := range kf.Keys {
		if err := yield(Row{Line: i + 1, Key: kf.Keys[i]}); err != nil {
			return err
		}
	}
	return nil
}
