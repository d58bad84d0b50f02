package checker

import (
	"slices"
	"sort"

	"github.com/keysidecar/keysidecar/test/history"
)

// timelines says which kinds of faults could touch a process at a time.
type timelines struct {
	faults []*history.Fault
	kinds  []string
	lines  map[int][]segment
}

// segment is a stretch of time with the same faults, up to the next one.
type segment struct {
	from  int64
	kinds []int
}

// anywhere stands for all processes together.
const anywhere = -1

func newTimelines(faults []*history.Fault) *timelines {
	t := &timelines{faults: faults, lines: make(map[int][]segment)}
	for _, f := range faults {
		t.kinds = append(t.kinds, f.Kind)
	}
	slices.Sort(t.kinds)
	t.kinds = slices.Compact(t.kinds)
	return t
}

// line returns the segments of a process; the first one begins with time.
func (t *timelines) line(process int) []segment {
	line, ok := t.lines[process]
	if !ok {
		line = t.build(process)
		t.lines[process] = line
	}
	return line
}

func (t *timelines) build(process int) []segment {
	type edge struct {
		at   int64
		kind int
		n    int
	}
	var edges []edge
	for _, f := range t.faults {
		if process != anywhere && len(f.Process) > 0 && !slices.Contains(f.Process, process) {
			continue
		}
		kind, _ := slices.BinarySearch(t.kinds, f.Kind)
		edges = append(edges, edge{f.BeganAt, kind, 1})
		if f.EndedAt > 0 {
			edges = append(edges, edge{f.EndedAt + 1, kind, -1}) // its last moment is its own
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp(a.at, b.at) })
	open := make([]int, len(t.kinds))
	line := []segment{{from: -forever}}
	for i, e := range edges {
		open[e.kind] += e.n
		if i+1 < len(edges) && edges[i+1].at == e.at {
			continue
		}
		s := segment{from: e.at}
		for kind, n := range open {
			if n > 0 {
				s.kinds = append(s.kinds, kind)
			}
		}
		line = append(line, s)
	}
	return line
}

// during returns the kinds of faults that a process was under at any time of
// [from, to]. The result is not to be changed.
func (t *timelines) during(process int, from, to int64) []int {
	line := t.line(process)
	i := sort.Search(len(line), func(i int) bool { return line[i].from > from }) - 1
	if i+1 >= len(line) || line[i+1].from > to {
		return line[i].kinds
	}
	var kinds []int
	for ; i < len(line) && line[i].from <= to; i++ {
		kinds = append(kinds, line[i].kinds...)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}
