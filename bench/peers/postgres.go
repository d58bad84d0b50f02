package peers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// selectKey reads what a verdict needs of the key's own row. The owner's suspension
// would be another table.
const selectKey = `SELECT owner_id, algorithm, public_key, scopes, not_before, expires_at, revoked_at, attributes
	FROM keysidecar.public_keys WHERE key_id = $1`

// row is what it returns.
type row struct {
	owner, algorithm              string
	publicKey                     []byte
	scopes                        []string
	notBefore, expiresAt, revoked *time.Time
	attributes                    []byte
}

// pool is a program's own way to Postgres.
type pool struct {
	*pgxpool.Pool
	keys int
}

// newPool opens as many connections as any cell wants.
func newPool(ctx context.Context, dsn, application string, conns, keys int) (*pool, error) {
	conf, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	conf.MaxConns = int32(conns)
	conf.ConnConfig.RuntimeParams["application_name"] = application
	p, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	return &pool{Pool: p, keys: keys}, nil
}

func (p *pool) run(ctx context.Context, c Cell, seed uint64, w window) (*histogram, error) {
	counts := make([]histogram, c.Conns)
	all, ctx := errgroup.WithContext(ctx)
	for i := range c.Conns {
		all.Go(func() error { return p.loop(ctx, c, rand.New(rand.NewPCG(seed, uint64(i))), w, &counts[i]) })
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	for i := range counts[1:] {
		counts[0].add(&counts[i+1])
	}
	return &counts[0], nil
}

func (p *pool) loop(ctx context.Context, c Cell, draw *rand.Rand, w window, t *histogram) error {
	begun := time.Now()
	for begun.Before(w.end) {
		id, want := keyID(draw.IntN(p.keys)), found
		if draw.IntN(100) < c.Misses {
			id, want = unknownID(draw.IntN(unknownKeys)), notFound
		}
		sent := time.Now()
		var r row
		err := p.QueryRow(ctx, selectKey, id).Scan(&r.owner, &r.algorithm, &r.publicKey, &r.scopes, &r.notBefore, &r.expiresAt, &r.revoked, &r.attributes)
		begun = time.Now()
		switch {
		case err == nil && want == found, errors.Is(err, pgx.ErrNoRows) && want == notFound:
		default:
			return fmt.Errorf("select %s: %w", id, err)
		}
		if begun.After(w.begin) && begun.Before(w.end) {
			t.record(begun.Sub(sent))
		}
	}
	return nil
}

// contender is the pool under name.
func (s *system) selecting(name, application string, p *pool) contender {
	return contender{
		Name: name, takes: everyCell, run: p.run,
		pids: func(ctx context.Context) ([]int, error) { return s.backends(ctx, application) },
	}
}
