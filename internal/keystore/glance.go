package keystore

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Glance is what a status page draws over time. Taking one costs a few atomic
// reads, so that it can be taken every second.
type Glance struct {
	// Warmed, Fresh and ServesStale are Status's.
	Warmed, Fresh, ServesStale bool
	// Oldest is how old what memory answers by became, at most, since the glance
	// before: its age just before each renewal, and now. 0 without a lease.
	Oldest time.Duration
	// Lookups are those since the process started.
	Lookups Lookups
}

// Lookups counts look-ups by how they were answered.
type Lookups struct {
	// Memory: at once, also that there is no such key. Read: after reading the
	// store. Stale: by memory after its lease. Unavailable: not at all.
	Memory, Read, Stale, Unavailable uint64
}

// peak holds the greatest duration since it was last taken.
type peak struct{ ns atomic.Int64 }

func (p *peak) note(d time.Duration) {
	for {
		was := p.ns.Load()
		if int64(d) <= was || p.ns.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

func (p *peak) take() time.Duration { return time.Duration(p.ns.Swap(0)) }

// Glance returns what there is to draw now, and begins to look for the oldest anew:
// it is for one caller.
func (s *Store) Glance() Glance {
	m := s.mem.Load()
	l := m.lease.Load()
	now := s.clock.Now()
	g := Glance{Fresh: l.covers(now, 0), Oldest: s.oldest.take(), Lookups: s.metrics.lookups()}
	select {
	case <-s.warmed:
		g.Warmed = true
	default:
	}
	if l != nil {
		g.Oldest = max(g.Oldest, now.Sub(l.asked))
	}
	g.ServesStale = !g.Fresh && s.opts.StaleLimit > 0 && !m.ended.Load() && l.coversStale(now)
	return g
}

// Lookups counts the look-ups answered since the process started.
func (s *Store) Lookups() Lookups { return s.metrics.lookups() }

// announce notes the number of an event that a message named. Nothing is decided by
// it: a message may be forged.
func (s *Store) announce(seq int64) {
	for {
		was := s.announced.Load()
		if seq <= was || s.announced.CompareAndSwap(was, seq) {
			return
		}
	}
}

// lookups adds up the look-ups answered so far.
func (m *metrics) lookups() (n Lookups) {
	for c := range m.answers {
		if Code(c) == Unavailable {
			continue // these are counted by their reasons
		}
		n.Memory += count(m.answers[c][FromCache])
		n.Read += count(m.answers[c][FromDatabase])
		n.Stale += count(m.answers[c][FromStale])
	}
	for _, c := range m.reasons {
		n.Unavailable += count(c)
	}
	return n
}

// count is a counter's value; 0 if it cannot be read, which no counter does.
func count(c prometheus.Counter) uint64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return uint64(m.GetCounter().GetValue())
}
