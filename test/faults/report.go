package faults

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/checker"
	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/history"
)

// Judge has the checker read the history of a run.
func Judge(path string) (*checker.Report, error) {
	h, err := history.Open(path)
	if err != nil {
		return nil, err
	}
	report, err := checker.Check(h)
	return report, errors.Join(err, h.Close())
}

// excluded is what the runs of this package do not show, because the promise does
// not cover it or because this machine cannot do it.
const excluded = `What the promise assumes was kept, and so is not shown: the address leads to the primary that acknowledges
(no split brain); an acknowledged commit survives a failover (the failovers that claims are made across have a
synchronous standby; what the others lose is the faults' own, made while the application was kept out); changes
are captured (while a trigger is away the application is kept out; that every sidecar then refuses is checked with keys of the fault's own); CLOCK_BOOTTIME does
not run backwards (a sleep of the machine and a stepped wall clock are simulated in one sidecar's clock; the
machine's own clock is not touched); no hypervisor stops the machine. The crash of a machine is not simulated: Postgres
runs without fsync, and what is killed is processes. Everything runs on one machine over loopback.
`

// Markdown writes the report of a long run.
func (res *Result) Markdown(w io.Writer, o Options, report *checker.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## Faults at random, seed %d\n\n    %s\n\n", o.Seed, o.Command)
	for _, line := range res.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	names := make([]string, len(o.Fleet))
	for i, s := range o.Fleet {
		names[i] = s.Name
	}
	fmt.Fprintf(&b, "- %d sidecars (%s), 2 relays, L = %s, fence interval %s\n", len(names), strings.Join(names, ", "), o.Promise.MaxStaleness, o.Promise.FenceInterval)
	fmt.Fprintf(&b, "- %s of load, %.0f %% of it with at least one fault\n\n", res.Took.Round(time.Second), 100*res.Faulty.Seconds()/res.Took.Seconds())
	res.kinds(&b)
	res.recoveries(&b)
	if err := report.Markdown(&b); err != nil {
		return err
	}
	fmt.Fprintf(&b, "### What the assumptions exclude\n\n%s\n", excluded)
	_, err := io.WriteString(w, b.String())
	return err
}

// kinds writes how often each kind was hit.
func (res *Result) kinds(b *strings.Builder) {
	type row struct {
		kind    string
		n       int
		shorter time.Duration
		longer  time.Duration
	}
	rows := map[string]*row{}
	for _, h := range res.Hits {
		r := rows[h.Kind]
		if r == nil {
			r = &row{kind: h.Kind, shorter: h.Lasted}
			rows[h.Kind] = r
		}
		r.n++
		r.shorter, r.longer = min(r.shorter, h.Lasted), max(r.longer, h.Lasted)
	}
	sorted := make([]*row, 0, len(rows))
	for _, r := range rows {
		sorted = append(sorted, r)
	}
	slices.SortFunc(sorted, func(x, y *row) int { return cmp.Compare(x.kind, y.kind) })
	fmt.Fprintf(b, "### Kinds of faults\n\n%d kinds, %d faults, alone or up to three at a time.\n\n| kind | times | shortest | longest |\n|---|---|---|---|\n", len(rows), len(res.Hits))
	for _, r := range sorted {
		fmt.Fprintf(b, "| %s | %d | %s | %s |\n", r.kind, r.n, r.shorter.Round(time.Millisecond), r.longer.Round(time.Millisecond))
	}
	b.WriteByte('\n')
}

// recoveries writes how fast the world came back.
func (res *Result) recoveries(b *strings.Builder) {
	if len(res.Recoveries) == 0 {
		return
	}
	fresh, whole := make([]time.Duration, len(res.Recoveries)), make([]time.Duration, len(res.Recoveries))
	late := 0
	for i, r := range res.Recoveries {
		fresh[i], whole[i] = r.Fresh, r.Whole
		if r.Fresh > 2*time.Second {
			late++
		}
	}
	fmt.Fprintf(b, "### Recovery\n\nAfter the last of the faults that were there together was mended, by themselves, %d times; %d times it took more than 2 s until every sidecar was fresh.\n\n", len(fresh), late)
	b.WriteString("| until | p50 | p99 | max |\n|---|---|---|---|\n")
	for _, x := range []struct {
		what string
		d    []time.Duration
	}{{"every sidecar answers under a lease", fresh}, {"and hears the broker, and a relay leads that has one", whole}} {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", x.what, quantile(x.d, 0.5), quantile(x.d, 0.99), quantile(x.d, 1))
	}
	b.WriteByte('\n')
}

// quantile is evidence.Quantile, rounded for people.
func quantile(d []time.Duration, q float64) time.Duration {
	return evidence.Quantile(d, q).Round(10 * time.Microsecond)
}
