package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// The forms of what is printed (--output).
const (
	outputTable = "table"
	outputWide  = "wide" // a table with every column there is
	outputJSON  = "json"
)

var outputs = []string{outputTable, outputWide, outputJSON}

func (c *cli) json() bool { return c.output == outputJSON }
func (c *cli) wide() bool { return c.output == outputWide }

// printJSON writes v on one line, as programs read it.
func (c *cli) printJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// paint is a colour of text on a terminal (ECMA-48, SGR).
type paint string

const (
	plain  paint = ""
	red    paint = "\x1b[31m"
	green  paint = "\x1b[32m"
	yellow paint = "\x1b[33m"
	bold   paint = "\x1b[1m"

	paintOff = "\x1b[0m"
)

// on returns text in colour p.
func (p paint) on(text string) string {
	if p == plain {
		return text
	}
	return string(p) + text + paintOff
}

// colored reports whether what is written to w may have colours: it is a terminal,
// and nobody asked for none (https://no-color.org).
func (c *cli) colored(w io.Writer) bool {
	return !c.noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// paintedFor returns text in colour p if w is for colours.
func (c *cli) paintedFor(w io.Writer, p paint, text string) string {
	if !c.colored(w) {
		return text
	}
	return p.on(text)
}

// warn tells of something that is odd, and goes on.
func (c *cli) warn(text string) {
	fmt.Fprintln(c.err, "keysidecar: "+c.paintedFor(c.err, yellow, "warning:")+" "+text)
}

// statePaint is the colour of a key's or an owner's state.
func statePaint(state string) paint {
	switch state {
	case keystore.Active.String():
		return green
	case keystore.Revoked.String(), keystore.OwnerSuspended.String(), "suspended":
		return red
	case keystore.Expired.String(), keystore.NotYetValid.String():
		return yellow
	}
	return plain
}

// table writes rows of names and values.
func (c *cli) table(rows ...[]string) error {
	return c.columns(rows, func(row, column int, text string) paint {
		if column == 1 && rows[row][0] == "state" {
			return statePaint(text)
		}
		return plain
	})
}

// list writes rows with a column each under the names of head, which is left out if
// it is nil.
func (c *cli) list(head []string, rows [][]string, stateColumn int) error {
	heads := 0
	if head != nil {
		rows, heads = slices.Insert(rows, 0, head), 1
	}
	return c.columns(rows, func(row, column int, text string) paint {
		switch {
		case row < heads:
			return bold
		case column == stateColumn:
			return statePaint(text)
		}
		return plain
	})
}

// columns writes rows in aligned columns, coloured if that is wanted.
func (c *cli) columns(rows [][]string, colour func(row, column int, text string) paint) error {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	colored := c.colored(c.out)
	var b bytes.Buffer
	for n, row := range rows {
		for i, cell := range row {
			p := plain
			if colored {
				p = colour(n, i, cell)
			}
			b.WriteString(p.on(cell))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := c.out.Write(b.Bytes())
	return err
}

// printable escapes what could move a terminal's cursor or hide text: a note or an
// owner's name is somebody else's.
func printable(text string) string {
	clean := func(r rune) bool { return r == ' ' || unicode.IsPrint(r) && r != utf8.RuneError }
	if !strings.ContainsFunc(text, func(r rune) bool { return !clean(r) }) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if clean(r) {
			b.WriteRune(r)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
	}
	return b.String()
}

func timeText(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// isTerminal reports whether w is a terminal, whose reader is a person.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	return err == nil
}

// progress shows on a terminal how far long work has come, and elsewhere nothing.
type progress struct {
	w     io.Writer
	shown bool
	last  time.Time
}

func (c *cli) progress() *progress {
	if !isTerminal(c.err) {
		return &progress{}
	}
	return &progress{w: c.err}
}

// show replaces the line shown before, at most ten times a second.
func (p *progress) show(format string, args ...any) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond { //nolint:forbidigo // paces a display
		return
	}
	p.last, p.shown = time.Now(), true //nolint:forbidigo // paces a display
	fmt.Fprintf(p.w, "\r\x1b[K"+format, args...)
}

// done removes the line.
func (p *progress) done() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}
