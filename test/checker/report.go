package checker

import (
	"fmt"
	"slices"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

// maxExamples is how many violations of each check are described.
const maxExamples = 10

// Report is what a history shows.
type Report struct {
	Meta         history.Meta
	Incarnations int
	Faults       int
	// Lasted is from the first request to the last answer.
	Lasted time.Duration
	// Revocations were tried, of which Claims were acknowledged and count. Uncertain
	// ones had no acknowledgement; Void ones may have been undone at the same time.
	Revocations, Claims, Uncertain, Void, Restores int
	// Ways counts revocations by how they were made.
	Ways map[string]int
	// All is everything, Healthy what no fault touched, UnderFault the rest, Kinds
	// the rest by kinds of faults: what was under several is in each.
	All, Healthy, UnderFault Tally
	Kinds                    []*Tally
	Receipts                 Receipts
	// Backwards counts warnings of V4.
	Backwards int64
	// Violations counts, by check; Examples are some of them.
	Violations map[string]int64
	Examples   []Violation
	// Problems are why the history shows nothing, or less than it seems to.
	Problems []string
}

// Violation is an answer that breaks a promise.
type Violation struct {
	Check string
	// Name is the incarnation's.
	Name    string
	Request history.Request
	Detail  string
	// Faults are the kinds that the process was under then, or up to L before.
	Faults []string
}

// Tally counts requests and pairs.
type Tally struct {
	// Kind of fault, and how many there were; empty for the whole.
	Kind   string
	Faults int

	Requests, Valid, Refused, Unavailable, Failed int64
	FromCache, FromDatabase, Stale                int64
	// Pairs of an incarnation and a revocation: the incarnation answered for the key
	// after the acknowledgement. Past: after the bound, too. Open: the last answer
	// was "valid". Born: the incarnation was started after the acknowledgement.
	Pairs, Past, Open, Born int64
	// TimeToDeny of the others, neither open nor born: from the acknowledgement until the first answer was
	// read after which none was "valid". An incarnation that stood still or was cut
	// off says so only when it is back.
	TimeToDeny Durations
	// Accepted is from the acknowledgement until the last request was sent that was
	// answered "valid"; 0 if there was none. This is what the bound is about.
	Accepted Durations
}

// Receipts counts receipts.
type Receipts struct {
	// Asked for after an acknowledged revocation. Unrelated ones are not counted
	// anywhere else. WithExpired: at least one incarnation was waited for till its
	// bound was over.
	Asked, Incomplete, Unrelated, WithExpired int
	// Complete ones, by how long they took from the question on. Late: longer than
	// L + 250 ms.
	Complete, Healthy, UnderFault Durations
}

// Durations is a set of durations.
type Durations struct {
	Late   int
	all    []int64
	sorted bool
}

func (d *Durations) add(took int64, late bool) {
	d.all = append(d.all, took)
	d.sorted = false
	if late {
		d.Late++
	}
}

// Len returns how many there are.
func (d *Durations) Len() int { return len(d.all) }

// Quantile returns the smallest duration that a share of q (0 to 1) does not
// exceed; 0 if there is none.
func (d *Durations) Quantile(q float64) time.Duration {
	if len(d.all) == 0 {
		return 0
	}
	if !d.sorted {
		slices.Sort(d.all)
		d.sorted = true
	}
	i := int(q*float64(len(d.all))+0.999999) - 1
	return time.Duration(d.all[min(max(i, 0), len(d.all)-1)])
}

func newReport(f *facts) *Report {
	r := &Report{
		Meta: f.meta, Incarnations: len(f.incarnations), Faults: len(f.faults),
		Revocations: f.revocations, Claims: len(f.claims), Uncertain: f.uncertain, Void: f.void, Restores: f.restores,
		Ways: f.ways, Violations: make(map[string]int64),
	}
	if !f.hasMeta || f.meta.MaxStaleness <= 0 {
		r.problem("the history does not say what bound it is about")
	}
	return r
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Total is the number of violations.
func (r *Report) Total() int64 {
	var n int64
	for _, v := range r.Violations {
		n += v
	}
	return n
}

// Err is nil if the history shows something, and no violation.
func (r *Report) Err() error {
	switch {
	case len(r.Problems) > 0:
		return fmt.Errorf("no claim can be made: %v", r.Problems)
	case r.Total() > 0:
		return fmt.Errorf("%d violations", r.Total())
	}
	return nil
}

// UpperBound is the largest share of pairs under a fault that could break the
// bound so that none of those seen did, with 95 % probability: the rule of three.
// It counts pairs that were asked about after the bound. 1 if there are none.
func (r *Report) UpperBound() float64 {
	if r.UnderFault.Past < 3 {
		return 1
	}
	return 3 / float64(r.UnderFault.Past)
}

func (t *Tally) request(q *history.Request) {
	t.Requests++
	switch {
	case q.Failed:
		t.Failed++
	case q.Valid:
		t.Valid++
	case q.Status == 503:
		t.Unavailable++
	default:
		t.Refused++
	}
	switch q.Source {
	case "cache":
		t.FromCache++
	case "database":
		t.FromDatabase++
	case "stale":
		t.Stale++
	}
}

func (t *Tally) pair(c *claim, p *pair, born bool) {
	t.Pairs++
	if p.past {
		t.Past++
	}
	t.Accepted.add(max(0, p.validSent-c.AckedAt), false)
	switch {
	case p.refused == 0:
		t.Open++
		return
	case born:
		t.Born++
		return
	}
	t.TimeToDeny.add(max(0, p.refused-c.AckedAt), false)
}

// Availability is the share of requests that got an answer other than 503.
func (t *Tally) Availability() float64 {
	if t.Requests == 0 {
		return 0
	}
	return 1 - float64(t.Unavailable+t.Failed)/float64(t.Requests)
}
