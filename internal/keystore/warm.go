package keystore

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// errFull ends a warm that has no room for more keys.
var errFull = errors.New("capacity reached")

// warm builds a new memory beside the present one from one snapshot of the
// source. The result has a cursor but no lease: only a fence from that cursor may
// grant one, and every event since the snapshot comes with it. So a key that was
// revoked while the warm was reading is marked before the first answer, and
// messages need not be applied to a memory that is being built. The fence also
// brings what a snapshot cannot be trusted with (TRUNCATE is not MVCC-safe in
// Postgres: an old snapshot may read an emptied table).
func (s *Store) warm(ctx context.Context) (*memory, error) {
	m, err := newMemory(s.opts.Capacity, "")
	if err != nil {
		return nil, err
	}
	if s.opts.DuringWarm != nil {
		defer s.opts.DuringWarm()()
	}
	ctx, stall := watchForStall(ctx)
	defer stall.stop()
	begun := s.clock.Now()
	progress := &warmProgress{log: s.log, every: 5 * time.Second, last: begun, begun: begun}
	loaded, skipped := 0, 0
	var scratch []byte
	m.complete.Store(true)
	err = s.source.Warm(ctx, s.opts.Capacity+1,
		func(h Head) error {
			s.metrics.captureIntact(h.CaptureIntact)
			if !h.CaptureIntact {
				return errCaptureLost
			}
			if err := s.release(s.mem.Load()); err != nil {
				return err
			}
			m.timeline = h.Timeline
			m.history, m.endings = historyName(h.Timeline, s.histories), s.histories
			at := h.Cursor
			m.cursor.Store(&at)
			progress.total = h.Keys
			return nil
		},
		func(row *Row) error {
			stall.moved(loaded+skipped == 0)
			if err := row.check(); err != nil {
				// Left out, and so "ask the source", which will refuse it by name.
				m.complete.Store(false)
				if skipped++; skipped <= unusableShown {
					s.log.Warn("a row cannot be used and is never answered valid", zap.Error(err))
				}
				return nil
			}
			// Read a little earlier than it was, so that max_ttl ends not all at once.
			scratch = row.pack(scratch[:0], max(0, begun.Add(-jitter(s.opts.MaxTTL/2))))
			if loaded >= s.opts.Capacity || !m.load(row, Record{packed: string(scratch)}) {
				m.complete.Store(false)
				return errFull
			}
			if loaded++; loaded%4096 == 0 || loaded == 1 {
				progress.report(loaded, s.clock.Now())
				s.metrics.warmRows.Set(float64(loaded))
			}
			return nil
		})
	switch {
	case errors.Is(err, errFull):
		err = nil
	case err != nil && errors.Is(context.Cause(ctx), errStalled):
		err = context.Cause(ctx)
	}
	if err == nil && *m.cursor.Load() == noCursor {
		err = fmt.Errorf("%w: the log is empty; run keysidecar migrate", ErrSchema)
	}
	took := s.clock.Now().Sub(begun)
	s.metrics.warm(err, took, loaded)
	if err != nil {
		return nil, err
	}
	s.log.Info("warmed", zap.Int("keys", loaded), zap.Int("unusable_rows", skipped), zap.Bool("complete", m.complete.Load()),
		zap.Int64("seq", m.cursor.Load().Seq), zap.Duration("took", took))
	return m, nil
}

// unusableShown is how many unusable rows of a warm are logged one by one.
const unusableShown = 10

// A warm has no time limit as a whole, for it may be long, but one between signs
// of life: a row must arrive in each period of warmNextRows. The first row may wait
// for a lock, or for a plan that reads much before it.
const (
	warmFirstRow = 15 * time.Second
	warmNextRows = 2 * time.Second
)

var errStalled = fmt.Errorf("no row arrived in time: %w", context.DeadlineExceeded)

// stall cancels a context when rows stop arriving.
type stall struct {
	timer  *time.Timer
	alive  atomic.Bool // a row has arrived since the last check
	cancel context.CancelCauseFunc
}

func watchForStall(ctx context.Context) (context.Context, *stall) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stall{cancel: cancel}
	s.timer = time.AfterFunc(time.Hour, s.check)
	s.timer.Reset(warmFirstRow) // only now, for check uses the timer
	return ctx, s
}

// moved notes a row. It is cheap enough to be called for each.
func (s *stall) moved(first bool) {
	s.alive.Store(true)
	if first {
		s.timer.Reset(warmNextRows)
	}
}

func (s *stall) check() {
	if s.alive.Swap(false) {
		s.timer.Reset(warmNextRows)
		return
	}
	s.cancel(errStalled)
}

func (s *stall) stop() {
	s.cancel(nil)
	s.timer.Stop()
}

// adopt makes m the memory that look-ups use. It has no lease yet, and the old
// one takes its lease, its entries and its fills with it: a look-up stays in the
// memory it began in or begins again in this one.
func (s *Store) adopt(m *memory) {
	s.mem.Load().lease.Store(nil)
	s.mem.Store(m)
	// What the warm used beyond the keys. Nobody waits for it, Run least of all: with
	// very many keys on a busy machine it takes longer than stopping may.
	go debug.FreeOSMemory()
}

// release lets go of what an ended memory holds when the first row of the next one is
// about to come, so that there are never two copies of all keys. Nothing in it may
// be answered any more. Look-ups go on in an empty memory of the same history, ended
// like it: they are reads of their own, within the budget of keys that nobody has
// heard of, until the warm is adopted.
func (s *Store) release(m *memory) error {
	if !m.ended.Load() || m.released {
		return nil
	}
	empty, err := newMemory(1, m.history)
	if err != nil {
		return err
	}
	empty.endings, empty.timeline, empty.released = m.endings, m.timeline, true
	empty.cursor.Store(m.cursor.Load())
	empty.ended.Store(true)
	s.mem.Store(empty)
	debug.FreeOSMemory() // the warm's own garbage must not come on top
	return nil
}

// historyName is a short name for a line of events, the same in every sidecar
// that has seen the same timeline and as many endings.
func historyName(timeline string, endings int) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%d", timeline, endings)
	return fmt.Sprintf("%08x", h.Sum32())
}
