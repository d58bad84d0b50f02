package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
	"github.com/keysidecar/keysidecar/test/history"
	"github.com/keysidecar/keysidecar/test/load"
)

// Options say what a run is.
type Options struct {
	// Dir receives the history and the programs.
	Dir  string
	Seed uint64
	// Duration is how long faults go on; 0: until every kind was hit once.
	Duration time.Duration
	// Short makes faults last this part of what they would; 0 is 1.
	Short float64
	Fleet []Spec
	// Promise is what the fleet is configured to keep; zero is DefaultPromise.
	Promise Promise
	Race    bool
	// Kinds are drawn from, evenly.
	Kinds []Kind
	// AtOnce is how many faults there are at most at a time; without a Duration
	// always, if there are still as many that go together.
	AtOnce int
	// InARow is how many kinds of a group there are in a round, one after the other
	// (default 1).
	InARow int
	// Rate is the background requests a second for each sidecar, Revocations those
	// of the whole run.
	Rate, Revocations float64
	// Receipts is the share of revocations that a receipt is asked for.
	Receipts float64
	// Command is how the run was started, for the report.
	Command string
	// Before, if set, is called before the load begins; During instead of faults at
	// random.
	Before, During func(ctx context.Context, w *World) error
	// Log is told what happens.
	Log func(format string, args ...any)
}

// Hit is a fault that there was.
type Hit struct {
	Kind, Detail string
	// Lasted is from when it began until it was mended.
	Lasted time.Duration
}

// Result is what a run leaves, besides its history.
type Result struct {
	History    string
	Hits       []Hit
	Recoveries []Recovery
	// Faulty is for how long at least one fault was there, Took the whole.
	Faulty, Took time.Duration
	Machine      []string
}

// runner is a run under way.
type runner struct {
	Options
	world   *World
	history *history.Writer
	rng     *rand.Rand
	deck    []Kind
	result  Result

	mu      sync.Mutex
	number  int // of the last incarnation
	present map[*Sidecar]*history.Incarnation
	all     map[*Sidecar][]*history.Incarnation
	probers map[*Sidecar]*load.Prober
	hit     map[string]int
}

// Run starts a world and breaks it. The error says what went wrong with the run,
// or which promise a fault found broken by itself; the verdict on the bound is in
// the history.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	r := &runner{
		Options: o, rng: rand.New(rand.NewPCG(o.Seed, 0)),
		present: map[*Sidecar]*history.Incarnation{}, all: map[*Sidecar][]*history.Incarnation{}, probers: map[*Sidecar]*load.Prober{},
		hit: map[string]int{},
	}
	if r.Short == 0 {
		r.Short = 1
	}
	if r.Promise == (Promise{}) {
		r.Promise = DefaultPromise()
	}
	path := filepath.Join(o.Dir, fmt.Sprintf("history-%d", o.Seed))
	if r.history, err = history.Create(path); err != nil {
		return nil, err
	}
	r.result.History = path
	defer func() { err = errors.Join(err, r.history.Close()) }()
	began := history.Now()
	if r.world, err = Start(ctx, o.Dir, o.Race, o.Promise, o.Fleet); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.world.Close()) }()
	r.meta(ctx, began)
	err = r.run(ctx)
	if err == nil && o.Race && strings.Contains(r.world.Cluster.Logs(), "DATA RACE") {
		err = errors.New("the race detector found something")
	}
	if err != nil {
		err = errors.Join(err, r.keepLogs())
	}
	return &r.result, err
}

// keepLogs saves what all processes printed beside the history.
func (r *runner) keepLogs() error {
	path := r.result.History + ".log"
	if err := os.WriteFile(path, []byte(r.world.Cluster.Logs()+r.world.Primary().Log()+r.world.MQ.Log()), 0o600); err != nil {
		return err
	}
	return fmt.Errorf("history and logs are kept in %s", filepath.Dir(path))
}

func (r *runner) meta(ctx context.Context, began int64) {
	version, err := r.world.Cluster.Command(ctx, "version")
	if err != nil {
		version = err.Error()
	}
	version = strings.Join(strings.Fields(version), " ")
	machine, err := r.world.machine(ctx)
	if err != nil {
		machine = []string{err.Error()}
	}
	r.result.Machine = append([]string{version}, machine...)
	version += ", source " + evidence.Revision(ctx)
	r.history.Add(&history.Meta{
		Seed: r.Seed, MaxStaleness: r.Promise.MaxStaleness, FenceInterval: r.Promise.FenceInterval, Version: version,
		Command: r.Command, Started: time.Now(), Began: began,
	})
	for _, s := range r.world.Sidecars {
		r.started(s)
	}
	r.world.Started, r.world.Ended = r.started, r.ended
}

// started and ended keep the book of incarnations.
func (r *runner) started(s *Sidecar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.number++
	i := &history.Incarnation{Name: s.Name, Process: r.number, Began: history.Now(), Bound: s.Bound()}
	r.present[s] = i
	r.all[s] = append(r.all[s], i)
	r.history.Add(i)
	if p := r.probers[s]; p != nil {
		p.SetProcess(i.Process)
	}
}

func (r *runner) ended(s *Sidecar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended := *r.present[s]
	ended.Ended = history.Now()
	*r.present[s] = ended
	r.history.Add(&ended)
}

// processes are the incarnations of part that lived since.
func (r *runner) processes(part []*Sidecar, since int64) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var numbers []int
	for _, s := range part {
		for _, i := range r.all[s] {
			if i.Ended == 0 || i.Ended >= since {
				numbers = append(numbers, i.Process)
			}
		}
	}
	return numbers
}

// run drives load and faults.
func (r *runner) run(ctx context.Context) error {
	if r.Before != nil {
		if err := r.Before(ctx, r.world); err != nil {
			return err
		}
	}
	watch := new(load.Watch)
	revoker, receipts, err := r.drivers(watch)
	if err != nil {
		return err
	}
	asking, stopAsking := context.WithCancel(ctx)
	revoking, stopRevoking := context.WithCancel(ctx)
	var drivers sync.WaitGroup
	defer drivers.Wait()
	defer stopAsking()
	defer stopRevoking()
	for _, p := range r.probers {
		drivers.Go(func() { _ = p.Run(asking) }) // nil always
	}
	if receipts != nil {
		drivers.Go(func() { _ = receipts.Run(asking) })
	}
	drivers.Go(func() { _ = revoker.Run(revoking) })

	begun := time.Now()
	err = cluster.Sleep(ctx, r.scaled(3*time.Second))
	switch {
	case err != nil:
	case r.During != nil:
		err = r.During(ctx, r.world)
	default:
		err = r.faults(ctx, begun)
	}
	if err != nil {
		return fmt.Errorf("seed %d, %v into the run: %w", r.Seed, time.Since(begun).Round(time.Millisecond), err)
	}
	stopRevoking()
	// The last revocations are watched until their bound is over.
	err = cluster.Sleep(ctx, r.world.longest()+2*time.Second)
	r.result.Took = time.Since(begun)
	acknowledged, uncertain := revoker.Counts()
	r.Log("%d revocations acknowledged, %d uncertain, %d records", acknowledged, uncertain, r.history.Records())
	return err
}

// faults breaks things at random.
func (r *runner) faults(ctx context.Context, begun time.Time) error {
	for r.left(time.Since(begun)) {
		if err := r.round(ctx, time.Since(begun)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) drivers(watch *load.Watch) (*load.Revoker, *load.Receipts, error) {
	hot := make([]string, 100)
	for i := range hot {
		hot[i] = fmt.Sprintf("thrash_%d", 1+i)
	}
	var sockets []string
	for i, s := range r.world.Sidecars {
		if !s.Spec.Clock { // a receipt counts time, and this one's leaps
			sockets = append(sockets, s.Socket)
		}
		r.probers[s] = load.NewProber(load.ProberOptions{
			Socket: s.Socket, Process: r.present[s].Process, History: r.history, Watch: watch, Bound: s.Bound(),
			Rate: r.Rate, MadeUp: 0.02, Hot: hot, Workers: 4, Seed: r.Seed + uint64(i),
		})
	}
	var receipts *load.Receipts
	opts := load.RevokerOptions{
		DSN: r.world.DSN(), History: r.history, Watch: watch, Rate: r.Revocations, Workers: 4, Restore: 0.2, Seed: r.Seed,
	}
	if r.Receipts > 0 {
		// Under faults each may wait for a bound; without, a few are enough, and do not
		// add connections for minutes.
		workers := 96
		if r.During != nil {
			workers = 8
		}
		receipts = load.NewReceipts(load.ReceiptsOptions{Sockets: sockets, History: r.history, Share: r.Receipts, Workers: workers, Seed: r.Seed})
		opts.OnRevoked = receipts.Revoked
	}
	revoker, err := load.NewRevoker(opts)
	return revoker, receipts, err
}

func (r *runner) scaled(d time.Duration) time.Duration { return time.Duration(float64(d) * r.Short) }

// left reports whether there is more to do.
func (r *runner) left(elapsed time.Duration) bool {
	if r.Duration > 0 {
		return elapsed < r.Duration
	}
	return len(r.hit) < len(r.Kinds)
}

// draw takes kinds from the deck, in which every kind is once: those of a group one
// after the other, of different groups at the same time.
func (r *runner) draw() [][]Kind {
	if len(r.deck) == 0 {
		r.deck = slices.Clone(r.Kinds)
		r.rng.Shuffle(len(r.deck), func(i, j int) { r.deck[i], r.deck[j] = r.deck[j], r.deck[i] })
	}
	want := r.AtOnce
	if r.Duration > 0 {
		want = 1 + r.rng.IntN(max(1, r.AtOnce))
	}
	var lanes [][]Kind
	r.deck = slices.DeleteFunc(r.deck, func(k Kind) bool {
		i := slices.IndexFunc(lanes, func(lane []Kind) bool { return lane[0].Group == k.Group })
		switch {
		case i < 0 && len(lanes) < want:
			lanes = append(lanes, []Kind{k})
		case i >= 0 && len(lanes[i]) < r.InARow:
			lanes[i] = append(lanes[i], k)
		default:
			return false
		}
		return true
	})
	return lanes
}

// round breaks some things at about the same time, mends them, and waits until the
// world is back.
func (r *runner) round(ctx context.Context, elapsed time.Duration) error {
	var names []string
	var mu sync.Mutex
	var errs []error
	var faults sync.WaitGroup
	begun := time.Now()
	for i, lane := range r.draw() {
		own := rand.New(rand.NewPCG(r.rng.Uint64(), uint64(i)))
		for _, k := range lane {
			names = append(names, k.Name)
			r.hit[k.Name]++
		}
		faults.Go(func() {
			for _, k := range lane {
				start, lasts := r.scaled(between(own, 0, 2*time.Second)), r.scaled(between(own, k.MinFor, k.MaxFor))
				h, err := r.one(ctx, k, own, start, lasts)
				mu.Lock()
				r.result.Hits, errs = append(r.result.Hits, h), append(errs, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	r.Log("%8v  %s", elapsed.Round(time.Millisecond), strings.Join(names, " + "))
	faults.Wait()
	r.result.Faulty += time.Since(begun)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	back, err := r.world.Back(ctx)
	if err != nil {
		return fmt.Errorf("after %s: %w", strings.Join(names, " + "), err)
	}
	r.result.Recoveries = append(r.result.Recoveries, back)
	r.Log("%8s  back: fresh after %v, whole after %v", "", back.Fresh.Round(time.Millisecond), back.Whole.Round(time.Millisecond))
	return cluster.Sleep(ctx, r.scaled(between(r.rng, 500*time.Millisecond, 3*time.Second)))
}

// one breaks one thing for a while.
func (r *runner) one(ctx context.Context, k Kind, own *rand.Rand, start, lasts time.Duration) (Hit, error) {
	if err := cluster.Sleep(ctx, start); err != nil {
		return Hit{}, err
	}
	begun, at := time.Now(), history.Now()
	fault, err := k.Hit(ctx, r.world, own)
	if err != nil {
		return Hit{}, fmt.Errorf("%s: %w", k.Name, err)
	}
	if !fault.Began.IsZero() {
		at += int64(fault.Began.Sub(begun))
		begun = fault.Began
	}
	err = cluster.Sleep(ctx, lasts)
	if mendErr := fault.Mend(ctx); mendErr != nil {
		err = errors.Join(err, fmt.Errorf("mending %s: %w", k.Name, mendErr))
	}
	record := &history.Fault{Kind: k.Name, BeganAt: at, EndedAt: history.Now(), Parameters: fault.Detail}
	if fault.Affected != nil {
		record.Process = r.processes(fault.Affected, at)
	}
	r.history.Add(record)
	return Hit{Kind: k.Name, Detail: fault.Detail, Lasted: time.Since(begun)}, err
}
