package peers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

// Cell is what the contenders take turns in.
type Cell struct {
	Conns int
	// Misses is the share of requests for keys that are not there, in percent.
	Misses int
}

// A contender is one way to be answered.
type contender struct {
	// Name is how tables call it.
	Name string
	// takes says which cells it takes part in.
	takes func(Cell) bool
	// run loads it until w ends. seed chooses the keys.
	run func(ctx context.Context, c Cell, seed uint64, w window) (*histogram, error)
	// pids are the processes whose time counts.
	pids func(ctx context.Context) ([]int, error)
}

// The contenders' names.
const (
	SidecarSocket = "keysidecar, socket"
	SidecarTCP    = "keysidecar, TCP"
	// OneSocket and OneTCP run with GOMAXPROCS=1.
	OneSocket    = "keysidecar on one processor, socket"
	OneTCP       = "keysidecar on one processor, TCP"
	SidecarHalf  = "keysidecar, socket, misses read Postgres"
	SidecarBatch = "keysidecar, socket, batches of 100"
	Bare         = "bare Go loop, socket"
	Nginx        = "nginx, socket"
	RedisSocket  = "Redis GET, socket"
	RedisTCP     = "Redis GET, TCP"
	SelectSocket = "Postgres SELECT, socket"
	SelectTCP    = "Postgres SELECT, TCP"
)

func everyCell(Cell) bool { return true }

// batchOf is how many keys a batch asks for.
const batchOf = 100

// keyID is the id of key i, unknownID one of the same length that nobody issued.
func keyID(i int) string     { return fmt.Sprintf("pk_bench_%08d", i) }
func unknownID(i int) string { return fmt.Sprintf("pk_nobody%08d", i) }

// requests are written out before anything is measured.
type requests struct {
	hits, misses [][]byte
	// miss is what the answer to a miss says.
	miss reply
}

// unknownKeys is how many keys that do not exist are asked for.
const unknownKeys = 10_000

func newRequests(keys int, write func(keyID string) []byte) *requests {
	r := &requests{hits: make([][]byte, keys), misses: make([][]byte, unknownKeys), miss: notFound}
	for i := range r.hits {
		r.hits[i] = write(keyID(i))
	}
	for i := range r.misses {
		r.misses[i] = write(unknownID(i))
	}
	return r
}

// pick returns a function that draws keys at random, all with the same probability.
func (r *requests) pick(c Cell, seed uint64) func() ([]byte, reply) {
	draw := rand.NewPCG(seed, 1)
	return func() ([]byte, reply) {
		n := draw.Uint64()
		if n%100 < uint64(c.Misses) {
			return r.misses[(n>>32)%uint64(len(r.misses))], r.miss
		}
		return r.hits[(n>>32)%uint64(len(r.hits))], found
	}
}

// pickCold is pick for a memory that holds half of the keys: misses are keys that
// were not asked for since memory had room for them, so that each is read.
func (r *requests) pickCold(c Cell, seed uint64, turn *atomic.Uint64) func() ([]byte, reply) {
	hot := r.hits[:hotKeys(len(r.hits))]
	cold := r.hits[len(hot):]
	draw := rand.NewPCG(seed, 1)
	return func() ([]byte, reply) {
		n := draw.Uint64()
		if n%100 < uint64(c.Misses) {
			return cold[turn.Add(1)%uint64(len(cold))], found
		}
		return hot[(n>>32)%uint64(len(hot))], found
	}
}

func hotKeys(keys int) int { return keys * 2 / 5 }

// batches returns requests for batchOf keys each, drawn at random.
func batches(keys int) [][]byte {
	draw := rand.New(rand.NewPCG(1, 1))
	all := make([][]byte, 500)
	ids := make([]string, batchOf)
	for i := range all {
		for j := range ids {
			ids[j] = keyID(draw.IntN(keys))
		}
		all[i] = httpBatch(ids)
	}
	return all
}

// driven returns the run of a contender that the client of this package drives.
func drivenRun(network, address string, w wire, pick func(Cell, uint64) func() ([]byte, reply)) func(context.Context, Cell, uint64, window) (*histogram, error) {
	return func(ctx context.Context, c Cell, seed uint64, when window) (*histogram, error) {
		l := load{network: network, address: address, conns: c.Conns, wire: w, next: pick(c, seed)}
		return l.drive(ctx, when)
	}
}

// askTimeout bounds a request outside of measurements.
const askTimeout = 5 * time.Second

// ask makes one request on a connection of its own and returns the whole answer.
func ask(ctx context.Context, network, address string, w wire, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	var have []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := conn.Read(chunk)
		have = append(have, chunk[:n]...)
		length, says, bad := w(have)
		switch {
		case bad != nil:
			return nil, bad
		case says != partial:
			return have[:length], nil
		case err != nil:
			return nil, errors.Join(fmt.Errorf("%s: no whole answer", address), err)
		}
	}
}
