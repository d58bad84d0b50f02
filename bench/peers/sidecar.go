package peers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// noBroker is a Postgres without a RabbitMQ: a look-up has nothing to do with the
// broker, which would only take processor time from all contenders.
type noBroker struct{ *testenv.Postgres }

func (s noBroker) DSN() string                    { return s.Postgres.DSN(cluster.Database) }
func (noBroker) AMQP() string                     { return "" }
func (noBroker) StopBroker(context.Context) error { return nil }
func (noBroker) StartBroker(context.Context) error {
	return errors.New("there is no broker")
}

// system is a Postgres with the keys, and two sidecars.
type system struct {
	*cluster.Cluster
	pg *testenv.Postgres
	// whole has all keys in memory, one too, but runs with GOMAXPROCS=1; half has room
	// for half of the keys.
	whole, one, half *cluster.Sidecar
	// tcp is where whole listens besides its socket, tcpOne where one does.
	tcp, tcpOne string
	releases    []func() error
	keys        int
}

// startSystem starts Postgres with keys in it. bin is the program.
func startSystem(ctx context.Context, bin string, keys int) (s *system, err error) {
	pg, err := testenv.StartPostgresMain()
	if err != nil {
		return nil, err
	}
	if err := pg.CreateDatabase(cluster.Database, ""); err != nil {
		return nil, errors.Join(err, pg.Close())
	}
	s = &system{pg: pg, keys: keys}
	if s.Cluster, err = cluster.StartOn(ctx, bin, noBroker{pg}); err != nil {
		return nil, err
	}
	for _, sql := range []string{
		fmt.Sprintf(`INSERT INTO keysidecar.owners (owner_id) SELECT 'm_' || i FROM generate_series(0, %d) i`, keys/100),
		fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key, scopes)
			SELECT 'pk_bench_' || lpad(i::text, 8, '0'), 'm_' || i / 100, 'ed25519',
			       '\x302a300506032b6570032100'::bytea || sha256(i::text::bytea), '{pay}'
			FROM generate_series(0, %d) i`, keys-1),
		`VACUUM ANALYZE keysidecar.public_keys, keysidecar.owners`,
	} {
		if _, err := s.Exec(ctx, sql); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	for _, address := range []*string{&s.tcp, &s.tcpOne} {
		var release func() error
		if *address, release, err = testenv.ReserveAddress(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.releases = append(s.releases, release)
	}
	return s, nil
}

func (s *system) startSidecars(ctx context.Context) (err error) {
	if s.whole, err = s.Sidecar("whole", "KEYSIDECAR_LISTEN_TCP_ADDRESS="+s.tcp, "KEYSIDECAR_CACHE_CAPACITY="+strconv.Itoa(s.keys)); err != nil {
		return err
	}
	if s.one, err = s.Sidecar("one", "KEYSIDECAR_LISTEN_TCP_ADDRESS="+s.tcpOne, "KEYSIDECAR_CACHE_CAPACITY="+strconv.Itoa(s.keys), "GOMAXPROCS=1"); err != nil {
		return err
	}
	// A flood is what the bound on reads is there for; here the reads are wanted.
	if s.half, err = s.Sidecar("half", "KEYSIDECAR_CACHE_CAPACITY="+strconv.Itoa(s.keys/2),
		"KEYSIDECAR_CACHE_MISS_RATE="+strconv.Itoa(math.MaxInt32), "KEYSIDECAR_CACHE_MAX_FILLS=64"); err != nil {
		return err
	}
	if err := errors.Join(s.whole.Ready(ctx), s.one.Ready(ctx), s.half.Ready(ctx)); err != nil {
		return err
	}
	return s.heat(ctx)
}

// heat asks half for the keys that it is to have in memory.
func (s *system) heat(ctx context.Context) error {
	ids := make([]string, 0, batchOf)
	for i := range hotKeys(s.keys) {
		if ids = append(ids, keyID(i)); len(ids) < batchOf && i+1 < hotKeys(s.keys) {
			continue
		}
		answer, err := ask(ctx, "unix", s.half.Socket, http, httpBatch(ids))
		if err != nil {
			return err
		}
		if n := strings.Count(string(answer), `"valid":true`); n != len(ids) {
			return fmt.Errorf("%d of %d keys are valid: %.300q", n, len(ids), answer)
		}
		ids = ids[:0]
	}
	return nil
}

// Close ends everything.
func (s *system) Close() error {
	err := s.Cluster.Close()
	for _, release := range s.releases {
		err = errors.Join(err, release())
	}
	return err
}

// backends are the processes of Postgres that serve an application.
func (s *system) backends(ctx context.Context, application string) ([]int, error) {
	rows, err := s.SQL.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE application_name = $1`, application)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int])
}

// contenders are the sidecars. r are requests for keys over HTTP.
func (s *system) contenders(r *requests) []contender {
	whole := func(context.Context) ([]int, error) { return []int{s.whole.Pid()}, nil }
	one := func(context.Context) ([]int, error) { return []int{s.one.Pid()}, nil }
	var turn atomic.Uint64
	many := batches(s.keys)
	noMisses := func(c Cell) bool { return c.Misses == 0 }
	return []contender{
		{Name: SidecarSocket, takes: everyCell, run: drivenRun("unix", s.whole.Socket, http, r.pick), pids: whole},
		{Name: SidecarTCP, takes: everyCell, run: drivenRun("tcp", s.tcp, http, r.pick), pids: whole},
		{Name: OneSocket, takes: everyCell, run: drivenRun("unix", s.one.Socket, http, r.pick), pids: one},
		{Name: OneTCP, takes: everyCell, run: drivenRun("tcp", s.tcpOne, http, r.pick), pids: one},
		{Name: SidecarBatch, takes: noMisses, pids: whole, run: drivenRun("unix", s.whole.Socket, http, func(_ Cell, seed uint64) func() ([]byte, reply) {
			next := int(seed % uint64(len(many)))
			return func() ([]byte, reply) {
				next = (next + 1) % len(many)
				return many[next], found
			}
		})},
		{
			Name: SidecarHalf, takes: func(c Cell) bool { return c.Misses > 0 },
			run: drivenRun("unix", s.half.Socket, http, func(c Cell, seed uint64) func() ([]byte, reply) { return r.pickCold(c, seed, &turn) }),
			pids: func(ctx context.Context) ([]int, error) {
				pids, err := s.backends(ctx, "keysidecar half")
				return append(pids, s.half.Pid()), err
			},
		},
	}
}
