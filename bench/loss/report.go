package loss

import (
	"fmt"
	"strings"
	"time"
)

// Report is what the runs found.
type Report struct {
	Options Options
	Command string
	Machine []string
	Rows    []Row
}

// Row is one subscriber in one run.
type Row struct {
	Way         Way
	Disturbance Disturbance
	// Disturbed: it is the one that was.
	Disturbed bool
	// Unheard is how many messages never reached it; -1 if it does not depend on them.
	Unheard int
	// Missed is how many revoked keys it still accepted at the end, ForEver how long
	// after its revocation the first of them was still accepted then.
	Missed  int
	ForEver time.Duration
	// Longest is how long one of the others was accepted.
	Longest time.Duration
}

// Judge returns an error if a sidecar missed a revocation.
func (r *Report) Judge() error {
	for _, row := range r.Rows {
		if row.Way == Sidecar && row.Missed > 0 {
			return fmt.Errorf("keysidecar, %s (disturbed: %v): %d revoked keys are still accepted", row.Disturbance, row.Disturbed, row.Missed)
		}
	}
	return nil
}

// Markdown is the section for a document.
func (r *Report) Markdown() string {
	var b strings.Builder
	o := &r.Options
	fmt.Fprintf(&b, "## Revocations that caches miss\n\n    %s\n\n", r.Command)
	for _, line := range r.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "\n%d revocations, at most one every %v, told in every way at once; two subscribers of each way, of which one is disturbed for %v in the middle. "+
		"The first three are caches that read all valid keys, subscribe, and forget a key when a message names it; they connect again every %v. "+
		"Each subscriber is asked for each revoked key until it refuses it. A key counts as missed if it is still accepted %v after the last revocation: "+
		"nothing would end that but a restart of that cache.\n", o.Revocations, o.Every, o.Away, retry, o.Quiet)
	for _, d := range []Disturbance{Restarted, CutOff} {
		fmt.Fprintf(&b, "\n### One subscriber is %s\n\n", d)
		b.WriteString("| way | messages that never reached it | revoked keys missed | each of them is accepted | the others at most | the undisturbed subscriber: missed | at most |\n|---|---|---|---|---|---|---|\n")
		for _, way := range o.Ways {
			disturbed, other := r.row(way, d, true), r.row(way, d, false)
			fmt.Fprintf(&b, "| %s | %s | %d | %s | %s | %d | %s |\n", way, disturbed.unheard(), disturbed.Missed, disturbed.forEver(), ms(disturbed.Longest), other.Missed, ms(other.Longest))
		}
	}
	b.WriteString(`
A restarted cache misses what is revoked between its reading and its subscription, so the fewer the faster it starts; one that is cut off
misses everything meanwhile. What this leaves out: a restarted cache that subscribes first and reads the keys then, keeping what it heard
meanwhile, misses nothing by its restart; one that forgets everything whenever it loses its connection misses nothing by being cut off, and asks Postgres for everything each
time. A durable queue misses what its broker loses, what is more than its longest length, and what the application did not publish because it
ended between its commit and its message. None of these is bounded, and none is noticed. A sidecar asks Postgres once a second what it may
have missed, and stops answering when it cannot.
`)
	return b.String()
}

func (r *Report) row(way Way, d Disturbance, disturbed bool) *Row {
	for i := range r.Rows {
		if row := &r.Rows[i]; row.Way == way && row.Disturbance == d && row.Disturbed == disturbed {
			return row
		}
	}
	return &Row{}
}

func (r *Row) unheard() string {
	if r.Unheard < 0 {
		return "does not matter"
	}
	return fmt.Sprint(r.Unheard)
}

func (r *Row) forEver() string {
	if r.Missed == 0 {
		return "-"
	}
	return fmt.Sprintf("for ever (%.1f s when the run ended)", r.ForEver.Seconds())
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }
