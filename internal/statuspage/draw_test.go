package statuspage

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A line that joins the two ends of an outage says that all was well.
func TestALineDoesNotCrossWhatWasNotMeasured(t *testing.T) {
	t.Parallel()
	s := func(n int) time.Duration { return time.Duration(n) * time.Second }
	for name, test := range map[string]struct {
		points []point
		lines  int
	}{
		"none":       {nil, 0},
		"one":        {[]point{{ago: s(10), value: 1}}, 1},
		"all":        {[]point{{ago: s(10), value: 1}, {ago: s(8), value: 1}, {ago: s(6), value: 1}}, 1},
		"a gap":      {[]point{{ago: s(10), value: 1}, {ago: s(8), gap: true}, {ago: s(6), value: 1}}, 2},
		"a silence":  {[]point{{ago: s(50), value: 1}, {ago: s(6), value: 1}}, 2},
		"too old":    {[]point{{ago: s(70), value: 1}, {ago: s(6), value: 1}}, 1},
		"all gaps":   {[]point{{ago: s(10), gap: true}}, 0},
		"ends apart": {[]point{{ago: s(10), value: 9}, {ago: s(0), value: 1}}, 2},
	} {
		c := draw(test.points, time.Minute, 2*time.Second, 4)
		if n := strings.Count(c.Line, "M"); n != test.lines || strings.Count(c.Area, "Z") != test.lines {
			t.Errorf("%s: %d lines, not %d: %s and %s", name, n, test.lines, c.Line, c.Area)
		}
		for _, m := range regexp.MustCompile(`-?[\d.]+`).FindAllString(c.Area, -1) {
			if v, err := strconv.ParseFloat(m, 64); err != nil || v < 0 || v > chartWidth {
				t.Errorf("%s: %s is outside of the chart", name, m)
			}
		}
	}
	if c := draw([]point{{ago: s(4), gap: true, class: bad}, {ago: s(2), gap: true, class: bad}, {ago: 0, value: 1}}, time.Minute, 2*time.Second, 4); len(c.Bands) != 1 {
		t.Errorf("one outage has %d bands: %v", len(c.Bands), c.Bands)
	}
}

// One sidecar of ten thousand that is behind must be seen.
func TestABarShowsWhatIsRare(t *testing.T) {
	t.Parallel()
	shown := bar([]share{{Class: bad, Count: 1}, {Class: idle}, {Class: good, Count: 9999}})
	if len(shown) != 2 {
		t.Fatalf("%d parts", len(shown))
	}
	sum := 0.0
	for _, s := range shown {
		w, err := strconv.ParseFloat(s.Width, 64)
		if err != nil || w < 6 {
			t.Errorf("a part is %s wide", s.Width)
		}
		sum += w
	}
	if math.Abs(sum-chartWidth) > 1 {
		t.Errorf("the bar is %v wide", sum)
	}
	if bar([]share{{Class: bad}}) != nil {
		t.Error("a bar of nothing")
	}
}

func TestFiguresAreWrittenWrongly(t *testing.T) {
	t.Parallel()
	for have, want := range map[string]string{
		amount(0): "0", amount(999): "999", amount(1000): "1,000", amount(-1234567): "−1,234,567", amount(uint64(10_000)): "10,000",
		span(0): "0 ms", span(420 * time.Microsecond): "0.42 ms", span(31400 * time.Microsecond): "31 ms", span(1020 * time.Millisecond): "1.02 s",
		span(3 * time.Second): "3 s", span(12 * time.Second): "12 s", span(185 * time.Second): "3 min 5 s", span(-time.Second): "−1 s",
		span(5 * time.Minute): "5 min", span(130 * time.Minute): "2 h 10 min", span(72 * time.Hour): "3 days",
		ago(now, now): "just now", ago(now, now.Add(-12*time.Second)): "12 s ago", ago(now, now.Add(-90*time.Minute)): "1 h ago",
		percent(0, 0): "", percent(1, 2): "50 %", percent(0, 2): "0 %", percent(2, 2): "100 %", percent(999_999, 1_000_000): "> 99.99 %", percent(1, 1_000_000): "< 0.01 %",
		plural(1, "key", "keys"): "1 key", plural(1200, "key", "keys"): "1,200 keys",
	} {
		if have = strings.ReplaceAll(have, nbsp, " "); have != want {
			t.Errorf("%q, not %q", have, want)
		}
	}
	for have, want := range map[float64]float64{nice(0): 1, nice(7): 10, nice(10): 10, nice(11): 20, nice(0.3): 0.5} {
		if have != want {
			t.Errorf("%v, not %v", have, want)
		}
	}
}
