package checker

import (
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

// pair is what is known of one incarnation and one revocation.
type pair struct {
	process int
	// asked: a request sent after the acknowledgement was answered; past: one sent
	// after the bound.
	asked, past bool
	// valid is when the last "valid" was read, validSent when the last was sent that
	// came after the acknowledgement.
	valid, validSent int64
	// refused is when the first answer that was not "valid" was read after the last
	// that was.
	refused int64
	// denied is when the first refusal because of the revocation was read.
	denied int64
}

// closes is how long after its bound a claim is looked at for V3 and for the time
// to deny.
const closes = int64(2 * time.Minute)

func (c *claim) pair(process int) *pair {
	for i := range c.pairs {
		if c.pairs[i].process == process {
			return &c.pairs[i]
		}
	}
	c.pairs = append(c.pairs, pair{process: process})
	return &c.pairs[len(c.pairs)-1]
}

// refuses reports whether q says that the key must not be used.
func refuses(q *history.Request) bool {
	switch q.Code {
	case "revoked", "unknown_key", "owner_suspended", "expired":
		return !q.Valid && !q.Failed
	}
	return false
}

// because reports whether q, a refusal, can have no other cause than c.
func (c *claim) because(q *history.Request, bound int64) bool {
	if proven(q) > c.AckedAt {
		return true
	}
	since := c.since
	if q.Code == "unknown_key" {
		since = max(since, c.issued)
	}
	return since == 0 || since < forever && q.SentAt > since+bound
}

// proven is a time before which the question behind an answer was not sent; the
// beginning of time if it has no as_of.
func proven(q *history.Request) int64 {
	if q.History == "" {
		return -forever
	}
	return q.SentAt - q.AgeMS*int64(time.Millisecond) - clockError
}

// note takes q, an answer, into the pair, and reports whether it is or shows a
// resurrection.
func (p *pair) note(c *claim, q *history.Request, bound int64) (resurrection bool) {
	p.asked = p.asked || q.SentAt > c.AckedAt
	p.past = p.past || q.SentAt > c.AckedAt+bound
	if q.Valid {
		p.valid = max(p.valid, q.DoneAt)
		if p.refused <= p.valid {
			p.refused = 0
		}
		if q.SentAt > c.AckedAt {
			p.validSent = max(p.validSent, q.SentAt)
			return p.denied > 0 && q.SentAt > p.denied
		}
		return false
	}
	if q.DoneAt > p.valid && (p.refused == 0 || q.DoneAt < p.refused) {
		p.refused = q.DoneAt
	}
	if refuses(q) && c.because(q, bound) && (p.denied == 0 || q.DoneAt < p.denied) {
		p.denied = q.DoneAt
		return p.validSent > q.DoneAt // it was written down late
	}
	return false
}
