package peers

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Sizes of the plot, in its own units.
const (
	plotWidth  = 860
	labelWidth = 290
	valueWidth = 90
	barHeight  = 20
	barGap     = 8
	panelHead  = 40
	panelGap   = 24
)

// plotStyle works on light and on dark pages: the text takes the page's own contrast.
const plotStyle = `text{font:14px system-ui,sans-serif;fill:#1f2328}.head{font-weight:600}.value{font-variant-numeric:tabular-nums}` +
	`.ours{fill:#0969da}.other{fill:#8c959f}.whisker{stroke:#1f2328;stroke-width:1.5}` +
	`@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#4493f8}.other{fill:#6e7681}.whisker{stroke:#e6edf3}}`

// SVG draws requests/s, p99 and processor time of each contender at 16 connections
// without misses: the median as a bar, the least and the most as a line over it.
func (r *Report) SVG() string {
	panels := []struct {
		title, format string
		f             figure
	}{
		{"Requests a second (more is better)", "%.0f", rate},
		{"p99, microseconds (less is better)", "%.0f", p99},
		{"Processor time of the server, microseconds a request (less is better)", "%.1f", server},
	}
	cell := Cell{Conns: 16}
	var names []string
	for _, name := range order {
		if len(r.of(name, cell)) > 0 {
			names = append(names, name)
		}
	}
	var body, said strings.Builder
	y := 0
	for _, p := range panels {
		fmt.Fprintf(&body, `<text class="head" x="8" y="%d">%s</text>`+"\n", y+24, escape(p.title))
		fmt.Fprintf(&said, "%s. ", p.title)
		y += panelHead
		most := 0.0
		for _, name := range names {
			most = max(most, r.spread(name, cell, p.f).most)
		}
		scale := (plotWidth - labelWidth - valueWidth) / most
		for i, name := range names {
			s := r.spread(name, cell, p.f)
			class := "other"
			if strings.HasPrefix(name, "keysidecar") {
				class = "ours"
			}
			middle := y + barHeight/2
			from, to := labelWidth+s.least*scale, labelWidth+s.most*scale
			value := thousands(fmt.Sprintf(p.format, s.median))
			fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-10, middle+5, escape(name))
			fmt.Fprintf(&body, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, class, labelWidth, y, math.Max(1, s.median*scale), barHeight)
			fmt.Fprintf(&body, `<path class="whisker" d="M%.1f %dH%.1fM%.1f %dv10M%.1f %dv10" fill="none"/>`, from, middle, to, from, middle-5, to, middle-5)
			fmt.Fprintf(&body, `<text class="value" x="%.1f" y="%d">%s</text>`+"\n", math.Max(to, labelWidth)+8, middle+5, value)
			if i > 0 {
				said.WriteString("; ")
			}
			fmt.Fprintf(&said, "%s: %s", name, value)
			y += barHeight + barGap
		}
		said.WriteString(". ")
		y += panelGap
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title desc">
<title id="title">A look-up beside its peers, 16 connections, no misses</title>
<desc id="desc">%s</desc>
<style>%s</style>
%s</svg>
`, plotWidth, y, plotWidth, y, escape(strings.TrimSpace(said.String())), plotStyle, body.String())
}

func escape(text string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(text)); err != nil {
		return ""
	}
	return b.String()
}
