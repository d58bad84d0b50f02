package checker

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

// Source is a history; *history.Reader is one. It is read twice.
type Source interface {
	Records() iter.Seq2[history.Record, error]
}

// The checks, by the names that the package documentation gives them.
const (
	Bound         = "V1 bound"
	ReceiptSound  = "V2 receipt"
	Resurrection  = "V3 resurrection"
	CursorSound   = "V5 cursor"
	Contradiction = "V6 contradiction"
	AsOfSound     = "V8 as_of"
)

// Checks returns the names of all checks whose findings are violations.
func Checks() []string {
	return []string{Bound, ReceiptSound, Resurrection, CursorSound, Contradiction, AsOfSound}
}

// receiptSlack is how much later than L a receipt may be complete.
const receiptSlack = int64(250 * time.Millisecond)

// Check judges a history. The error is about reading it: a torn history is one
// (*history.TornError), and nothing is claimed from it.
func Check(src Source) (*Report, error) { return check(src, nil) }

// check leaves out the checks named in without, for tests that show what each is
// good for.
func check(src Source, without []string) (*Report, error) {
	f, err := collect(src)
	if err != nil {
		return nil, err
	}
	j := &judge{
		facts: f, times: newTimelines(f.faults), without: without, strangers: make(map[int]bool),
		states: make(map[stateKey]*state), report: newReport(f),
	}
	j.byKind = make([]*Tally, len(j.times.kinds))
	for i, kind := range j.times.kinds {
		j.byKind[i] = &Tally{Kind: kind}
	}
	j.receipts()
	for rec, err := range src.Records() {
		if err != nil {
			return nil, err
		}
		if q, ok := rec.(*history.Request); ok {
			j.request(q)
		}
	}
	j.close(forever)
	j.cursors()
	return j.finish(), nil
}

// judge is one reading of the requests.
type judge struct {
	*facts
	times     *timelines
	without   []string
	report    *Report
	byKind    []*Tally
	strangers map[int]bool
	states    map[stateKey]*state
	// open is the first claim that is not closed, now the latest time seen.
	open       int
	now        int64
	candidates []candidate
	// began and ended are of the requests.
	began, ended int64
}

type stateKey struct {
	process int
	history string
}

// state is what an incarnation has said about its cursor in a history.
type state struct {
	// proven is the latest time at which its state was proven.
	proven int64
	// steps are when the cursor, as memory's answers name it, was seen to be higher
	// than ever before: times and numbers grow.
	steps []step
}

type step struct{ doneAt, seq int64 }

// candidate is an answer that breaks V5 if its history is the revocation's.
type candidate struct {
	state *state
	claim *claim
	found Violation
}

// receipts notes what receipts claim, and counts them.
func (j *judge) receipts() {
	r := &j.report.Receipts
	limit := j.longest() + receiptSlack
	for i := range j.facts.receipts {
		rec := &j.facts.receipts[i]
		k := j.keys[rec.KeyID]
		if k == nil {
			r.Unrelated++
			continue
		}
		c := k.revokedBefore(rec.AskedAt)
		if c == nil {
			r.Unrelated++
			continue
		}
		r.Asked++
		if rec.CompleteAt == 0 {
			r.Incomplete++
			continue
		}
		k.receipts = append(k.receipts, receiptClaim{rec.CompleteAt, c.until})
		took := rec.CompleteAt - rec.AskedAt
		late := took > limit
		r.Complete.add(took, late)
		if rec.Expired > 0 {
			r.WithExpired++
		}
		if len(j.times.during(anywhere, c.AckedAt, rec.CompleteAt)) > 0 {
			r.UnderFault.add(took, late)
		} else {
			r.Healthy.add(took, late)
		}
	}
}

func (j *judge) request(q *history.Request) {
	if j.incarnations[q.Process] == nil {
		j.strangers[q.Process] = true
	}
	kinds := j.times.during(q.Process, q.SentAt, q.DoneAt)
	if j.began == 0 || q.SentAt < j.began {
		j.began = q.SentAt
	}
	j.ended = max(j.ended, q.DoneAt)
	j.report.All.request(q)
	if len(kinds) == 0 {
		j.report.Healthy.request(q)
	} else {
		j.report.UnderFault.request(q)
	}
	for _, kind := range kinds {
		j.byKind[kind].request(q)
	}
	if q.Failed {
		return
	}
	if said := contradiction(q); said != "" {
		j.violation(Contradiction, q, said)
	}
	var st *state
	if q.History != "" {
		st = j.state(q)
	}
	if q.DoneAt > j.now {
		j.now = q.DoneAt
		j.close(j.now)
	}
	k := j.keys[q.KeyID]
	if k == nil {
		return
	}
	for _, c := range k.claims {
		if q.DoneAt >= c.SentAt && q.DoneAt < c.until {
			j.judge(q, c, st)
		}
	}
	if q.Valid {
		for _, rc := range k.receipts {
			if q.SentAt > rc.completeAt && q.DoneAt < rc.until {
				j.violation(ReceiptSound, q, fmt.Sprintf("sent %v after a complete receipt", time.Duration(q.SentAt-rc.completeAt)))
			}
		}
	}
}

// contradiction says what is wrong with an answer in itself.
func contradiction(q *history.Request) string {
	switch {
	case q.Valid && q.Status != 200:
		return fmt.Sprintf("valid with status %d", q.Status)
	case q.Valid && q.Code != "active":
		return fmt.Sprintf("valid with the code %q", q.Code)
	case !q.Valid && q.Status == 200:
		return fmt.Sprintf("status 200, not valid, with the code %q", q.Code)
	case !q.Valid && q.Code == "active":
		return fmt.Sprintf("the code active with status %d, not valid", q.Status)
	}
	return ""
}

// judge holds q against a claim that covers it.
func (j *judge) judge(q *history.Request, c *claim, st *state) {
	bound := j.bound(q.Process)
	if !c.closed && c.pair(q.Process).note(c, q, bound) {
		j.violation(Resurrection, q, "valid and refused in the wrong order")
	}
	if !q.Valid {
		return
	}
	if late := q.SentAt - c.AckedAt - bound; late > 0 {
		j.violation(Bound, q, fmt.Sprintf("sent %v after the bound", time.Duration(late)))
	}
	if at := proven(q); at > c.AckedAt {
		j.violation(AsOfSound, q, fmt.Sprintf("proven %v after the acknowledgement", time.Duration(at-c.AckedAt)))
	}
	if st != nil && c.Seq > 0 && q.Seq >= c.Seq {
		found := j.describe(CursorSound, q, fmt.Sprintf("its cursor is %d, the revocation is %d", q.Seq, c.Seq))
		if st.proven > c.AckedAt {
			j.add(found)
		} else if len(j.candidates) < 100_000 {
			j.candidates = append(j.candidates, candidate{st, c, found})
		}
	}
}

// cursors decides about the candidates, when everything is known.
func (j *judge) cursors() {
	for _, cand := range j.candidates {
		if cand.state.proven > cand.claim.AckedAt {
			j.add(cand.found)
		}
	}
}

// state notes what an answer says about its cursor.
func (j *judge) state(q *history.Request) *state {
	key := stateKey{q.Process, q.History}
	st := j.states[key]
	if st == nil {
		st = &state{proven: -forever}
		j.states[key] = st
	}
	if q.Source == "database" {
		return st // it names the cursor it was asked with, and may come from another log
	}
	st.proven = max(st.proven, proven(q))
	if q.Source != "cache" {
		return st
	}
	// Requests come about in the order of their ends, so what belongs before others
	// is near the end.
	before := len(st.steps)
	for before > 0 && st.steps[before-1].doneAt >= q.SentAt {
		before--
	}
	if before > 0 && st.steps[before-1].seq > q.Seq {
		j.report.Backwards++
	}
	at := len(st.steps)
	for at > 0 && st.steps[at-1].doneAt > q.DoneAt {
		at--
	}
	if at > 0 && st.steps[at-1].seq >= q.Seq {
		return st
	}
	// Later steps that are not higher say nothing any more.
	end := at
	for end < len(st.steps) && st.steps[end].seq <= q.Seq {
		end++
	}
	st.steps = slices.Replace(st.steps, at, end, step{q.DoneAt, q.Seq})
	if len(st.steps) > 10_000 {
		st.steps = slices.Delete(st.steps, 0, 5_000)
	}
	return st
}

// close counts the pairs of claims that are over at t.
func (j *judge) close(t int64) {
	for ; j.open < len(j.claims); j.open++ {
		c := j.claims[j.open]
		if t < forever && c.AckedAt+j.longest()+closes > t {
			return
		}
		for i := range c.pairs {
			j.pair(c, &c.pairs[i])
		}
		c.pairs, c.closed = nil, true
	}
}

func (j *judge) pair(c *claim, p *pair) {
	if !p.asked {
		return
	}
	kinds := j.times.during(p.process, c.AckedAt, c.AckedAt+j.bound(p.process))
	// One that was started after the revocation has nothing to find out.
	i := j.incarnations[p.process]
	born := i != nil && i.Began > c.AckedAt
	j.report.All.pair(c, p, born)
	if len(kinds) == 0 {
		j.report.Healthy.pair(c, p, born)
	} else {
		j.report.UnderFault.pair(c, p, born)
	}
	for _, kind := range kinds {
		j.byKind[kind].pair(c, p, born)
	}
}

func (j *judge) violation(check string, q *history.Request, detail string) {
	j.add(j.describe(check, q, detail))
}

func (j *judge) describe(check string, q *history.Request, detail string) Violation {
	return Violation{Check: check, Request: *q, Detail: detail}
}

func (j *judge) add(v Violation) {
	if slices.Contains(j.without, v.Check) {
		return
	}
	j.report.Violations[v.Check]++
	if n := j.report.Violations[v.Check]; n <= maxExamples {
		if i := j.incarnations[v.Request.Process]; i != nil {
			v.Name = i.Name
		}
		for _, kind := range j.times.during(v.Request.Process, v.Request.SentAt-j.bound(v.Request.Process), v.Request.DoneAt) {
			v.Faults = append(v.Faults, j.times.kinds[kind])
		}
		j.report.Examples = append(j.report.Examples, v)
	}
}

func (j *judge) finish() *Report {
	r := j.report
	r.Lasted = time.Duration(j.ended - j.began)
	r.Kinds = append(r.Kinds, j.byKind...)
	for _, f := range j.faults {
		i, _ := slices.BinarySearch(j.times.kinds, f.Kind)
		r.Kinds[i].Faults++
	}
	if n := len(j.strangers); n > 0 {
		r.problem("%d processes answered that no incarnation is recorded for", n)
	}
	if r.All.Requests == 0 {
		r.problem("there are no requests")
	}
	if r.Claims == 0 {
		r.problem("no revocation was acknowledged")
	} else if r.All.Past == 0 {
		r.problem("no sidecar answered for a revoked key after the bound")
	}
	return r
}
