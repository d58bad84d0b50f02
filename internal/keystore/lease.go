package keystore

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// lease is the right to answer from one memory, as the last complete fence
// granted it. Immutable.
type lease struct {
	// asked was read before the fence's question was sent: the state that came
	// back is at most as old as that.
	asked clock.Instant
	// until is when the right ends: asked + L, less what the clock may be wrong by.
	until clock.Instant
	// staleUntil is when serve_stale ends, reckoned alike from stale_limit; equal to
	// until under fail_closed.
	staleUntil clock.Instant
	// seq is the cursor that the fence proved.
	seq int64
	now dbClock
}

// covers reports whether the lease runs at now and was asked for at or after
// notBefore (a caller's own bound; the zero Instant asks for nothing).
func (l *lease) covers(now, notBefore clock.Instant) bool {
	return l != nil && now.Before(l.until) && !l.asked.Before(notBefore)
}

func (l *lease) coversStale(now clock.Instant) bool {
	return l != nil && now.Before(l.staleUntil)
}

// dbClock maps boot time to the source's wall clock. The source's reading was
// taken somewhere between the question and its answer, so the mapping is an
// interval: a key must be inside its life at both ends of it.
type dbClock struct {
	// micros since the epoch = boot microseconds + offset
	earliest, latest int64
}

func newDBClock(at time.Time, asked, answered clock.Instant) dbClock {
	us := at.UnixMicro()
	return dbClock{earliest: us - int64(answered)/1000, latest: us - int64(asked)/1000}
}

// judge gives the verdict on a record at now.
func (c dbClock) judge(rec Record, owner ownerState, now clock.Instant) Code {
	us := int64(now) / 1000
	switch {
	case rec.Revoked():
		return Revoked
	case owner != ownerActive:
		return OwnerSuspended
	case us+c.latest >= rec.expiresAt():
		return Expired
	case us+c.earliest < rec.notBefore():
		return NotYetValid
	}
	return Active
}

// within reports whether a key of this life, in microseconds since the epoch, may be
// used at now.
func (c dbClock) within(notBefore, expiresAt int64, now clock.Instant) bool {
	us := int64(now) / 1000
	return us+c.latest < expiresAt && us+c.earliest >= notBefore
}

// pulse tells waiting look-ups that a fence has ended, well or badly.
type pulse struct {
	mu   sync.Mutex
	beat chan struct{} // closed and replaced at the end of each round
	// failing: the last round failed, and so nobody need wait for the next.
	failing atomic.Bool
}

func newPulse() *pulse { return &pulse{beat: make(chan struct{})} }

func (p *pulse) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beat
}

func (p *pulse) end(ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failing.Store(!ok)
	close(p.beat)
	p.beat = make(chan struct{})
}
