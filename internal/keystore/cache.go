package keystore

import (
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// shardCount spreads look-ups over locks. A power of two.
const shardCount = 64

// promoteEvery is how many look-ups of a shard make one that moves its key to the
// front of the list from whose end room is made.
const promoteEvery = 8

// entry is what memory holds of one key: its record and its owner, or a mark
// ("ask the source"), which has neither.
type entry struct {
	rec   Record
	owner *owner
}

func (e entry) isMark() bool { return e.rec.IsZero() }

// memory is one generation: the keys loaded by one warm and everything learned
// since. A look-up works inside a single memory from its lease check to its
// answer, so a new warm can never lend an old lease to new entries or the other
// way round.
type memory struct {
	// history names the line of events this memory belongs to.
	history  string
	endings  int // of histories, before this one
	timeline string
	seed     maphash.Seed
	shards   [shardCount]shard
	owners   owners
	sets     *keySets

	// cursor moves only in the fence's goroutine, and only after every event up
	// to it has been applied here.
	cursor atomic.Pointer[Cursor]
	// lease is nil while answers from here are forbidden.
	lease atomic.Pointer[lease]
	// complete: every key of the source is here, or marked. Cleared before
	// anything is removed for want of room.
	complete atomic.Bool
	// ended: the history is over; nothing here may be served, stale either.
	ended atomic.Bool
	// released: it holds no keys of a warm, see Store.release. Set before it is used.
	released bool
}

// shard is one lock's part of a memory.
//
// Holding mu guarantees that no event is applied to, and no fill inserted into,
// this part: entry, negative entry and flight of one key always agree.
type shard struct {
	mu  sync.Mutex
	cap int
	lru *simplelru.LRU[string, entry]
	// absent remembers unknown keys until the instant given. It is a memory of its
	// own, so that a flood of made-up keys evicts nothing real.
	absent *simplelru.LRU[string, clock.Instant]
	// flights are the fills under way, by key. One that is no longer here was
	// overtaken, and never inserts.
	flights map[string]*flight
	marks   int
	finds   uint // look-ups so far
	used    used
}

// newMemory makes room for capacity keys. Because keys spread unevenly over the
// shards, each gets its share and four standard deviations more; the whole may
// hold that much above capacity.
func newMemory(capacity int, history string) (*memory, error) {
	m := &memory{history: history, seed: maphash.MakeSeed()}
	m.owners.byID = make(map[string]*owner)
	m.cursor.Store(&noCursor)
	var err error
	if m.sets, err = newKeySets(); err != nil {
		return nil, err
	}
	share := float64(capacity) / shardCount
	perShard := int(math.Ceil(share + 4*math.Sqrt(share)))
	for i := range m.shards {
		sh := &m.shards[i]
		sh.cap = perShard
		sh.flights = make(map[string]*flight)
		// One place more than is ever used: room is made before an insertion, never
		// by the library during one.
		if sh.lru, err = simplelru.NewLRU[string, entry](perShard+1, nil); err != nil {
			return nil, err
		}
		if sh.absent, err = simplelru.NewLRU[string, clock.Instant](max(16, min(perShard/4, 1024)), nil); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *memory) shard(keyID string) *shard {
	sh, _ := m.locate(keyID)
	return sh
}

// locate returns a key's shard and its hash.
func (m *memory) locate(keyID string) (sh *shard, hash uint64) {
	hash = maphash.String(m.seed, keyID)
	return &m.shards[hash&(shardCount-1)], hash
}

// found is what memory says of a key.
type found uint8

const (
	foundNothing found = iota // not here, and absence proves nothing
	foundMark                 // here, but changed since: ask
	foundEntry
	foundAbsent // known not to exist
)

// get looks keyID up. To answer by what it finds, the caller has checked the
// lease of this very memory before, with a clock read before that.
func (m *memory) get(keyID string, now clock.Instant, maxTTL int64) (entry, found) {
	sh, hash := m.locate(keyID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return m.find(sh, keyID, hash, now, maxTTL)
}

// find is get in the key's shard, whose lock the caller holds.
func (m *memory) find(sh *shard, keyID string, hash uint64, now clock.Instant, maxTTL int64) (e entry, f found) {
	// To note each use would cost as much again as to find the key. One in several
	// keeps the keys in use away from the end of the list as well.
	var ok bool
	if sh.finds++; sh.finds%promoteEvery == 0 {
		e, ok = sh.lru.Get(keyID)
	} else {
		e, ok = sh.lru.Peek(keyID)
	}
	if !ok {
		if until, negative := sh.absent.Peek(keyID); negative && now.Before(until) {
			return entry{}, foundAbsent
		}
		// Read after the look-up: complete is cleared before anything is removed,
		// so if it still holds, the key was absent for good reason.
		if m.complete.Load() {
			return entry{}, foundAbsent
		}
		return entry{}, foundNothing
	}
	sh.used.note(hash)
	if e.isMark() || e.owner.get() == ownerAsk || (maxTTL > 0 && int64(now-e.rec.filled()) >= maxTTL) {
		return entry{}, foundMark
	}
	return e, foundEntry
}

// MaxTogether is how many keys are looked for at once; see Reading.Recall.
const MaxTogether = 8

// getAll is get for up to MaxTogether keys. Most of the time that a look-up takes it
// waits for main memory, and the processor begins the next look-up meanwhile, but not
// across the taking of a lock; so all locks are taken before. While it holds one it
// waits for no other: the keys behind a lock that somebody has are looked up by
// themselves, afterwards.
func (m *memory) getAll(into []gotten, now clock.Instant, maxTTL int64) {
	var held uint64 // a bit for each shard
	for i := range into {
		g := &into[i]
		_, g.hash = m.locate(g.keyID)
		if n := g.hash & (shardCount - 1); held>>n&1 == 0 && m.shards[n].mu.TryLock() {
			held |= 1 << n
		}
	}
	for i := range into {
		g := &into[i]
		if n := g.hash & (shardCount - 1); held>>n&1 != 0 {
			g.entry, g.found = m.find(&m.shards[n], g.keyID, g.hash, now, maxTTL)
		}
	}
	for left := held; left != 0; left &= left - 1 {
		m.shards[bits.TrailingZeros64(left)].mu.Unlock()
	}
	for i := range into {
		g := &into[i]
		if n := g.hash & (shardCount - 1); held>>n&1 == 0 {
			g.entry, g.found = m.get(g.keyID, now, maxTTL)
		}
	}
}

// gotten is a key that getAll looks for, and what it found.
type gotten struct {
	keyID string
	hash  uint64
	entry entry
	found found
}

// apply distrusts whatever e can have made untrue: it leaves marks and overtakes
// fills, and never adds trust. Events of a fence (fenced) may also leave a mark
// for a key that is not here, so that absence stays an answer after an issue; a
// message may not, for anyone could have written it. Applying twice is harmless.
//
// It reports whether something in memory was marked. Reset is not handled here:
// a fence that brings one ends the memory.
func (m *memory) apply(e event.Event, fenced bool) bool {
	if e.Kind == event.Reset {
		return false
	}
	m.sets.apply(&e)
	switch e.Kind {
	case event.OwnerChanged:
		// Every fill first, then the owner: a fill that begins in between begins
		// after the event, and may say what it likes; one that began before cannot
		// insert any more when the mark is set, and so cannot undo it.
		for i := range m.shards {
			m.shards[i].overtakeAll()
		}
		return m.owners.mark(e.OwnerID)
	default:
		return m.mark(e.KeyID, fenced)
	}
}

func (m *memory) mark(keyID string, fenced bool) bool {
	sh := m.shard(keyID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.flights, keyID) // its callers keep what it reads; it will not insert
	sh.absent.Remove(keyID)
	old, here := sh.lru.Peek(keyID)
	switch {
	case here && old.isMark():
		return false
	case here:
		sh.put(m, keyID, entry{})
		return true
	case fenced && m.complete.Load():
		sh.put(m, keyID, entry{})
	}
	return false
}

// put stores e under keyID, which it copies if it is new. The caller holds mu.
func (sh *shard) put(m *memory, keyID string, e entry) {
	old, here := sh.lru.Peek(keyID)
	switch {
	case here:
		// Removed and added again: an update in place would keep the old record
		// alive through the old key, which is a part of it.
		sh.lru.Remove(keyID)
		sh.forget(m, old)
	case sh.lru.Len() >= sh.cap:
		m.complete.Store(false) // before the eviction, see get
		if _, evicted, ok := sh.lru.RemoveOldest(); ok {
			sh.forget(m, evicted)
		}
	}
	if e.isMark() {
		sh.marks++
		sh.lru.Add(strings.Clone(keyID), e)
		return
	}
	sh.lru.Add(e.rec.KeyID(), e)
}

// remove takes keyID out because the source does not have it: no eviction, so
// absence stays an answer.
func (sh *shard) remove(m *memory, keyID string) {
	if old, here := sh.lru.Peek(keyID); here {
		sh.lru.Remove(keyID)
		sh.forget(m, old)
	}
}

// forget balances the books for an entry that left the LRU.
func (sh *shard) forget(m *memory, e entry) {
	if e.isMark() {
		sh.marks--
		return
	}
	m.owners.release(e.owner)
}

func (sh *shard) overtakeAll() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	clear(sh.flights)
}

// load inserts a row of a warm into a memory that nobody uses yet. A key that
// comes twice is marked instead. It reports false when there is no room left.
func (m *memory) load(row *Row, rec Record) bool {
	keyID := rec.KeyID()
	sh := m.shard(keyID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.lru.Contains(keyID) {
		sh.put(m, keyID, entry{}) // it came twice: let a fill find out and say so
		return true
	}
	if sh.lru.Len() >= sh.cap {
		return false
	}
	o := m.owners.acquire(rec.OwnerID(), stateOf(row.OwnerSuspended))
	sh.lru.Add(keyID, entry{rec: rec, owner: o})
	return true
}

func stateOf(suspended bool) ownerState {
	if suspended {
		return ownerSuspended
	}
	return ownerActive
}

// count returns how many keys, marks among them, and unknown keys are in memory.
func (m *memory) count() (entries, marks, absent int) {
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.Lock()
		entries += sh.lru.Len()
		marks += sh.marks
		absent += sh.absent.Len()
		sh.mu.Unlock()
	}
	return entries, marks, absent
}
