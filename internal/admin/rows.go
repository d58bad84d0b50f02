package admin

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/publickey"
)

// Formats are the forms in which keys can be imported. JSON lines and CSV are
// read as a stream; key files and JWK Sets are held in memory.
var Formats = []string{"jsonl", "csv", "yaml", "jwks"}

// Lines reports whether rows of format are named by their lines; otherwise they
// are named by their place in a list.
func Lines(format string) bool { return format == "jsonl" || format == "csv" }

// Row is a key read from an import.
type Row struct {
	// Line is the line it began in (for key files and JWK Sets: its place in the
	// list), from 1 on.
	Line int
	Key  keystore.FileKey
	// Err is why the row cannot be read; the others can.
	Err error
}

// UnknownNameError is a column or a member that keys do not have.
type UnknownNameError struct {
	// Where it stands, as "column 2", or empty.
	Where string
	Name  string
}

// Error implements error.
func (e *UnknownNameError) Error() string {
	if e.Where != "" {
		return fmt.Sprintf("%s is called %q: columns are %s", e.Where, e.Name, strings.Join(Columns, ", "))
	}
	return fmt.Sprintf("there is no member %q", e.Name)
}

// Unwrap makes it a refusal of the row; a column is the whole file's.
func (e *UnknownNameError) Unwrap() error {
	if e.Where != "" {
		return nil
	}
	return ErrRefused
}

// maxSetBytes bounds a JWK Set, which is held in memory.
const maxSetBytes = 64 << 20

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
	case "yaml":
		return readKeyFile(r, yield)
	case "jwks":
		return readJWKS(r, yield)
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
		return plainJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one JSON value in a line", ErrRefused)
	}
	return nil
}

// plainJSON says what the library found in words that need no knowledge of Go.
func plainJSON(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	var when *time.ParseError
	if quoted, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		if name, bad := strconv.Unquote(quoted); bad == nil {
			return &UnknownNameError{Name: name}
		}
	}
	switch {
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("%w: a row must be a JSON object, and this is a %s", ErrRefused, kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("%w: %s is a %s, and must be %s", ErrRefused, kind.Field, kind.Value, jsonKind(kind.Type))
	case errors.As(err, &syntax):
		return fmt.Errorf("%w: not JSON: byte %d: %w", ErrRefused, syntax.Offset, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: not JSON: it ends too early", ErrRefused)
	case errors.As(err, &when):
		return fmt.Errorf("%w: %s is no time: %w", ErrRefused, when.Value, errTime)
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "a list of texts"
	case reflect.Map:
		return "an object"
	case reflect.Pointer, reflect.Struct:
		return "a time in quotes"
	default:
		return "a text in quotes"
	}
}

// errTime says how a time is written.
var errTime = errors.New("want one such as 2027-01-31T12:00:00Z")

// Columns are the names that a CSV file's first line, and the members of a JSON
// line, may have.
var Columns = []string{"key_id", "owner_id", "algorithm", "public_key", "scopes", "not_before", "expires_at", "revoked_at", "attributes", "note"}

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
		if !slices.Contains(Columns, name) {
			return &UnknownNameError{Where: fmt.Sprintf("column %d", i+1), Name: name}
		}
		if slices.Contains(head[:i], name) {
			return fmt.Errorf("column %d is called %q, as another one is", i+1, name)
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
			row.Line, row.Err = parse.StartLine, fmt.Errorf("%w: %d columns, and the first line has %d: a text with a comma in it needs quotes", ErrRefused, len(record), len(head))
		case errors.As(err, &parse):
			row.Line, row.Err = parse.StartLine, fmt.Errorf("%w: column %d: %w", ErrRefused, parse.Column, parse.Err)
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
			if json.Unmarshal([]byte(text), &k.Attributes) != nil {
				err = errors.New(`not a JSON object; in CSV one is written "{""env"":""live""}"`)
			}
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
		return nil, errTime
	}
	t = t.UTC()
	return &t, nil
}

// readKeyFile reads a key file or, by its content, a JWK Set.
func readKeyFile(r io.Reader, yield func(Row) error) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if publickey.IsJWKS(data) {
		return readSet(data, yield)
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

func readJWKS(r io.Reader, yield func(Row) error) error {
	data, err := io.ReadAll(io.LimitReader(r, maxSetBytes+1))
	if err != nil {
		return err
	}
	if len(data) > maxSetBytes {
		return fmt.Errorf("the JWK Set has more than %d bytes", maxSetBytes)
	}
	return readSet(data, yield)
}

// readSet takes a key without a kid by its thumbprint (RFC 7638).
func readSet(data []byte, yield func(Row) error) error {
	set, err := publickey.ParseJWKS(data)
	if err != nil {
		return err
	}
	for i, k := range set {
		row := Row{Line: i + 1, Key: keystore.FileKey{KeyID: k.KeyID, OwnerID: k.OwnerID}}
		if k.Err != nil {
			row.Err = fmt.Errorf("%w: %w", ErrRefused, k.Err)
		} else {
			row.Key.Algorithm, row.Key.PublicKey = k.Key.Algorithm, base64.StdEncoding.EncodeToString(k.Key.SPKI)
			if row.Key.KeyID == "" {
				row.Key.KeyID = k.Key.Thumbprint()
			}
		}
		if err := yield(row); err != nil {
			return err
		}
	}
	return nil
}
