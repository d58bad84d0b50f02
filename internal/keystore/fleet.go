package keystore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
)

// reportEvery is how often a fence reports although the cursor has not moved, so
// that the relay can tell a running sidecar from one that is gone.
const reportEvery = time.Minute

// spreadEach is by how much each member of the fleet lengthens the time over which
// fences that follow a message are spread: twice what a fence and a report cost the
// database, which has other things to do, too.
const spreadEach = time.Millisecond

// failedKept bounds how many registrations of unknown outcome are remembered.
const failedKept = 16

// Why this process has no right to ask.
var (
	errNotMember  = errors.New("this process is not in the registry any more")
	errNotAllowed = errors.New("fleet.report is false, and the setting fleet.unreported_ms does not allow this bound; see keysidecar.allow_unreported")
)

// enrolment is this process's place among those that receipts wait for.
//
// The registration is durable before the first question is asked under it, and
// every question carries the one it was asked under: an answer whose snapshot shows
// that entry missing or marked is void. So whoever is not seen by a waiter holds
// nothing that lacks the event waited for.
type enrolment struct {
	current atomic.Pointer[uuid.UUID] // nil: none. Written by the fence's goroutine.

	// The rest belongs to the fence's goroutine.
	failed     []uuid.UUID // attempts whose outcome was never learned; one may yet be committed
	once       bool        // registered before
	reported   Cursor
	refused    Cursor // could not be put down: the database lets nobody write
	reportedAt clock.Instant
	fleet      int
}

// promise is how long after a question this process may answer by what it was told.
func (s *Store) promise() time.Duration { return max(s.opts.MaxStaleness, s.opts.StaleLimit) }

// membership is by what right this process asks now; ok is false before it has one.
func (s *Store) membership() (by Membership, ok bool) {
	if !s.opts.Report {
		return Membership{Bound: s.promise()}, true
	}
	id := s.enrolment.current.Load()
	if id == nil {
		return Membership{}, false
	}
	return Membership{Registration: *id, Bound: s.promise()}, true
}

// enrol registers this process if it is not.
func (s *Store) enrol(ctx context.Context) error {
	e := &s.enrolment
	if !s.opts.Report || e.current.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	id := uuid.New()
	fleet, err := s.source.Register(ctx, Incarnation{
		Registration: id, Failed: e.failed, Starting: !e.once, Instance: s.opts.Instance, Version: s.opts.Version,
		MaxStaleness: s.opts.MaxStaleness, StaleLimit: s.opts.StaleLimit,
	})
	if err != nil {
		// It may have been entered all the same; nothing was or will be asked under it.
		e.failed = append(e.failed, id)
		if excess := len(e.failed) - failedKept; excess > 0 {
			e.failed = e.failed[excess:]
		}
		return err
	}
	e.fleet, e.reported, e.refused, e.once = fleet, noCursor, noCursor, true
	e.current.Store(&id)
	s.metrics.registrations.Inc()
	s.log.Info("registered", zap.Stringer("registration", id), zap.Int("fleet", fleet))
	return nil
}

// void gives the registration up: the relay took this process for gone.
func (s *Store) void() error {
	if !s.opts.Report {
		return errNotAllowed
	}
	s.enrolment.current.Store(nil)
	s.log.Warn("no longer registered, registering again")
	return errNotMember
}

// signOff leaves the registry. The caller has made sure that nothing is answered
// any more. Best effort: the relay finds out in any case.
func (s *Store) signOff() {
	mine := s.enrolment.failed
	if id := s.enrolment.current.Swap(nil); id != nil {
		mine = append(mine, *id)
	}
	if len(mine) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), signOffTimeout)
	defer cancel()
	if err := s.source.SignOff(ctx, mine); err != nil {
		s.log.Info("could not sign off; receipts wait for this sidecar until its bound has passed", zap.Error(err))
	}
}

// registerTimeout is more than a fence's: without a registration there is nothing
// to be late for.
const registerTimeout = 2 * time.Second

const signOffTimeout = 300 * time.Millisecond

// question is what the next fence from at asks.
func (s *Store) question(m *memory, at Cursor, now clock.Instant) (FenceQuestion, error) {
	by, ok := s.membership()
	if !ok {
		return FenceQuestion{}, fmt.Errorf("%w: it never was", errNotMember)
	}
	return FenceQuestion{
		At: at, Limit: s.pageRows, By: by, Timeline: m.timeline,
		Report: s.owesReport(at) || s.opts.Report && now.Sub(s.enrolment.reportedAt) >= reportEvery,
	}, nil
}

// owesReport: at has been reached and not yet told, nor refused to be heard.
func (s *Store) owesReport(at Cursor) bool {
	return s.opts.Report && s.enrolment.reported != at && s.enrolment.refused != at
}

// noteReport is called when the answer to q is not void.
func (s *Store) noteReport(page *Page, q *FenceQuestion, asked clock.Instant) {
	e := &s.enrolment
	switch {
	case !q.Report:
		return
	case !page.Reported:
		// Not again before the cursor moves, or a minute later; receipts wait for L.
		e.refused, e.reportedAt = q.At, asked
		return
	}
	e.reported, e.refused, e.reportedAt = q.At, noCursor, asked
	if page.Fleet > 0 {
		e.fleet = page.Fleet
	}
	s.metrics.reports.Inc()
}

// spread is the time over which the fences of a fleet are spread after a message, and
// its first warms.
func (s *Store) spread() time.Duration {
	return min(time.Duration(s.enrolment.fleet)*spreadEach, s.opts.FenceInterval)
}

// recentKept is how many events recent remembers.
const recentKept = 1024

// recent remembers when this process learned of the newest events, for receipts.
type recent struct {
	mu     sync.Mutex
	events [recentKept]learned
	next   int
}

type learned struct {
	timeline string
	seq      int64
	id       uuid.UUID
	at       clock.Instant
}

// add notes events that an answer brought which arrived at at.
func (r *recent) add(timeline string, events []event.Event, at clock.Instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events[max(0, len(events)-recentKept):] {
		r.put(learned{timeline, e.Seq, e.ID, at})
	}
}

func (r *recent) put(l learned) {
	r.events[r.next] = l
	r.next = (r.next + 1) % recentKept
}

// Learned remembers that this process knew of an event at at; see Known.
func (s *Store) Learned(timeline string, seq int64, id uuid.UUID, at clock.Instant) {
	s.recent.mu.Lock()
	defer s.recent.mu.Unlock()
	s.recent.put(learned{timeline, seq, id, at})
}

// Known returns a moment at which this process knew that the log of this timeline
// holds the event, if it remembers one. The identity is compared, too: after a
// failover another event may have the number, and the same one counts anew.
func (s *Store) Known(timeline string, seq int64, id uuid.UUID) (clock.Instant, bool) {
	r := &s.recent
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.events {
		if l := &r.events[i]; l.seq == seq && l.id == id && l.timeline == timeline {
			return l.at, true
		}
	}
	return 0, false
}
