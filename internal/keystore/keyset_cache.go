package keystore

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/keysidecar/keysidecar/internal/event"
)

// How many sets are kept. They cost nothing until somebody asks for one.
const (
	maxSets      = 64
	maxSetsBytes = 8 << 20
	// maxEmptySets is for owners without keys, in a memory of their own, so that a
	// flood of made-up owners evicts no set.
	maxEmptySets = 256
)

// keySets is what a memory holds of owners' keys as sets.
//
// Holding mu guarantees that no event is applied to it and no set inserted.
type keySets struct {
	mu    sync.Mutex
	full  *simplelru.LRU[string, *ownerKeys]
	empty *simplelru.LRU[string, *ownerKeys]
	bytes int
	// flights are the reads under way, by owner. One that is no longer here was
	// overtaken, and never inserts.
	flights map[string]*setFlight
}

func newKeySets() (*keySets, error) {
	c := &keySets{flights: make(map[string]*setFlight)}
	var err error
	if c.full, err = simplelru.NewLRU(maxSets, func(_ string, o *ownerKeys) { c.bytes -= o.bytes }); err != nil {
		return nil, err
	}
	c.empty, err = simplelru.NewLRU[string, *ownerKeys](maxEmptySets, nil)
	return c, err
}

// get returns what is held of an owner, or nil. To answer by it, the caller has
// checked the lease of this very memory before, with a clock read before that.
func (c *keySets) get(ownerID string) *ownerKeys {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o, ok := c.full.Get(ownerID); ok {
		return o
	}
	o, _ := c.empty.Get(ownerID)
	return o
}

// put holds o instead of what is held of its owner. The caller holds mu.
func (c *keySets) put(o *ownerKeys) {
	c.drop(o.ownerID)
	if len(o.keys) == 0 && !o.tooLarge {
		c.empty.Add(o.ownerID, o)
		return
	}
	c.bytes += o.bytes
	c.full.Add(o.ownerID, o)
	for c.bytes > maxSetsBytes {
		c.full.RemoveOldest()
	}
}

// drop forgets an owner. The caller holds mu.
func (c *keySets) drop(ownerID string) {
	c.full.Remove(ownerID)
	c.empty.Remove(ownerID)
}

// apply distrusts every set that e can have made untrue: the owner's that it names,
// and any that holds its key, for the event names one owner of two when a key was
// given to another, and a view may name its owners differently than their events do.
// An event that names no owner may be of any. Reads under way are held against e when
// they land.
func (c *keySets) apply(e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.OwnerID == "" {
		c.full.Purge()
		c.empty.Purge()
		clear(c.flights)
		return
	}
	c.drop(e.OwnerID)
	delete(c.flights, e.OwnerID)
	if e.KeyID == "" {
		return
	}
	for _, o := range c.full.Values() {
		if o.holds(e.KeyID) {
			c.drop(o.ownerID)
		}
	}
	for ownerID, f := range c.flights {
		if f.touched = append(f.touched, e.KeyID); len(f.touched) > maxTouched {
			delete(c.flights, ownerID)
		}
	}
}

// maxTouched is how many events a read under way may be held against.
const maxTouched = 4096

// size returns how many sets are held, and how large they are.
func (c *keySets) size() (sets, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full.Len() + c.empty.Len(), c.bytes
}
