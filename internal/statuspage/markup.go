package statuspage

import (
	"bytes"
	"html"
)

// markup is text that is HTML already. Only constants of this package are: a string
// does not become one by itself, so that what is not escaped does not compile.
type markup string

// writer writes HTML.
type writer struct{ bytes.Buffer }

// put writes markup.
func (w *writer) put(m markup) { w.WriteString(string(m)) }

// text writes s as text, or as the value of an attribute in quotes.
func (w *writer) text(s string) { w.WriteString(html.EscapeString(s)) }

// around writes s between two pieces of markup.
func (w *writer) around(before markup, s string, after markup) {
	w.put(before)
	w.text(s)
	w.put(after)
}

// some is around, for a text that may be empty: then there is nothing.
func (w *writer) some(before markup, s string, after markup) {
	if s != "" {
		w.around(before, s, after)
	}
}

// sign writes what tells a level besides its colour.
func (w *writer) sign(level string) {
	w.around(`<span class="sign" aria-hidden="true">`, sign(level), `</span> `)
}

// judged is sign, where there is a level.
func (w *writer) judged(level string) {
	if level != "" {
		w.sign(level)
	}
}
