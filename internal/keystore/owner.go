package keystore

import (
	"strings"
	"sync"
	"sync/atomic"
)

// ownerState is what memory knows of an owner.
type ownerState uint32

const (
	ownerActive ownerState = iota
	ownerSuspended
	// ownerAsk: an event named the owner; the next fill of any of its keys says.
	ownerAsk
)

// owner is shared by every entry of its keys, so that one event turns all of
// them off without touching any.
type owner struct {
	id    string
	state atomic.Uint32
	refs  int // entries that point here; guarded by owners.mu
}

func (o *owner) get() ownerState  { return ownerState(o.state.Load()) }
func (o *owner) set(s ownerState) { o.state.Store(uint32(s)) }

// owners interns owners and forgets those without a key in memory.
//
// Lock order: a shard's mu before owners.mu.
type owners struct {
	mu   sync.Mutex
	byID map[string]*owner
}

// acquire returns the owner called id with one more reference. learned is the
// state just read with one of its keys, at the cursor.
func (t *owners) acquire(id string, learned ownerState) *owner {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.byID[id]
	if o == nil {
		id = strings.Clone(id) // not a part of the record that happened to come first
		o = &owner{id: id}
		t.byID[id] = o
	}
	o.refs++
	o.set(learned)
	return o
}

// release takes back one reference. A nil owner (a mark's) has none.
func (t *owners) release(o *owner) {
	if o == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.refs--; o.refs == 0 {
		delete(t.byID, o.id)
	}
}

// mark makes every key of the owner ask the source. It reports whether any key of
// the owner is in memory.
func (t *owners) mark(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.byID[id]
	if o == nil {
		return false
	}
	o.set(ownerAsk)
	return true
}
