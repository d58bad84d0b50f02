package keystore

import (
	"github.com/keysidecar/keysidecar/internal/event"
)

const (
	// usedSlots is how many keys each shard remembers as used. A power of two.
	usedSlots = 256
	// refillsKept bounds the refills that one round of fences begins.
	refillsKept = 256
)

// used remembers which keys were looked up last, roughly: each key has one slot, by
// its hash, and takes it from the key that had it before. A zero tag is nobody's.
//
// It decides nothing but which changed keys are read ahead of their next request.
type used [usedSlots]uint32

// slot returns where a key of this hash is remembered, and as what. The lowest bits
// choose the shard (memory.locate) and so say nothing here.
func slot(hash uint64) (at uint8, tag uint32) {
	return uint8(hash >> 8), uint32(hash>>32) | 1 //nolint:gosec // parts of a hash
}

func (u *used) note(hash uint64) {
	at, tag := slot(hash)
	u[at] = tag
}

func (u *used) has(hash uint64) bool {
	at, tag := slot(hash)
	return u[at] == tag
}

// wanted reports whether keyID is a mark in m that was an entry in use.
func (m *memory) wanted(keyID string) bool {
	sh, hash := m.locate(keyID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, here := sh.lru.Peek(keyID)
	return here && e.isMark() && sh.used.has(hash)
}

// collect adds the changed keys of a page that are in use to those to be read again.
// Only a change asks for that: a key that is gone will rarely be asked for, and that
// can wait for the request.
func (s *Store) collect(m *memory, events []event.Event) {
	for i := range events {
		if events[i].Kind == event.Changed && m.wanted(events[i].KeyID) {
			s.refills = append(s.refills, events[i].KeyID)
		}
	}
	if excess := len(s.refills) - refillsKept; excess > 0 {
		s.refills = s.refills[excess:]
	}
}

// refill reads the collected keys, one after the other, so that their next requests
// find them in memory. It is called after the lease was renewed: what is read now
// is known to be of the cursor and may stay. Whatever goes wrong is left to the next
// request.
func (s *Store) refill(m *memory) {
	keys := s.refills
	s.refills = nil
	if len(keys) == 0 || !s.refilling.CompareAndSwap(false, true) {
		return
	}
	s.fills.Add(1)
	go func() {
		defer s.fills.Done()
		defer s.refilling.Store(false)
		for _, keyID := range keys {
			if !m.wanted(keyID) {
				continue
			}
			f, err := s.join(m, keyID, true, s.clock.Now())
			if err != nil {
				return
			}
			s.metrics.refills.Inc()
			<-f.done // ends with the fill's own time-out
		}
	}()
}
