package statuspage

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// A chart is 600 by 100 units and stretched to the place it has. What must not be
// stretched, its labels, is HTML around it.
const (
	chartWidth  = 600.0
	chartHeight = 100.0
	// floor is where 0 is, so that a line of nothing can be seen.
	floor = chartHeight - 1
	// limitAt is the height of the line that is not to be crossed, as a part of the
	// chart's: the style sheet puts its label there.
	limitAt = 0.8
)

// point is one value of a chart.
type point struct {
	ago   time.Duration
	value float64
	// gap: there was nothing to measure, which is not 0.
	gap bool
	// class is that of the band behind it, "" for none.
	class string
}

// band is a stretch of time that had a state.
type band struct {
	Class    string
	X, Width string
}

// chart is what is drawn.
type chart struct {
	Line, Area string
	Bands      []band
	// Limit is the height of the limit's line, "" for none.
	Limit string
	// LimitText, TopText and FromText label the limit, the upper edge and the left one.
	LimitText, TopText, FromText string
	// Label tells in words what there is to see.
	Label string
}

// draw lays points out over the time from over ago until now. every is the time
// between two of them: what is much farther apart is not joined.
func draw(points []point, over, every time.Duration, top float64) (c chart) {
	x := func(ago time.Duration) float64 { return chartWidth * (1 - float64(ago)/float64(over)) }
	y := func(v float64) float64 { return floor * (1 - min(v, top)/top) }
	var line, area strings.Builder
	var from, last float64
	open := false
	end := func() {
		if open {
			area.WriteString("L" + num(last) + " " + num(chartHeight) + "L" + num(from) + " " + num(chartHeight) + "Z")
		}
		open = false
	}
	var before time.Duration
	for i, p := range points {
		if p.ago > over {
			continue
		}
		if p.gap || open && before-p.ago > 3*every {
			end()
		}
		before = p.ago
		at := x(p.ago)
		if p.class != "" {
			c.Bands = addBand(c.Bands, p.class, x(p.ago+every), at)
		}
		if p.gap {
			continue
		}
		if i == len(points)-1 && p.ago < 2*every {
			at = chartWidth // what is newest is now
		}
		step := "L"
		if !open {
			step, from, open = "M", at, true
		}
		line.WriteString(step + num(at) + " " + num(y(p.value)))
		area.WriteString(step + num(at) + " " + num(y(p.value)))
		last = at
	}
	end()
	c.Line, c.Area = line.String(), area.String()
	return c
}

// addBand adds a stretch, or lengthens the last one.
func addBand(bands []band, class string, from, to float64) []band {
	from = max(0, from)
	if n := len(bands); n > 0 && bands[n-1].Class == class {
		start, _ := strconv.ParseFloat(bands[n-1].X, 64)
		width, _ := strconv.ParseFloat(bands[n-1].Width, 64)
		if from-(start+width) < 3 {
			bands[n-1].Width = num(to - start)
			return bands
		}
	}
	return append(bands, band{class, num(from), num(to - from)})
}

func num(f float64) string { return decimal(f, 1) }

// share is one part of a bar.
type share struct {
	Class, Name string
	Count       int
	X, Width    string
}

// bar lays counts out side by side. A part that is there is never too thin to see.
func bar(shares []share) []share {
	total := 0
	for _, s := range shares {
		total += s.Count
	}
	if total == 0 {
		return nil
	}
	widths, sum := make([]float64, len(shares)), 0.0
	for i, s := range shares {
		if s.Count > 0 {
			widths[i] = max(chartWidth*float64(s.Count)/float64(total), chartWidth/75)
		}
		sum += widths[i]
	}
	var shown []share
	at := 0.0
	for i, s := range shares {
		w := widths[i] * chartWidth / sum
		s.X, s.Width = num(at), num(w)
		at += w
		if s.Count > 0 {
			shown = append(shown, s)
		}
	}
	return shown
}

// nice is a round number at least as great as v.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if v <= n*unit {
			return n * unit
		}
	}
	return 10 * unit
}
