package usage

import (
	"context"
	"errors"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
)

const (
	// shardCount spreads notes over locks. A power of two.
	shardCount = 64
	// shardKeys is how many keys each part has room for between two rounds.
	shardKeys = 512
	// maxKeys wait at most, from the last round on and from rounds that failed.
	maxKeys = shardCount * shardKeys
	// recentSlots remember which keys were noted in this second. A power of two.
	recentSlots = 1 << 13
	// secondBits of a slot are the second, the others the key's hash.
	secondBits = 24
)

// Session is a connection for one round.
type Session interface {
	// Write notes that keys[i] was used ages[i] seconds ago. keys are in byte order,
	// each once.
	Write(ctx context.Context, keys []string, ages []float64, resolution time.Duration) error
	// Prune looks at some of the rows after from, in byte order, and deletes those
	// whose keys are gone. It returns where to go on; empty at the end.
	Prune(ctx context.Context, from string) (next string, gone int64, err error)
	Close()
}

// Options is what New needs.
type Options struct {
	// Open makes a connection for one round.
	Open func(context.Context) (Session, error)
	// Interval is the mean time between two rounds.
	Interval time.Duration
	// Resolution is what times are rounded down to.
	Resolution time.Duration
	Clock      *clock.Clock
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Recorder collects uses of keys and writes them. See the package documentation.
type Recorder struct {
	opts    Options
	seed    maphash.Seed
	second  atomic.Uint32 // of boot time, as of the last tick
	recent  [recentSlots]atomic.Uint64
	shards  [shardCount]shard
	half    chan struct{} // a part is half full
	metrics *metrics

	// The writer's own.
	pending   map[string]uint32 // taken from the parts, and not written yet
	waiting   atomic.Int64      // len(pending)
	pruneFrom string
	pruning   bool
	failing   bool

	written atomic.Pointer[time.Time]
	away    atomic.Bool // failing, for Status
}

// shard is a part of the keys used since the last round.
type shard struct {
	mu   sync.Mutex
	keys map[string]uint32 // the second of the last use
	// spare is empty, and takes the place of keys when that is taken away.
	spare map[string]uint32
	_     [64]byte // no two locks in one cache line
}

// New returns a recorder; Run makes it write.
func New(o Options) (*Recorder, error) {
	if o.Open == nil || o.Clock == nil || o.Logger == nil || o.Registerer == nil {
		return nil, errors.New("usage: Open, Clock, Logger and Registerer are required")
	}
	if o.Interval <= 0 || o.Resolution < time.Second {
		return nil, errors.New("usage: Interval must be positive, and Resolution at least a second")
	}
	r := &Recorder{opts: o, seed: maphash.MakeSeed(), half: make(chan struct{}, 1), pending: make(map[string]uint32)}
	for i := range r.shards {
		// Room for all at once, so that notes never make a map grow.
		r.shards[i].keys = make(map[string]uint32, shardKeys)
		r.shards[i].spare = make(map[string]uint32, shardKeys)
	}
	r.tick()
	var err error
	r.metrics, err = newMetrics(o.Registerer, r)
	return r, err
}

// Note remembers that a key was used now. keyID is kept for a while, so it must not
// share memory with anything that changes. It does not allocate, and waits for
// nothing but another look-up's map access.
func (r *Recorder) Note(keyID string) {
	now := r.second.Load()
	hash := maphash.String(r.seed, keyID)
	slot := &r.recent[hash/shardCount%recentSlots]
	mark := hash&^(1<<secondBits-1) | uint64(now)&(1<<secondBits-1)
	if slot.Load() == mark {
		return
	}
	sh := &r.shards[hash%shardCount]
	sh.mu.Lock()
	_, here := sh.keys[keyID]
	room := here || len(sh.keys) < shardKeys
	if room {
		sh.keys[keyID] = now
	}
	half := !here && len(sh.keys) == shardKeys/2
	sh.mu.Unlock()
	if !room {
		r.metrics.dropped[droppedFull].Inc()
		return
	}
	slot.Store(mark)
	if half {
		select {
		case r.half <- struct{}{}:
		default:
		}
	}
}

// tick reads the clock for Note.
func (r *Recorder) tick() { r.second.Store(r.now()) }

func (r *Recorder) now() uint32 {
	return uint32(time.Duration(r.opts.Clock.Now()) / time.Second) //nolint:gosec // 136 years of uptime
}

// take moves what was noted into pending, as far as there is room.
func (r *Recorder) take() {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		taken := sh.keys
		sh.keys, sh.spare = sh.spare, taken
		sh.mu.Unlock()
		for id, second := range taken {
			if _, here := r.pending[id]; !here && len(r.pending) >= maxKeys {
				r.metrics.dropped[droppedFull].Inc()
				continue
			}
			r.pending[strings.Clone(id)] = second // id is a part of the key's record, which may be large
		}
		clear(taken) // nobody else has it: it comes back as the next empty one
	}
	r.waiting.Store(int64(len(r.pending)))
}

// noted is how many keys wait in the parts.
func (r *Recorder) noted() (n int) {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		n += len(sh.keys)
		sh.mu.Unlock()
	}
	return n
}

// Status is for status pages.
type Status struct {
	// Waiting is how many keys have a use that is not written yet.
	Waiting int
	// WrittenAt is this machine's wall clock at the end of the last round that
	// succeeded; zero before the first.
	WrittenAt time.Time
	// Failing: the last round failed.
	Failing bool
}

// Status returns how writing goes.
func (r *Recorder) Status() Status {
	s := Status{Waiting: r.noted() + int(r.waiting.Load()), Failing: r.away.Load()}
	if at := r.written.Load(); at != nil {
		s.WrittenAt = *at
	}
	return s
}
