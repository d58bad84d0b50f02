package keystore

import (
	"context"
	"errors"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// Auditor is a Source that memory can be compared with.
type Auditor interface {
	// Audit answers q in one snapshot taken after the call began. It gives way to
	// fills: with every connection in use it fails with ErrBusy at once.
	Audit(ctx context.Context, q AuditQuery) (AuditPage, error)
}

// ErrBusy: an Auditor has no connection to spare.
var ErrBusy = errors.New("every connection for reads is in use")

// AuditQuery asks for the state of some keys.
type AuditQuery struct {
	// Keys are key_ids without repetition.
	Keys []string
	// At is the cursor that was held before it was noted what memory says of Keys.
	At Cursor
	// List of the source's key_ids that follow From in its own order are named,
	// too; the first ones if From is empty.
	List int
	From string
}

// AuditPage is the answer to an AuditQuery.
type AuditPage struct {
	// Clean: the log holds the cursor and no reset after it. If not, the keys'
	// states say nothing.
	Clean bool
	// Timeline: see Page.
	Timeline string
	// Keys are the states of the keys asked for. One that is missing here neither
	// exists nor has an event after the cursor.
	Keys map[string]AuditedKey
	// Listed are the key_ids asked for by AuditQuery.List; fewer than that at the
	// end. CannotList: the source cannot name a few without reading most of them.
	Listed     []string
	CannotList bool
}

// AuditedKey is the state of one key.
type AuditedKey struct {
	// Later: the log has an event on the key or its owner after the cursor.
	Later bool
	// Record is zero for a key that the source does not have.
	Record         Record
	OwnerSuspended bool
	// Unusable: there is a row that no fill would accept, or several.
	Unusable bool
}

// Difference is a way in which memory and the source can differ. A closed set; a
// key counts under the first that applies.
type Difference string

const (
	// DiffMissing: the source has a key that memory says does not exist.
	DiffMissing Difference = "missing"
	// DiffExtra: memory has a key that the source does not.
	DiffExtra Difference = "extra"
	// DiffUnusable: the source's row is one that no fill would accept.
	DiffUnusable Difference = "unusable"
	// DiffRevoked: one of the two says that the key is revoked.
	DiffRevoked Difference = "revoked"
	// DiffOwner: the key belongs to another owner.
	DiffOwner Difference = "owner"
	// DiffSuspended: one of the two says that the owner is suspended.
	DiffSuspended Difference = "suspended"
	// DiffChanged: anything else that an answer shows or a verdict depends on.
	DiffChanged Difference = "changed"
)

var allDifferences = []Difference{DiffMissing, DiffExtra, DiffUnusable, DiffRevoked, DiffOwner, DiffSuspended, DiffChanged}

// claim is what memory says of one key by itself, as a look-up under a lease
// would answer it.
//
// A claim can be held against the source without taking lag for drift, if this
// order is kept: the cursor is read first, then the claim, and then the source is
// asked with that cursor (Store.compare).
//
// Why that is enough. Whatever memory says unmarked is the key's state at some
// place p of the log: where the fill that brought it was clean, or the warm's head.
// Let c be the cursor that was read, and S the snapshot of the answer.
//
//   - p < c: every event up to c had been applied before the cursor became c, and
//     so before the claim was read. An event of (p, c] on this key or its owner
//     would have left a mark, and there would be no claim.
//   - p > c, because a fill or a fence came between the two readings: S was taken
//     later than what was read at p, and so shows every event up to p.
//
// So if S shows no event on the key or its owner after c, the log says that nothing
// happened between p and S, and the claim must be what S shows. Were the claim read
// before the cursor, an event applied in between would be in neither. The argument
// holds for absence as well: an unknown key is remembered by the same rule, and in
// a complete memory an event leaves a mark.
//
// Two things void the answer: another generation of memory, whose cursors belong
// to another line of events, and another timeline, where p may be in a tail that
// was lost.
type claim struct {
	keyID string
	// entry is zero if the claim is that the key does not exist.
	entry entry
	owner ownerState
}

func (c *claim) isAbsence() bool { return c.entry.isMark() }

// claim returns what memory says of keyID; ok is false if it says nothing: not
// here, marked, or to be read again for its age. A use by the audit does not keep
// an entry from being evicted.
func (m *memory) claim(keyID string, now clock.Instant, maxTTL int64) (c claim, ok bool) {
	sh := m.shard(keyID)
	sh.mu.Lock()
	e, here := sh.lru.Peek(keyID)
	until, negative := sh.absent.Peek(keyID)
	sh.mu.Unlock()
	c = claim{keyID: keyID}
	if !here {
		// complete is read after the look-up, as in get.
		return c, negative && now.Before(until) || m.complete.Load()
	}
	if e.isMark() || (maxTTL > 0 && int64(now-e.rec.filled()) >= maxTTL) {
		return c, false
	}
	c.entry, c.owner = e, e.owner.get()
	return c, c.owner != ownerAsk
}

// against compares the claim with the source's word; "" if they agree.
func (c *claim) against(k AuditedKey) Difference {
	switch rec := c.entry.rec; {
	case k.Unusable:
		return DiffUnusable
	case c.isAbsence() && k.Record.IsZero():
		return ""
	case c.isAbsence():
		return DiffMissing
	case k.Record.IsZero():
		return DiffExtra
	case rec.Revoked() != k.Record.Revoked():
		return DiffRevoked
	case rec.OwnerID() != k.Record.OwnerID():
		return DiffOwner
	case c.owner != stateOf(k.OwnerSuspended):
		return DiffSuspended
	case !rec.sameState(k.Record):
		return DiffChanged
	}
	return ""
}

// sameState reports whether two records differ in nothing but the time at which
// they were read.
func (r Record) sameState(other Record) bool {
	a, b := r.packed, other.packed
	return a[:offFilled] == b[:offFilled] && a[offKeyID:] == b[offKeyID:]
}

// finding is a difference that counts.
type finding struct {
	keyID string
	kind  Difference
}

// comparison is what became of one page of claims.
type comparison struct {
	compared int
	// newer claims could not be held against the snapshot: it shows a later event,
	// or memory says something else by now.
	newer    int
	findings []finding
	page     AuditPage
}

// Why an audit could not ask, or not use the answer.
var (
	errNoLease    = errors.New("no lease: memory says nothing now")
	errAuditVoid  = errors.New("memory or its history changed meanwhile")
	errNotAudited = errors.New("the store cannot be compared with")
)

// compare holds what m says of the keys against the source: see claim. What
// differs is evicted. list and from are those of AuditQuery.
func (s *Store) compare(ctx context.Context, m *memory, keys []string, from string, list int) (comparison, error) {
	auditor, ok := s.source.(Auditor)
	if !ok {
		return comparison{}, errNotAudited
	}
	at := *m.cursor.Load()
	s.audit.at(stepCursor)
	now := s.clock.Now()
	if !m.lease.Load().covers(now, 0) {
		return comparison{}, errNoLease
	}
	claims := make([]claim, 0, len(keys))
	q := AuditQuery{At: at, From: from, List: list, Keys: make([]string, 0, len(keys))}
	for _, id := range keys {
		if c, ok := m.claim(id, now, int64(s.opts.MaxTTL)); ok {
			claims = append(claims, c)
			q.Keys = append(q.Keys, id)
		}
	}
	s.audit.at(stepClaims)
	if len(claims) == 0 && list == 0 {
		return comparison{}, nil
	}
	// Its own bound: an audit can wait for its next turn.
	ctx, cancel := context.WithTimeout(ctx, s.opts.FillTimeout)
	defer cancel()
	page, err := auditor.Audit(ctx, q)
	s.audit.at(stepAnswer)
	switch {
	case err != nil:
		return comparison{}, err
	case !page.Clean || page.Timeline != m.timeline:
		s.RequestFence(FenceForGap)
		return comparison{}, errAuditVoid
	case m.ended.Load() || s.mem.Load() != m:
		return comparison{}, errAuditVoid
	}
	out := comparison{page: page}
	for i := range claims {
		s.judge(m, &claims[i], &out)
	}
	s.audit.report(s, out)
	return out, nil
}

// judge compares one claim with the answer, and evicts what differs: the next
// request reads the truth.
func (s *Store) judge(m *memory, c *claim, out *comparison) {
	k := out.page.Keys[c.keyID]
	if k.Later {
		out.newer++
		return
	}
	kind := c.against(k)
	if kind == "" {
		out.compared++
		return
	}
	// A second guard: what memory no longer says has been looked into already, and
	// neither counts nor needs to be evicted.
	if still, ok := m.claim(c.keyID, s.clock.Now(), int64(s.opts.MaxTTL)); !ok || still != *c {
		out.newer++
		return
	}
	out.compared++
	out.findings = append(out.findings, finding{c.keyID, kind})
	// As if an event had said so: that also takes a fill under way, which may have
	// read the same wrong state, out of the register.
	if kind == DiffSuspended {
		m.apply(event.Event{Kind: event.OwnerChanged, OwnerID: c.entry.rec.OwnerID()}, true)
	}
	m.apply(event.Event{Kind: event.Changed, KeyID: c.keyID}, true)
}
