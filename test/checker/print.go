package checker

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table is a part of the printed report.
type table struct {
	title string
	head  []string
	rows  [][]string
	notes []string
}

func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		switch v := c.(type) {
		case time.Duration:
			row[i] = milliseconds(v)
		case float64:
			row[i] = percent(v)
		case int64:
			row[i] = thousands(v)
		case int:
			row[i] = thousands(int64(v))
		default:
			row[i] = fmt.Sprint(v)
		}
	}
	t.rows = append(t.rows, row)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func percent(share float64) string { return fmt.Sprintf("%.4g %%", 100*share) }

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Text writes the report for a terminal.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	for _, t := range r.tables() {
		fmt.Fprintf(&b, "%s\n", t.title)
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		if len(t.head) > 0 {
			fmt.Fprintf(tw, "  %s\n", strings.Join(t.head, "\t"))
		}
		for _, row := range t.rows {
			fmt.Fprintf(tw, "  %s\n", strings.Join(row, "\t"))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		for _, n := range t.notes {
			fmt.Fprintf(&b, "  %s\n", n)
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Markdown writes the report as part of a document.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	line := func(cells []string) {
		for _, c := range cells {
			fmt.Fprintf(&b, "| %s ", cell.Replace(c))
		}
		b.WriteString("|\n")
	}
	for _, t := range r.tables() {
		fmt.Fprintf(&b, "### %s\n\n", t.title)
		if len(t.rows) > 0 {
			head := t.head
			if len(head) == 0 {
				head = []string{"what", "value"}
			}
			line(head)
			line(slices.Repeat([]string{"---"}, len(head)))
			for _, row := range t.rows {
				line(row)
			}
			b.WriteString("\n")
		}
		for _, n := range t.notes {
			fmt.Fprintf(&b, "%s\n\n", n)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) tables() []table {
	return []table{r.verdict(), r.run(), r.requests(), r.timeToDeny(), r.accepted(), r.byKind(), r.receipts()}
}

func (r *Report) verdict() table {
	t := table{title: "Violations", head: []string{"check", "violations"}}
	for _, c := range Checks() {
		t.row(c, r.Violations[c])
	}
	for _, p := range r.Problems {
		t.notes = append(t.notes, "No claim can be made: "+p+".")
	}
	if r.Err() == nil {
		t.notes = append(t.notes, fmt.Sprintf(
			"No violation in %s pairs of an incarnation and a revocation under a fault that were asked about after the bound: with 95 %% probability fewer than %s of such pairs break it (3/n).",
			thousands(r.UnderFault.Past), percent(r.UpperBound())))
	}
	t.notes = append(t.notes, fmt.Sprintf("Warnings: the as_of of an incarnation went backwards %s times (V4); %s receipts were complete later than L + 250 ms (V7).",
		thousands(r.Backwards), thousands(int64(r.Receipts.Complete.Late))))
	for _, v := range r.Examples {
		q := v.Request
		t.notes = append(t.notes, fmt.Sprintf("%s: %s (process %d) answered %d %q valid=%v for %s from %q, as_of %s/%d, %d ms old; sent at %d, done at %d; %s; faults: %s",
			v.Check, v.Name, q.Process, q.Status, q.Code, q.Valid, q.KeyID, q.Source, q.History, q.Seq, q.AgeMS, q.SentAt, q.DoneAt,
			v.Detail, orNone(strings.Join(v.Faults, ", "))))
	}
	return t
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (r *Report) run() table {
	t := table{title: "The run"}
	t.row("version", orNone(r.Meta.Version))
	t.row("command", orNone(r.Meta.Command))
	t.row("seed", fmt.Sprint(r.Meta.Seed))
	t.row("started", r.Meta.Started.UTC().Format(time.RFC3339))
	t.row("lasted", r.Lasted.Round(time.Second).String())
	t.row("L", r.Meta.MaxStaleness.String())
	t.row("fence interval", r.Meta.FenceInterval.String())
	t.row("incarnations of sidecars", r.Incarnations)
	t.row("faults", fmt.Sprintf("%s of %d kinds", thousands(int64(r.Faults)), len(r.Kinds)))
	t.row("revocations acknowledged", r.Claims)
	for _, way := range slices.Sorted(maps.Keys(r.Ways)) {
		t.row("revocations by "+orNone(way), r.Ways[way])
	}
	t.row("revocations of unknown outcome (no claim)", r.Uncertain)
	t.row("revocations undone at the same time (no claim)", r.Void)
	t.row("revocations undone later", r.Restores)
	t.row("pairs (incarnation x revocation)", r.All.Pairs)
	t.row("pairs under a fault", r.UnderFault.Pairs)
	t.row("pairs asked about after the bound", r.All.Past)
	t.row("the same under a fault", r.UnderFault.Past)
	t.row("95 % upper bound (3/n)", r.UpperBound())
	return t
}

func (r *Report) requests() table {
	t := table{title: "Requests", head: []string{
		"", "requests", "valid", "refused", "503", "no answer", "503 rate", "no answer rate", "from cache", "from database", "stale",
	}}
	for _, x := range r.three() {
		y := x.tally
		t.row(x.name, y.Requests, y.Valid, y.Refused, y.Unavailable, y.Failed, rate(y.Unavailable, y.Requests), rate(y.Failed, y.Requests),
			y.FromCache, y.FromDatabase, y.Stale)
	}
	return t
}

type named struct {
	name  string
	tally *Tally
}

func (r *Report) three() []named {
	return []named{{"all", &r.All}, {"healthy", &r.Healthy}, {"under a fault", &r.UnderFault}}
}

func rate(n, of int64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func (r *Report) timeToDeny() table {
	t := table{title: "Time to deny", head: []string{"", "pairs", "p50", "p90", "p99", "p99.9", "max", "still valid at the last answer", "started after the revocation"}}
	for _, x := range r.three() {
		d := &x.tally.TimeToDeny
		t.row(x.name, d.Len(), d.Quantile(0.5), d.Quantile(0.9), d.Quantile(0.99), d.Quantile(0.999), d.Quantile(1), x.tally.Open, x.tally.Born)
	}
	t.notes = []string{"From the acknowledgement of the commit to the first answer after which none was valid, as callers saw it. " +
		"A sidecar that stood still, or was cut off from its callers, answers only when it is back; what the bound is about is the next table."}
	return t
}

func (r *Report) accepted() table {
	t := table{title: "Accepted after the revocation", head: []string{"", "pairs", "p50", "p90", "p99", "p99.9", "max", "L"}}
	for _, x := range r.three() {
		d := &x.tally.Accepted
		t.row(x.name, d.Len(), d.Quantile(0.5), d.Quantile(0.9), d.Quantile(0.99), d.Quantile(0.999), d.Quantile(1), r.Meta.MaxStaleness)
	}
	t.notes = []string{"From the acknowledgement of the commit to the moment when the last request was sent that was answered valid."}
	return t
}

func (r *Report) byKind() table {
	t := table{title: "Faults", head: []string{
		"kind", "faults", "pairs", "time to deny p50", "p99", "max", "accepted max", "requests", "availability",
	}}
	for _, k := range r.Kinds {
		t.row(k.Kind, k.Faults, k.Pairs, k.TimeToDeny.Quantile(0.5), k.TimeToDeny.Quantile(0.99), k.TimeToDeny.Quantile(1),
			k.Accepted.Quantile(1), k.Requests, k.Availability())
	}
	if len(r.Kinds) == 0 {
		t.notes = []string{"There were none."}
	}
	return t
}

func (r *Report) receipts() table {
	t := table{title: "Receipts", head: []string{"", "complete", "p50", "p90", "p99", "max", "later than L + 250 ms"}}
	for _, x := range []struct {
		name string
		d    *Durations
	}{{"all", &r.Receipts.Complete}, {"healthy", &r.Receipts.Healthy}, {"under a fault", &r.Receipts.UnderFault}} {
		t.row(x.name, x.d.Len(), x.d.Quantile(0.5), x.d.Quantile(0.9), x.d.Quantile(0.99), x.d.Quantile(1), x.d.Late)
	}
	t.notes = []string{fmt.Sprintf("%s were asked for, %s of them never came complete; %s waited for an incarnation's bound. %s were about no acknowledged revocation and count for nothing.",
		thousands(int64(r.Receipts.Asked)), thousands(int64(r.Receipts.Incomplete)), thousands(int64(r.Receipts.WithExpired)), thousands(int64(r.Receipts.Unrelated)))}
	return t
}
