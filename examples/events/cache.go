package main

import (
	"sync"
	"time"
)

// cache holds the keys that may be used, each for at most ttl, and only while the
// events are being heard. A refusal is not kept: asking again is cheap, and nobody is
// harmed by it.
type cache struct {
	ttl  time.Duration
	size int

	mu sync.Mutex
	// hearing: a queue is bound and read. Without it nothing is kept or answered.
	hearing bool
	// seq is the newest event that was read, or that an answer in here reflects.
	seq int64
	// read is when seq last rose.
	read time.Time
	// based: every event up to seq was read or is reflected by what is in here.
	based bool
	// generation counts how often everything was forgotten.
	generation int
	// history is the log that seq counts in, as answers call it.
	history string
	entries map[string]entry
}

type entry struct {
	owner string
	until time.Time
}

func newCache(ttl time.Duration, size int) *cache {
	return &cache{ttl: ttl, size: size, seq: -1, entries: make(map[string]entry)}
}

// has reports whether the key may be used as far as is known here.
func (c *cache) has(keyID string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[keyID]
	return ok && now.Before(e.until)
}

// question is what keep must know of how the sidecar was asked.
type question struct {
	// asked is when, before the question was sent: an answer is as old as its question.
	asked      time.Time
	generation int
	// fresh: the sidecar is to answer only by what Postgres says from now on. It is asked
	// so when events may have been published that nobody here will see: the sidecar
	// may not have read them yet.
	fresh bool
}

// ask begins a question.
func (c *cache) ask(now time.Time) question {
	c.mu.Lock()
	defer c.mu.Unlock()
	return question{now, c.generation, !c.based}
}

// keep keeps the verdict that the sidecar gave, unless it may be older than an event
// that was read here already. The sidecar reads the same messages and may be later:
// what it answers meanwhile is within its own bound, and would not be within ours.
func (c *cache) keep(v verdict, q question) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hearing || q.generation != c.generation {
		return
	}
	if v.AsOf.Seq < c.seq {
		if q.asked.Sub(c.read) > c.ttl { // so long behind: that number was forged, or another log's
			c.forget()
		}
		return
	}
	if !c.based { // and the question was a fresh one
		c.based, c.seq, c.history, c.read = true, v.AsOf.Seq, v.AsOf.History, q.asked
	}
	if v.AsOf.History != c.history { // numbers begin anew
		c.forget()
		return
	}
	e := entry{owner: v.OwnerID, until: q.asked.Add(c.ttl)}
	if v.ExpiresAt != nil && v.ExpiresAt.Before(e.until) {
		e.until = *v.ExpiresAt
	}
	for other := range c.entries {
		if len(c.entries) < c.size {
			break
		}
		delete(c.entries, other)
	}
	c.entries[v.KeyID] = e
}

// apply evicts what an event is about. A gap in the numbers, and whatever cannot be
// read, may have been about any key.
func (c *cache) apply(e event, readable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !readable {
		c.forget()
		return
	}
	if e.Seq > c.seq && e.Prev != c.seq {
		clear(c.entries)
	}
	if e.Seq > c.seq {
		c.seq, c.read = e.Seq, time.Now()
	}
	switch e.Kind {
	case "issued", "changed", "revoked", "deleted":
		delete(c.entries, e.KeyID)
	case "owner_changed":
		for keyID, kept := range c.entries {
			if kept.owner == e.OwnerID {
				delete(c.entries, keyID)
			}
		}
	default: // reset, and kinds that this program does not know
		clear(c.entries)
	}
}

// hear says whether events are being heard from now on. Either way nothing from
// before is worth anything.
func (c *cache) hear(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hearing = yes
	c.forget()
}

// forget forgets everything, also up to where the log was known.
func (c *cache) forget() {
	clear(c.entries)
	c.seq, c.based = -1, false
	c.generation++
}
