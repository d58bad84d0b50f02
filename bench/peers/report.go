package peers

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Report is what one run found.
type Report struct {
	Options Options
	// Command is what ran it, Plot the plot's file as the document links to it.
	Command, Plot string
	Machine       []string
	// Answer is the length of the sidecar's answer in bytes, Body that of its JSON.
	Answer, Body int
	Samples      []Sample
}

// of returns the samples of a contender in a cell, by round.
func (r *Report) of(contender string, c Cell) []Sample {
	list := make([]Sample, 0, r.Options.Rounds)
	for i := range r.Samples {
		if s := &r.Samples[i]; s.Contender == contender && s.Cell == c {
			list = append(list, *s)
		}
	}
	slices.SortFunc(list, func(a, b Sample) int { return a.Round - b.Round })
	return list
}

// spread is the median of a figure over the rounds, the least and the most.
type spread struct{ median, least, most float64 }

// figure reads one figure of a sample.
type figure func(*Sample) float64

func rate(s *Sample) float64     { return s.Rate }
func p50(s *Sample) float64      { return micros(s.P50) }
func p99(s *Sample) float64      { return micros(s.P99) }
func p999(s *Sample) float64     { return micros(s.P999) }
func server(s *Sample) float64   { return micros(s.Server) }
func client(s *Sample) float64   { return micros(s.Client) }
func busy(s *Sample) float64     { return s.Busy }
func keysRate(s *Sample) float64 { return s.Rate * batchOf }

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	slices.Sort(values)
	middle := values[len(values)/2]
	if len(values)%2 == 0 {
		middle = (middle + values[len(values)/2-1]) / 2
	}
	return spread{middle, values[0], values[len(values)-1]}
}

func (r *Report) spread(contender string, c Cell, f figure) spread {
	samples := r.of(contender, c)
	values := make([]float64, 0, len(samples))
	for i := range samples {
		values = append(values, f(&samples[i]))
	}
	return spreadOf(values)
}

// ratio is that of two contenders' figures, within each round.
func (r *Report) ratio(a, b string, c Cell, f, g figure) spread {
	values := make([]float64, 0, r.Options.Rounds)
	others := r.of(b, c)
	for i, s := range r.of(a, c) {
		if i < len(others) && others[i].Round == s.Round {
			values = append(values, f(&s)/g(&others[i]))
		}
	}
	return spreadOf(values)
}

// promise is a ratio that is promised.
type promise struct {
	what string
	a, b string
	cell Cell
	f, g figure
	// bound is the least ratio, or the most if atMost.
	bound  float64
	atMost bool
}

// promises are the ratios of docs/benchmarks.md.
func promises() []promise {
	one, sixteen, many := Cell{Conns: 1}, Cell{Conns: 16}, Cell{Conns: 64}
	return []promise{
		{what: "16 connections, socket: requests/s over the bare loop's", a: SidecarSocket, b: Bare, cell: sixteen, f: rate, g: rate, bound: 0.85},
		{what: "16 connections, socket: requests/s over Redis' by TCP", a: SidecarSocket, b: RedisTCP, cell: sixteen, f: rate, g: rate, bound: 1.1},
		{what: "16 connections, socket: p99 over Redis' by TCP", a: SidecarSocket, b: RedisTCP, cell: sixteen, f: p99, g: p99, bound: 1, atMost: true},
		{what: "16 connections, socket: CPU a request over the bare loop's", a: SidecarSocket, b: Bare, cell: sixteen, f: server, g: server, bound: 1.3, atMost: true},
		{what: "16 connections, TCP: requests/s over Redis' by TCP", a: SidecarTCP, b: RedisTCP, cell: sixteen, f: rate, g: rate, bound: 0.9},
		{what: "1 connection, socket: p50 over the bare loop's", a: SidecarSocket, b: Bare, cell: one, f: p50, g: p50, bound: 1.25, atMost: true},
		{what: "1 connection: keys/s in batches of 100 over single look-ups", a: SidecarBatch, b: SidecarSocket, cell: one, f: keysRate, g: rate, bound: 10},
		{what: "16 connections: keys/s in batches of 100 over single look-ups", a: SidecarBatch, b: SidecarSocket, cell: sixteen, f: keysRate, g: rate, bound: 10},
		{what: "64 connections: keys/s in batches of 100 over single look-ups", a: SidecarBatch, b: SidecarSocket, cell: many, f: keysRate, g: rate, bound: 10},
	}
}

// held reports whether a measured ratio keeps the promise. One that was not measured
// does not.
func (p *promise) held(s spread) bool {
	if p.atMost {
		return s.median <= p.bound
	}
	return s.median >= p.bound
}

// Judge returns an error that names each promise that was missed.
func (r *Report) Judge() error {
	var missed []string
	for _, p := range promises() {
		if s := r.ratio(p.a, p.b, p.cell, p.f, p.g); !p.held(s) {
			missed = append(missed, fmt.Sprintf("%s: %.2f, promised %.2f", p.what, s.median, p.bound))
		}
	}
	if missed != nil {
		return fmt.Errorf("missed:\n  %s", strings.Join(missed, "\n  "))
	}
	return nil
}

// order is how tables list the contenders.
var order = []string{SidecarSocket, SidecarTCP, OneSocket, OneTCP, SidecarHalf, Bare, Nginx, RedisSocket, RedisTCP, SelectSocket, SelectTCP}

// what says what each contender does for a request, and what it leaves out.
const what = `| contender | what a request does | what it leaves out |
|---|---|---|
| ` + SidecarSocket + ` and TCP | the whole look-up: limits and framing checks, lease, owner, validity times, metrics, JSON. All keys are in memory, so that an unknown key (a miss) is answered from memory, too | nothing |
| ` + OneSocket + ` and TCP | the same by a process with ` + "`GOMAXPROCS=1`" + `: not the default, here for comparison with the peers that are single-threaded | nothing |
| ` + SidecarHalf + ` | the same with room for half of the keys; a miss is a key that is not in memory and is read from Postgres. The backends' processor time is in the server's | nothing |
| ` + Bare + ` | reads to the end of the request, finds the key in the same LRU library under one of 64 locks, and writes an answer of the same bytes; 404 on a miss | parsing of headers, limits, time-outs, freshness, revocations, owners, metrics |
| ` + Nginx + ` | parses HTTP and writes a fixed answer with the same body, with a worker for each core, no log | keys: it has none, and a miss is like any request |
| ` + RedisSocket + ` and TCP | finds a string of the length of the JSON body | everything that makes the string a verdict, and knowing whether it is still true. A miss says only that the key is not in Redis: somebody would have to ask the database |
| ` + SelectSocket + ` and TCP | one row by primary key, prepared, through a pgx pool with as many connections | the owner's suspension (another table), the verdict. It is always true, and a miss is an answer |
`

// Markdown is the section for a document.
func (r *Report) Markdown() string {
	var b strings.Builder
	o := &r.Options
	fmt.Fprintf(&b, "## A look-up beside its peers\n\n    %s\n\n", r.Command)
	for _, line := range r.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "\n%d rounds; in each, every contender has a turn of %v in each cell, in random order. %d keys, each asked for with the same probability. "+
		"An answer of the sidecar has %d bytes, %d of them JSON. One client for all, a single thread with epoll (for Postgres a pgx pool), on the same cores as the server. "+
		"Medians over the rounds, and the least and the most in parentheses.\n\n", o.Rounds, o.Span, o.Keys, r.Answer, r.Body)
	b.WriteString(what + "\n")
	r.promised(&b)
	if r.Plot != "" {
		fmt.Fprintf(&b, "![Requests a second, p99 and processor time of each contender at 16 connections](%s)\n\n", r.Plot)
	}
	for _, conns := range o.Conns {
		r.table(&b, conns)
	}
	r.batches(&b)
	return b.String()
}

func (r *Report) promised(b *strings.Builder) {
	b.WriteString("### What is promised\n\nRatios within a round, their median over the rounds.\n\n| ratio | promised | measured | held |\n|---|---|---|---|\n")
	for _, p := range promises() {
		s := r.ratio(p.a, p.b, p.cell, p.f, p.g)
		sign, held := "at least", "yes"
		if p.atMost {
			sign = "at most"
		}
		if !p.held(s) {
			held = "**no**"
		}
		fmt.Fprintf(b, "| %s | %s %.2f | %s | %s |\n", p.what, sign, p.bound, s.text("%.2f"), held)
	}
	b.WriteByte('\n')
	r.onOne(b)
}

// onOne shows the promised ratios of single look-ups for the process with GOMAXPROCS=1.
func (r *Report) onOne(b *strings.Builder) {
	b.WriteString("On one processor (`GOMAXPROCS=1`), for which nothing is promised:\n\n| ratio | measured |\n|---|---|\n")
	one := map[string]string{SidecarSocket: OneSocket, SidecarTCP: OneTCP}
	for _, p := range promises() {
		if a, single := one[p.a]; single {
			fmt.Fprintf(b, "| %s | %s |\n", p.what, r.ratio(a, p.b, p.cell, p.f, p.g).text("%.2f"))
		}
	}
	b.WriteByte('\n')
}

func (r *Report) table(b *strings.Builder, conns int) {
	plural := "s"
	if conns == 1 {
		plural = ""
	}
	fmt.Fprintf(b, "### %d connection%s\n\nLatencies and processor time a request in microseconds; client busy is how many cores its process used.\n\n", conns, plural)
	b.WriteString("| | requests/s | p50 | p99 | p99.9 | server CPU | client CPU | client busy | 5 % misses: requests/s | p99 | server CPU |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	hits, misses := Cell{Conns: conns}, Cell{Conns: conns, Misses: 5}
	for _, name := range order {
		if len(r.of(name, hits))+len(r.of(name, misses)) == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s |", name)
		for _, column := range []struct {
			cell   Cell
			f      figure
			format string
		}{
			{hits, rate, "%.0f"}, {hits, p50, "%.1f"}, {hits, p99, "%.0f"}, {hits, p999, "%.0f"}, {hits, server, "%.1f"}, {hits, client, "%.1f"}, {hits, busy, "%.2f"},
			{misses, rate, "%.0f"}, {misses, p99, "%.0f"}, {misses, server, "%.1f"},
		} {
			fmt.Fprintf(b, " %s |", r.spread(name, column.cell, column.f).text(column.format))
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}

func (r *Report) batches(b *strings.Builder) {
	fmt.Fprintf(b, "### Batches of %d\n\nThe same connections, single look-ups and batches, keys a second; processor time of the server in microseconds a key.\n\n", batchOf)
	b.WriteString("| connections | single | in batches | ratio | server CPU, single | in batches | p50 of a batch |\n|---|---|---|---|---|---|---|\n")
	perKey := func(s *Sample) float64 { return server(s) / batchOf }
	for _, conns := range r.Options.Conns {
		c := Cell{Conns: conns}
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %s | %s |\n", conns,
			r.spread(SidecarSocket, c, rate).text("%.0f"), r.spread(SidecarBatch, c, keysRate).text("%.0f"),
			r.ratio(SidecarBatch, SidecarSocket, c, keysRate, rate).text("%.1f"),
			r.spread(SidecarSocket, c, server).text("%.1f"), r.spread(SidecarBatch, c, perKey).text("%.2f"), r.spread(SidecarBatch, c, p50).text("%.0f"))
	}
	b.WriteByte('\n')
}

// text writes the median, and the least and the most in parentheses.
func (s spread) text(format string) string {
	if math.IsNaN(s.median) {
		return "-"
	}
	write := func(v float64) string { return thousands(fmt.Sprintf(format, v)) }
	if s.least == s.most {
		return write(s.median)
	}
	return write(s.median) + " (" + write(s.least) + " to " + write(s.most) + ")"
}

// thousands sets commas into a number.
func thousands(number string) string {
	whole, fraction, dot := strings.Cut(number, ".")
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if dot {
		return whole + "." + fraction
	}
	return whole
}
