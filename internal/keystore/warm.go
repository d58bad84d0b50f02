package keystore

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime/debug"
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
	ctx, stall := withStallTimeout(ctx, warmFirstRow)
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
			m.timeline = h.Timeline
			m.history = historyName(h.Timeline, s.histories)
			at := h.Cursor
			m.cursor.Store(&at)
			progress.total = h.Keys
			return nil
		},
		func(row *Row) error {
			if err := row.check(); err != nil {
				// Left out, and so "ask the source", which will refuse it by name.
				skipped++
				m.complete.Store(false)
				s.log.Warn("a row cannot be used and is never answered valid", zap.Error(err))
				return nil
			}
			scratch = row.pack(scratch[:0], begun)
			if loaded >= s.opts.Capacity || !m.load(row, Record{packed: string(scratch)}) {
				m.complete.Store(false)
				return errFull
			}
			if loaded++; loaded%4096 == 0 || loaded == 1 {
				stall.reset(warmNextRows)
				progress.report(loaded, s.clock.Now())
				s.metrics.warmRows.Set(float64(loaded))
			}
			return nil
		})
	if errors.Is(err, errFull) {
		err = nil
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

// A warm has no time limit as a whole, for it may be long, but one between signs
// of life. The first row may wait for a plan that reads much before it.
const (
	warmFirstRow = 15 * time.Second
	warmNextRows = 2 * time.Second
)

// stallTimer cancels a context when it is not reset in time.
type stallTimer struct {
	timer  *time.Timer
	cancel context.CancelFunc
}

func withStallTimeout(ctx context.Context, first time.Duration) (context.Context, stallTimer) {
	ctx, cancel := context.WithCancelCause(ctx)
	give := func() { cancel(fmt.Errorf("no row arrived in time: %w", context.DeadlineExceeded)) }
	return ctx, stallTimer{timer: time.AfterFunc(first, give), cancel: func() { cancel(nil) }}
}

func (t stallTimer) reset(d time.Duration) { t.timer.Reset(d) }

func (t stallTimer) stop() {
	t.timer.Stop()
	t.cancel()
}

// adopt makes m the memory that look-ups use. It has no lease yet, and the old
// one takes its lease, its entries and its fills with it: a look-up stays in the
// memory it began in or begins again in this one.
func (s *Store) adopt(m *memory) {
	s.mem.Load().lease.Store(nil)
	s.mem.Store(m)
	s.fills.Add(1)
	go func() {
		defer s.fills.Done()
		debug.FreeOSMemory() // what the warm used beyond the keys, and the old memory
	}()
}

// historyName is a short name for a line of events, the same in every sidecar
// that has seen the same timeline and as many endings.
func historyName(timeline string, endings int) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%d", timeline, endings)
	return fmt.Sprintf("%08x", h.Sum32())
}
