package checker

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

const (
	forever = math.MaxInt64
	// clockError is how much younger than it is an as_of may say that it is.
	clockError = int64(5 * time.Millisecond)
)

// facts is everything in a history but requests.
type facts struct {
	meta         history.Meta
	hasMeta      bool
	incarnations map[int]*history.Incarnation
	keys         map[string]*keyFacts
	claims       []*claim // in the order of their acknowledgements
	receipts     []history.Receipt
	faults       []*history.Fault

	revocations, uncertain, restores, void int
	ways                                   map[string]int
}

// keyFacts is what is known about one key that was revoked.
type keyFacts struct {
	issued      int64
	revocations []history.Revocation
	restores    []history.Restore
	claims      []*claim
	receipts    []receiptClaim
}

// claim is an acknowledged revocation.
type claim struct {
	history.Revocation
	// until is when a restore was sent.
	until int64
	// since is when the last other cause to refuse the key was gone, forever if that
	// is not known, 0 if there was none. issued is the same for "unknown".
	since, issued int64
	pairs         []pair
	closed        bool
}

type receiptClaim struct{ completeAt, until int64 }

// collect reads everything but requests. A torn history is an error.
func collect(src Source) (*facts, error) {
	f := &facts{incarnations: make(map[int]*history.Incarnation), keys: make(map[string]*keyFacts), ways: make(map[string]int)}
	issued := make(map[string]int64)
	for rec, err := range src.Records() {
		if err != nil {
			return nil, err
		}
		switch r := rec.(type) {
		case *history.Request:
		case *history.Meta:
			if f.hasMeta {
				return nil, errors.New("the history is of two runs")
			}
			f.meta, f.hasMeta = *r, true
		case *history.Incarnation:
			f.incarnation(r)
		case *history.Issue:
			issued[r.KeyID] = r.AckedAt
		case *history.Revocation:
			k := f.key(r.KeyID)
			k.revocations = append(k.revocations, *r)
		case *history.Restore:
			k := f.key(r.KeyID)
			k.restores = append(k.restores, *r)
			f.restores++
		case *history.Receipt:
			f.receipts = append(f.receipts, *r)
		case *history.Fault:
			f.fault(r)
		default:
			return nil, fmt.Errorf("a record of the unknown type %T", rec)
		}
	}
	for id, k := range f.keys {
		k.issued = issued[id]
		f.claim(k)
	}
	slices.SortFunc(f.claims, func(a, b *claim) int { return cmp(a.AckedAt, b.AckedAt) })
	return f, nil
}

func cmp(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (f *facts) key(id string) *keyFacts {
	k := f.keys[id]
	if k == nil {
		k = new(keyFacts)
		f.keys[id] = k
	}
	return k
}

// incarnation takes what is said about a process into one record, in whatever
// order its beginning and its end come.
func (f *facts) incarnation(r *history.Incarnation) {
	old := f.incarnations[r.Process]
	if old == nil {
		f.incarnations[r.Process] = r
		return
	}
	if r.Name != "" {
		old.Name = r.Name
	}
	old.Began, old.Ended, old.Bound = max(old.Began, r.Began), max(old.Ended, r.Ended), max(old.Bound, r.Bound)
}

func (f *facts) fault(r *history.Fault) {
	for _, old := range f.faults {
		if old.Kind == r.Kind && old.BeganAt == r.BeganAt {
			*old = *r
			return
		}
	}
	f.faults = append(f.faults, r)
}

// bound is the L that a process is held to.
func (f *facts) bound(process int) int64 {
	if i := f.incarnations[process]; i != nil && i.Bound > 0 {
		return int64(i.Bound)
	}
	return int64(f.meta.MaxStaleness)
}

// longest is the longest L of any process.
func (f *facts) longest() int64 {
	l := int64(f.meta.MaxStaleness)
	for _, i := range f.incarnations {
		l = max(l, int64(i.Bound))
	}
	return l
}

// claim makes the claims of a key's revocations.
func (f *facts) claim(k *keyFacts) {
	slices.SortFunc(k.revocations, func(a, b history.Revocation) int { return cmp(a.SentAt, b.SentAt) })
	slices.SortFunc(k.restores, func(a, b history.Restore) int { return cmp(a.SentAt, b.SentAt) })
	for i, rev := range k.revocations {
		f.revocations++
		f.ways[rev.Way]++
		if rev.AckedAt == 0 {
			f.uncertain++
			continue
		}
		c := &claim{Revocation: rev, issued: k.issued}
		if k.issued == 0 {
			c.issued = forever
		}
		if i > 0 {
			// Whether and until when the earlier one was in force is known only if it was
			// undone in between.
			c.since = forever
		}
		var certain bool
		if c.until, certain = k.restored(rev.SentAt, rev.AckedAt); !certain {
			f.void++
			continue
		}
		for _, r := range k.restores {
			if i > 0 && r.SentAt > k.revocations[i-1].SentAt && r.SentAt < rev.SentAt && k.revocations[i-1].AckedAt > 0 {
				c.since = r.AckedAt
			}
		}
		k.claims = append(k.claims, c)
		f.claims = append(f.claims, c)
	}
}

// restored returns when the first restore after a change was sent. It is not
// certain if one may have been committed before or after it.
func (k *keyFacts) restored(sentAt, ackedAt int64) (until int64, certain bool) {
	until = forever
	for _, r := range k.restores {
		switch {
		case r.SentAt > ackedAt:
			return r.SentAt, true
		case r.AckedAt == 0 || r.AckedAt > sentAt:
			return 0, false
		}
	}
	return until, true
}

// revokedBefore returns the last claim that was acknowledged at or before t.
func (k *keyFacts) revokedBefore(t int64) *claim {
	var last *claim
	for _, c := range k.claims {
		if c.AckedAt <= t && t < c.until {
			last = c
		}
	}
	return last
}
