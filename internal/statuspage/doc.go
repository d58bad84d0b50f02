// Package statuspage draws the status pages: one of a sidecar, and one of the fleet,
// which a relay shows.
//
// It is handed plain values and writes HTML; it asks nobody. Only constants of this
// package are written as they are (markup); everything else is escaped. There is no
// html/template: it calls methods by their names, so that the linker could drop none of
// the whole program, which would be larger by a third. A page has no asset but itself: one
// style sheet and one script stand in it, each allowed by its hash (Policy), and
// charts are inline SVG. The script asks for the page again every two seconds and
// exchanges the parts that have changed; without it the page shows one moment.
//
// A page says in words what a state means and what to do about it, with the name of
// the section of docs/operations.md that has more. It shows neither keys nor secrets:
// identifiers of keys and owners come here as parts of their hashes.
//
//	sidecar.go  what a sidecar's page shows
//	fleet.go    what a relay's page shows
//	words.go    what states and errors mean
//	chart.go    lines and bars
//	format.go   numbers and times
//	page.go     what a page is made of, and the headers that belong to it
//	write.go    from that to HTML
//	markup.go   what is escaped, and what is not
package statuspage
