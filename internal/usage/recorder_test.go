package usage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is a database in memory.
type table struct {
	mu      sync.Mutex
	err     error
	hang    bool // Write waits for the end of its context
	entered chan struct{}
	batches [][]string
	ages    map[string]float64
	prunes  []string
	next    string
}

func (t *table) open(context.Context) (Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return session{t}, t.err
}

type session struct{ t *table }

func (s session) Write(ctx context.Context, keys []string, ages []float64, _ time.Duration) error {
	s.t.mu.Lock()
	hang := s.t.hang
	s.t.mu.Unlock()
	if hang {
		s.t.entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.t.batches = append(s.t.batches, slices.Clone(keys))
	for i, k := range keys {
		s.t.ages[k] = ages[i]
	}
	return nil
}

func (s session) Prune(_ context.Context, from string) (string, int64, error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.t.prunes = append(s.t.prunes, from)
	return s.t.next, 1, nil
}

func (s session) Close() {}

func newRecorder(tb testing.TB, interval time.Duration) (*Recorder, *table) {
	tb.Helper()
	t := &table{ages: make(map[string]float64), entered: make(chan struct{}, 8)}
	r, err := New(Options{
		Open: t.open, Interval: interval, Resolution: time.Minute,
		Clock: clock.New(), Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return r, t
}

// later lets seconds pass, as a note sees them.
func (r *Recorder) later(d time.Duration) {
	r.opts.Clock.Advance(d)
	r.tick()
}

func dropped(r *Recorder, reason string) float64 {
	return testutil.ToFloat64(r.metrics.dropped[reason])
}

func TestTheNewestUseOfEachKeyIsWrittenOnceAndInOrder(t *testing.T) {
	r, db := newRecorder(t, time.Hour)
	for range 3 {
		for _, id := range []string{"pk_b", "pk_a"} {
			r.Note(id)
			r.Note(id)
		}
		r.later(10 * time.Second)
	}
	r.Note("pk_a")
	r.later(5 * time.Second)
	r.round(t.Context(), true)
	if len(db.batches) != 1 || !slices.Equal(db.batches[0], []string{"pk_a", "pk_b"}) {
		t.Fatalf("wrote %q", db.batches)
	}
	for id, want := range map[string]float64{"pk_a": 5, "pk_b": 15} {
		if age := db.ages[id]; age < want || age > want+5 { // a slow machine's seconds count, too
			t.Errorf("%s was used %v s ago, want %v", id, age, want)
		}
	}
	r.round(t.Context(), true)
	if len(db.batches) != 1 {
		t.Errorf("wrote again what was written: %q", db.batches)
	}
	if s := r.Status(); s.Waiting != 0 || s.WrittenAt.IsZero() || s.Failing {
		t.Errorf("status %+v", s)
	}
}

func TestARoundIsWrittenInBatches(t *testing.T) {
	r, db := newRecorder(t, time.Hour)
	const n = 2*batchKeys + 1
	for i := range n {
		r.Note(fmt.Sprintf("pk_%06d", i))
	}
	r.round(t.Context(), true)
	var all []string
	for _, b := range db.batches {
		if len(b) > batchKeys {
			t.Errorf("a batch of %d", len(b))
		}
		all = append(all, b...)
	}
	if len(all) != n || !slices.IsSorted(all) {
		t.Errorf("%d keys, sorted %v", len(all), slices.IsSorted(all))
	}
}

// The collector would run in proportion to the requests.
func TestANoteAllocatesNothing(t *testing.T) {
	r, _ := newRecorder(t, time.Hour)
	ids := make([]string, maxKeys/2)
	for i := range ids {
		ids[i] = fmt.Sprintf("pk_%06d", i)
	}
	i := 0
	if n := testing.AllocsPerRun(len(ids)-1, func() { r.Note(ids[i%len(ids)]); i++ }); n != 0 {
		t.Errorf("%v allocations for a key's first note", n)
	}
	if n := testing.AllocsPerRun(1000, func() { r.Note(ids[0]) }); n != 0 {
		t.Errorf("%v allocations for another note", n)
	}
}

func TestNotesGoOnWhileAWriteHangsAndAreCountedWhenThereIsNoRoom(t *testing.T) {
	r, db := newRecorder(t, time.Hour)
	db.hang = true
	r.Note("pk_first")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.round(ctx, true)
	}()
	<-db.entered
	for i := range 3 * maxKeys { // the parts fill unevenly
		r.Note(fmt.Sprintf("pk_%06d", i))
	}
	if have := dropped(r, droppedFull); have < maxKeys || have > 3*maxKeys {
		t.Errorf("%v uses were dropped", have)
	}
	if n := r.noted(); n != maxKeys {
		t.Errorf("%d keys are kept, there is room for %d", n, maxKeys)
	}
	cancel()
	<-done
}

func TestWhatCannotBeWrittenWaitsForTheNextRoundWithinItsBound(t *testing.T) {
	r, db := newRecorder(t, time.Hour)
	db.err = errors.New("nobody there")
	for i := range maxKeys / 2 {
		r.Note(fmt.Sprintf("pk_%06d", i))
	}
	r.round(t.Context(), true)
	if s := r.Status(); !s.Failing || s.Waiting < maxKeys/4 {
		t.Errorf("status %+v", s)
	}
	for round := range 4 {
		for i := range maxKeys / 2 {
			r.Note(fmt.Sprintf("other_%d_%06d", round, i))
		}
		r.round(t.Context(), true)
	}
	if len(r.pending) != maxKeys || dropped(r, droppedFull) == 0 {
		t.Errorf("%d wait, %v dropped", len(r.pending), dropped(r, droppedFull))
	}
	r.later(time.Hour)
	r.Note("pk_000000") // a key that waits is brought up to date all the same
	db.err = nil
	r.round(t.Context(), true)
	if age, ok := db.ages["pk_000000"]; !ok || age > 60 {
		t.Errorf("pk_000000 was written %v as %v s ago", ok, age)
	}
	if s := r.Status(); s.Failing || s.Waiting != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestAStopWritesWhatWaits(t *testing.T) {
	r, db := newRecorder(t, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	r.Note("pk_1")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, ok := db.ages["pk_1"]; !ok || len(db.prunes) != 0 {
		t.Errorf("written %v, pruned %q", ok, db.prunes)
	}
}

func TestAStopIsNotHeldUpByADatabaseThatHangs(t *testing.T) {
	r, db := newRecorder(t, time.Millisecond)
	db.hang = true
	r.Note("pk_1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	<-db.entered // a round of the regular kind
	began := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > lastTimeout+400*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if dropped(r, droppedStopped) != 1 {
		t.Errorf("%v uses are said to be lost", dropped(r, droppedStopped))
	}
}

func TestManyKeysAreWrittenBeforeThereIsNoRoomForMore(t *testing.T) {
	r, db := newRecorder(t, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	for i := range maxKeys * 3 / 4 {
		r.Note(fmt.Sprintf("pk_%06d", i))
	}
	deadline := time.Now().Add(10 * time.Second)
	for testutil.ToFloat64(r.metrics.written) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("nothing was written, an hour before its time")
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	if n := len(db.ages); n < maxKeys*3/4-int(dropped(r, droppedFull)) {
		t.Errorf("%d keys written", n)
	}
}

func TestPruningGoesOnWhereItStopped(t *testing.T) {
	r, db := newRecorder(t, time.Hour)
	round := func(next string) {
		r.later(time.Second)
		r.Note("pk_m")
		db.next = next
		r.round(t.Context(), true)
	}
	round("pk_x")
	round("")
	round("pk_c")
	if want := []string{"pk_m", "pk_x", ""}; !slices.Equal(db.prunes, want) {
		t.Errorf("went on from %q, want %q", db.prunes, want)
	}
	if n := testutil.ToFloat64(r.metrics.pruned); n != 3 {
		t.Errorf("%v counted", n)
	}
}

// Every key that was noted is written by the end, with the second of its last note or
// one of those at the same time.
func TestNotesOfManyRequestsAtOnceAreNotLost(t *testing.T) {
	r, db := newRecorder(t, time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	var all sync.WaitGroup
	const keys, clients = 500, 4
	for c := range clients {
		all.Go(func() {
			for round := range 40 {
				for i := range keys {
					r.Note(fmt.Sprintf("pk_%04d", (i*7+c+round)%keys))
				}
			}
		})
	}
	all.Wait()
	cancel()
	<-done
	if len(db.ages) != keys || dropped(r, droppedFull)+dropped(r, droppedStopped) != 0 {
		t.Errorf("%d keys written of %d", len(db.ages), keys)
	}
}

// BenchmarkNote is what a look-up pays: for a key that is asked for all the time, and
// for many keys of which few were noted in this second.
func BenchmarkNote(b *testing.B) {
	ids := make([]string, 16384)
	for i := range ids {
		ids[i] = fmt.Sprintf("pk_%06d", i)
	}
	for name, keys := range map[string]int{"one key": 1, "16384 keys": len(ids)} {
		b.Run(name, func(b *testing.B) {
			r, _ := newRecorder(b, time.Hour)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					r.Note(ids[i%keys])
				}
			})
		})
	}
}
