package statuspage

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"time"
)

// The parts of a page. The style sheet and the script stand in every page, whole.
var (
	//go:embed page.css
	style string
	//go:embed page.js
	script string
)

// icon is a small key; an address of its own would be one more request.
const icon = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cg fill='none' stroke='%232f6fde' stroke-width='2'%3E%3Ccircle cx='5' cy='8' r='3'/%3E%3Cpath d='M8 8h7M12 8v3'/%3E%3C/g%3E%3C/svg%3E"

// Page turns what it is handed into HTML. It may be used by several at once.
type Page struct {
	policy string
}

// New returns a Page.
func New() *Page {
	return &Page{policy: "default-src 'none'; style-src " + hash(style) + "; script-src " + hash(script) +
		"; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"}
}

// hash names a text in a content security policy.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Policy is the page's Content-Security-Policy.
func (p *Page) Policy() string { return p.policy }

// Sidecar writes the page of a sidecar.
func (p *Page) Sidecar(w http.ResponseWriter, s *Sidecar) error { return p.write(w, s.view()) }

// Fleet writes the page of a fleet.
func (p *Page) Fleet(w http.ResponseWriter, f *Fleet) error { return p.write(w, f.view()) }

// write answers with v.
func (p *Page) write(w http.ResponseWriter, v *view) error {
	var page writer
	v.write(&page)
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	_, err := w.Write(page.Bytes())
	return err
}

// view is what a page shows.
type view struct {
	// What is this, and of whom: "Sidecar", its name, its version.
	What, Name, Version string
	// Level, Headline and Sentence say how it is.
	Level, Headline, Sentence string
	Notes                     []Note
	Cards                     []card
	Tables                    []table
	// Footer tells about the process.
	Footer []string
	Now    time.Time
}

// sign is what tells a level besides its colour.
func sign(level string) string {
	switch level {
	case good:
		return "●"
	case warn:
		return "▲"
	case bad:
		return "■"
	}
	return "○"
}

// card is a figure with what belongs to it.
type card struct {
	ID, Title string
	// Big is the figure, Small what it is of.
	Level, Big, Small string
	Chart             *chart
	Bar               []share
	BarLabel          string
	// Meter is a part of 600 that is filled, "" for none.
	Meter string
	Text  string
	Facts []fact
	// Broad cards take the whole width.
	Broad bool
}

// fact is one line of a card.
type fact struct {
	Name, Value string
	// Level is "" where there is nothing to judge.
	Level string
}

// table is a list.
type table struct {
	ID, Title string
	// About says what is listed; Empty is shown instead of no rows.
	About, Empty string
	Columns      []column
	Rows         [][]cell
	// Search makes a field to look for one, with what was looked for.
	Search    bool
	Searched  string
	SearchFor string
}

// column heads a column. Class is "num" for numbers, "wide" for what a narrow page
// can do without.
type column struct{ Name, Class string }

// cell is one of a row; the first one of each names the row.
type cell struct {
	Text, Class string
	// Level is "" where there is nothing to judge; At is a time for programs.
	Level string
	Title string
}
