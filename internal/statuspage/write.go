package statuspage

// write writes the whole page.
func (v *view) write(w *writer) {
	w.put(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
`)
	w.around(`<title>`, v.Headline, ` · `)
	w.around(``, v.Name, ` · keysidecar</title>
<link rel="icon" href="`+icon+`">
<style>`)
	w.put(markup(style))
	w.put(`</style>
<noscript><meta http-equiv="refresh" content="5"></noscript>
</head>
<body>
<header>
`)
	w.around(`<p class="product">keysidecar <span>`, v.What, `</span></p>
`)
	w.around(`<p class="refresh"><span id="refreshed" data-live>As of <time datetime="`, machine(v.Now), `">`)
	w.around(``, moment(v.Now), ` UTC</time></span> <button type="button" id="pause" aria-pressed="false" hidden>Pause</button></p>
`)
	w.around(`<h1>`, v.Name, `</h1>
</header>
<main>
<p id="lost" role="alert" hidden></p>
`)
	w.around(`<section id="state" class="state `, v.Level, `" aria-label="State" data-live>
<div role="status"><h2>`)
	w.sign(v.Level)
	w.around(``, v.Headline, `</h2></div>
`)
	w.around(`<p>`, v.Sentence, `</p>
</section>
<ul id="notes" class="notes" data-live>`)
	for _, n := range v.Notes {
		n.write(w)
	}
	w.put(`
</ul>
`)
	v.cards(w, true)
	w.put(`<div class="cards">`)
	v.cards(w, false)
	w.put(`
</div>`)
	for i := range v.Tables {
		v.Tables[i].write(w)
	}
	w.put(`
</main>
<footer>
<p>`)
	for _, f := range v.Footer {
		w.around(`<span>`, f, `</span> `)
	}
	w.put(`<a href="?format=json">The same as JSON</a></p>
</footer>
<script>`)
	w.put(markup(script))
	w.put(`</script>
</body>
</html>
`)
}

func (n *Note) write(w *writer) {
	w.around(`
<li class="`, n.Level, `">`)
	w.sign(n.Level)
	w.around(`<div><strong>`, n.Text, `</strong> `)
	w.text(n.Do)
	w.some(` <span class="runbook">docs/operations.md, section “`, n.Runbook, `”</span>`)
	w.put(`</div></li>`)
}

// cards writes the cards that take the whole width, or the others.
func (v *view) cards(w *writer, broad bool) {
	for i := range v.Cards {
		if v.Cards[i].Broad == broad {
			v.Cards[i].write(w)
		}
	}
}

func (c *card) write(w *writer) {
	w.around(`
<section id="`, c.ID, `" class="card`)
	if c.Broad {
		w.put(` broad`)
	}
	w.around(`" aria-labelledby="`, c.ID, `-title" data-live>`)
	w.title(c.ID, c.Title)
	if c.Big != "" {
		w.around(`
<p class="figure `, c.Level, `">`)
		w.around(``, c.Big, `</p>`)
	}
	w.some(`
<p class="small">`, c.Small, `</p>`)
	if len(c.Bar) > 0 {
		w.put(barBegins)
		for _, s := range c.Bar {
			w.rect(s.Class, s.X, s.Width, `12`)
		}
		w.put(`
</svg>`)
	}
	w.some(barBegins+`<rect class="rest" x="0" y="0" width="600" height="12"/><rect class="fill" x="0" y="0" width="`, c.Meter, `" height="12"/></svg>`)
	c.facts(w)
	if c.Chart != nil {
		c.Chart.write(w)
	}
	w.some(`
<p class="small">`, c.Text, `</p>`)
	w.put(`
</section>`)
}

const barBegins = `
<svg class="bar" viewBox="0 0 600 12" preserveAspectRatio="none" aria-hidden="true">`

func (c *card) facts(w *writer) {
	if len(c.Facts) == 0 {
		return
	}
	w.put(`
<dl>`)
	for _, f := range c.Facts {
		w.around(`
<div><dt>`, f.Name, `</dt><dd`)
		w.some(` class="`, f.Level, `"`)
		w.put(`>`)
		w.judged(f.Level)
		w.around(``, f.Value, `</dd></div>`)
	}
	w.put(`
</dl>`)
}

func (c *chart) write(w *writer) {
	w.around(`
<figure class="chart">
<svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label="`, c.Label, `">`)
	for _, b := range c.Bands {
		w.rect(b.Class, b.X, b.Width, `100`)
	}
	w.around(`
<path class="area" d="`, c.Area, `"/>`)
	w.around(`
<path class="line" d="`, c.Line, `"/>`)
	w.some(`
<path class="limit" d="M0 `, c.Limit, `H600"/>`)
	w.put(`
</svg>`)
	w.some(`
<span class="limit">`, c.LimitText, `</span>`)
	w.some(`
<span class="top">`, c.TopText, `</span>`)
	w.around(`
<figcaption><span>`, c.FromText, `</span><span>now</span></figcaption>
</figure>`)
}

// rect writes a part of a chart or of a bar, over all its height.
func (w *writer) rect(class, x, width string, height markup) {
	w.around(`
<rect class="`, class, `"`)
	w.around(` x="`, x, `" y="0"`)
	w.around(` width="`, width, `" height="`+height+`"/>`)
}

// title writes the heading of a section.
func (w *writer) title(id, title string) {
	w.around(`
<h2 id="`, id, `-title">`)
	w.around(``, title, `</h2>`)
}

func (t *table) write(w *writer) {
	w.around(`
<section class="list" aria-labelledby="`, t.ID, `-title">`)
	w.title(t.ID, t.Title)
	if t.Search {
		w.around(`
<form method="get" role="search"><label for="q">`, t.SearchFor, `</label> <input id="q" name="q" type="search" maxlength="256" value="`)
		w.around(``, t.Searched, `" autocomplete="off"> <button>Find</button></form>`)
	}
	w.around(`
<div id="`, t.ID, `" data-live>`)
	w.some(`
<p>`, t.About, `</p>`)
	if len(t.Rows) == 0 {
		w.around(`
<p class="empty">`, t.Empty, `</p>`)
	} else {
		t.rows(w)
	}
	w.put(`
</div>
</section>`)
}

func (t *table) rows(w *writer) {
	w.around(`
<table aria-labelledby="`, t.ID, `-title">
<thead><tr>`)
	for _, c := range t.Columns {
		w.put(`<th scope="col"`)
		w.some(` class="`, c.Class, `"`)
		w.around(`>`, c.Name, `</th>`)
	}
	w.put(`</tr></thead>
<tbody>`)
	for _, row := range t.Rows {
		w.put(`
<tr>`)
		for i := range row {
			row[i].write(w, t.Columns[i].Class, i == 0)
		}
		w.put(`</tr>`)
	}
	w.put(`
</tbody>
</table>`)
}

// write writes a cell of a column of this class; the first of a row heads it.
func (c *cell) write(w *writer, class string, first bool) {
	if first {
		w.around(`<th scope="row" class="`, c.Class, `"`)
		w.some(` title="`, c.Title, `"`)
		w.around(`>`, c.Text, `</th>`)
		return
	}
	w.around(`<td class="`, class, ` `)
	w.around(``, c.Level, `"`)
	w.some(` title="`, c.Title, `"`)
	w.put(`>`)
	w.judged(c.Level)
	w.around(``, c.Text, `</td>`)
}
