package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/history"
)

// RevokerOptions says what a Revoker does.
type RevokerOptions struct {
	// DSN is the primary's URL; see also SetDSN.
	DSN     string
	History *history.Writer
	Watch   *Watch
	// Name is what its keys' names begin with; two revokers need two.
	Name string
	// Rate is how many keys are revoked a second (default 20), by Workers
	// connections (2), in transactions of 1 to Batch keys (3).
	Rate    float64
	Workers int
	Batch   int
	// Weights of the ways to revoke: update, function, delete, suspend, rename.
	// Nil: all alike.
	Weights map[string]int
	// Issue is how many keys are issued in a transaction (default 100). They are
	// left alone for Settle (1.5 s), and are watched from Lead (300 ms) before their
	// revocation on.
	Issue        int
	Settle, Lead time.Duration
	// Restore is the share of revocations that are undone, RestoreAfter (default
	// 6 s) later, and then made again. Not those by delete and rename.
	Restore      float64
	RestoreAfter time.Duration
	// Timeout of one transaction (default 5 s). Beyond it the outcome is unknown.
	Timeout time.Duration
	Seed    uint64
	// OnRevoked, if set, is told each acknowledged revocation. It must not block.
	OnRevoked func(history.Revocation)
}

// Revoker issues keys and revokes them.
type Revoker struct {
	opts RevokerOptions
	ways []way
	dsn  atomic.Pointer[string]
	gate *gate

	mu   sync.Mutex
	rng  *rand.Rand
	pool []*group // in the order in which they will be ready
	redo []*group // revoked, to be restored
	n    int

	revoked, uncertain atomic.Int64
}

// group are the keys of one transaction.
type group struct {
	way   way
	owner string
	keys  []string
	// at is when the next step with it may be taken.
	at int64
	// watched are its keys in the watch, from Lead before the revocation on.
	watched []*Watched
}

// NewRevoker returns a revoker; Run starts it.
func NewRevoker(o RevokerOptions) (*Revoker, error) {
	setDefault(&o.Rate, 20)
	setDefault(&o.Workers, 2)
	setDefault(&o.Batch, 3)
	setDefault(&o.Issue, 100)
	setDefault(&o.Settle, 1500*time.Millisecond)
	setDefault(&o.Lead, 300*time.Millisecond)
	setDefault(&o.RestoreAfter, 6*time.Second)
	setDefault(&o.Timeout, 5*time.Second)
	setDefault(&o.Name, "pk")
	if o.Watch == nil {
		o.Watch = new(Watch)
	}
	r := &Revoker{opts: o, gate: newGate(), rng: rand.New(rand.NewPCG(o.Seed, 1))}
	known := 0
	for _, w := range ways() {
		weight, ok := o.Weights[w.name]
		if o.Weights == nil {
			weight = 1
		} else if ok {
			known++
		}
		for range weight {
			r.ways = append(r.ways, w)
		}
	}
	if known < len(o.Weights) || len(r.ways) == 0 {
		return nil, fmt.Errorf("weights %v: a way that there is not, or none", o.Weights)
	}
	r.SetDSN(o.DSN)
	return r, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// SetDSN points it to another server, from the next transaction on.
func (r *Revoker) SetDSN(dsn string) { r.dsn.Store(&dsn) }

// Pause stops it, and returns when no transaction of its is under way: Timeout
// later at the most.
func (r *Revoker) Pause() { r.gate.close() }

// Resume undoes Pause.
func (r *Revoker) Resume() { r.gate.open() }

// Counts returns how many revocations were acknowledged, and of how many the
// outcome is not known.
func (r *Revoker) Counts() (acknowledged, uncertain int64) {
	return r.revoked.Load(), r.uncertain.Load()
}

// Run works until ctx ends, and returns nil then.
func (r *Revoker) Run(ctx context.Context) error {
	// Groups wait here for their lead to pass; a few, so that a database that is
	// away stops the flow.
	due := make(chan *group, int(r.opts.Rate*r.opts.Lead.Seconds())+1)
	var wg sync.WaitGroup
	wg.Go(func() { r.issue(ctx) })
	wg.Go(func() { r.pace(ctx, due) })
	for range r.opts.Workers {
		wg.Go(func() { r.work(ctx, due) })
	}
	if r.opts.Restore > 0 {
		wg.Go(func() { r.undo(ctx) })
	}
	wg.Wait()
	return nil
}

// wait sleeps and reports whether ctx still runs.
func wait(ctx context.Context, d time.Duration) bool { return cluster.Sleep(ctx, d) == nil }

// pace takes groups at the rate.
func (r *Revoker) pace(ctx context.Context, due chan<- *group) {
	for {
		g := r.ready()
		if g == nil {
			if !wait(ctx, 5*time.Millisecond) {
				return
			}
			continue
		}
		g.watched = g.watched[:0]
		for _, k := range g.keys {
			g.watched = append(g.watched, r.opts.Watch.Add(k))
		}
		g.at = history.Now() + int64(r.opts.Lead)
		select {
		case due <- g:
		case <-ctx.Done():
			return
		}
		if !wait(ctx, time.Duration(float64(len(g.keys))/r.opts.Rate*float64(time.Second))) {
			return
		}
	}
}

// ready takes the first group that has settled out of the pool.
func (r *Revoker) ready() *group {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pool) == 0 || r.pool[0].at > history.Now() {
		return nil
	}
	g := r.pool[0]
	r.pool = r.pool[1:]
	return g
}

// work revokes what is due.
func (r *Revoker) work(ctx context.Context, due <-chan *group) {
	l := link{dsn: &r.dsn, timeout: r.opts.Timeout}
	defer l.close()
	for {
		select {
		case <-ctx.Done():
			return
		case g := <-due:
			if !wait(ctx, time.Duration(g.at-history.Now())) {
				return
			}
			for done := false; !done; {
				if !r.gate.enter(ctx) {
					return
				}
				// Connected before the change: an address that refuses was asked nothing.
				if done = l.connect(ctx) == nil; done {
					r.revoke(ctx, &l, g)
				}
				r.gate.leave()
				if !done && !wait(ctx, lastBackOff) {
					return
				}
			}
		}
	}
}

func (r *Revoker) revoke(ctx context.Context, l *link, g *group) {
	for _, k := range g.watched {
		k.Revoking()
	}
	sentAt := history.Now()
	n, err := l.count(ctx, g.way.revoke, g.argument())
	ackedAt := history.Now()
	if err != nil || n != int64(len(g.keys)) {
		// Fewer rows than keys: the server does not have them. It says nothing about
		// those that it has, so nothing is claimed.
		ackedAt = 0
		for _, k := range g.watched {
			k.Drop()
		}
	}
	for i, k := range g.keys {
		rev := history.Revocation{KeyID: k, Way: g.way.name, SentAt: sentAt, AckedAt: ackedAt}
		if ackedAt == 0 {
			r.uncertain.Add(1)
		} else {
			g.watched[i].Revoked(ackedAt)
			rev.Seq = r.seq(ctx, l, g, k)
			r.revoked.Add(1)
		}
		r.opts.History.Add(&rev)
		if ackedAt > 0 && r.opts.OnRevoked != nil {
			r.opts.OnRevoked(rev)
		}
	}
	if ackedAt > 0 && g.way.restore != "" {
		r.mu.Lock()
		if r.rng.Float64() < r.opts.Restore {
			g.at = ackedAt + int64(r.opts.RestoreAfter)
			r.redo = append(r.redo, g)
		}
		r.mu.Unlock()
	}
}

// seq asks for the number of the event, 0 if that cannot be told.
func (r *Revoker) seq(ctx context.Context, l *link, g *group, key string) int64 {
	if l.conn == nil {
		return 0
	}
	arg := key
	if g.way.byOwner {
		arg = g.owner
	}
	n, err := l.count(ctx, g.way.seq, arg)
	if err != nil {
		return 0
	}
	return n
}

func (g *group) argument() any {
	if g.way.byOwner {
		return g.owner
	}
	return g.keys
}

// issue keeps the pool filled.
func (r *Revoker) issue(ctx context.Context) {
	l := link{dsn: &r.dsn, timeout: r.opts.Timeout}
	defer l.close()
	for {
		// As many as will be used up while the next ones settle.
		r.mu.Lock()
		have := 0
		for _, g := range r.pool {
			have += len(g.keys)
		}
		r.mu.Unlock()
		if have >= r.opts.Issue/2+int(2*r.opts.Rate*r.opts.Settle.Seconds()) {
			if !wait(ctx, 20*time.Millisecond) {
				return
			}
			continue
		}
		if !r.gate.enter(ctx) {
			return
		}
		err := r.issueBatch(ctx, &l)
		r.gate.leave()
		if err != nil && !wait(ctx, lastBackOff) {
			return
		}
	}
}

// issueBatch issues keys in one transaction. What is not acknowledged is
// forgotten: nobody asks for it.
func (r *Revoker) issueBatch(ctx context.Context, l *link) error {
	groups := r.draw()
	var keys, owners []string
	for _, g := range groups {
		for _, k := range g.keys {
			keys, owners = append(keys, k), append(owners, g.owner)
		}
	}
	if err := l.connect(ctx); err != nil {
		return err
	}
	err := l.transaction(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, issueOwners, owners); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, issueKeys, keys, owners)
		return err
	})
	ackedAt := history.Now()
	if err != nil {
		return err
	}
	for _, k := range keys {
		r.opts.History.Add(&history.Issue{KeyID: k, AckedAt: ackedAt})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range groups {
		g.at = ackedAt + int64(r.opts.Settle)
	}
	r.pool = append(r.pool, groups...)
	return nil
}

// draw makes up the next groups.
func (r *Revoker) draw() []*group {
	r.mu.Lock()
	defer r.mu.Unlock()
	var groups []*group
	for left := r.opts.Issue; left > 0; {
		g := &group{way: r.ways[r.rng.IntN(len(r.ways))]}
		size := min(1+r.rng.IntN(r.opts.Batch), left)
		left -= size
		r.n++
		g.owner = fmt.Sprintf("%s-owner-%x-%d", r.opts.Name, r.opts.Seed, r.n)
		for i := range size {
			g.keys = append(g.keys, fmt.Sprintf("%s-%x-%d-%d", r.opts.Name, r.opts.Seed, r.n, i))
		}
		groups = append(groups, g)
	}
	return groups
}

// undo makes revoked keys valid again and hands them back to the pool.
func (r *Revoker) undo(ctx context.Context) {
	l := link{dsn: &r.dsn, timeout: r.opts.Timeout}
	defer l.close()
	for {
		r.mu.Lock()
		var g *group
		if len(r.redo) > 0 && r.redo[0].at <= history.Now() {
			g = r.redo[0]
			r.redo = r.redo[1:]
		}
		r.mu.Unlock()
		if g == nil {
			if !wait(ctx, 20*time.Millisecond) {
				return
			}
			continue
		}
		if !r.gate.enter(ctx) {
			return
		}
		r.restore(ctx, &l, g)
		r.gate.leave()
	}
}

func (r *Revoker) restore(ctx context.Context, l *link, g *group) {
	if err := l.connect(ctx); err != nil {
		wait(ctx, lastBackOff)
		return
	}
	sentAt := history.Now()
	n, err := l.count(ctx, g.way.restore, g.argument())
	ackedAt := history.Now()
	if err != nil || n != int64(len(g.keys)) {
		ackedAt = 0
	}
	for _, k := range g.keys {
		r.opts.History.Add(&history.Restore{KeyID: k, SentAt: sentAt, AckedAt: ackedAt})
	}
	if ackedAt > 0 {
		g.at = ackedAt + int64(r.opts.Settle)
		r.mu.Lock()
		r.pool = append(r.pool, g)
		r.mu.Unlock()
	}
}

// link is a connection that is made again when it is lost, to where dsn points.
type link struct {
	dsn     *atomic.Pointer[string]
	timeout time.Duration
	conn    *pgx.Conn
	to      *string
	warned  bool
}

func (l *link) close() {
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.conn.Close(ctx)
		l.conn = nil
	}
}

// connect makes the connection if there is none, or one to another server.
func (l *link) connect(ctx context.Context) error {
	to := l.dsn.Load()
	if l.conn != nil && l.to == to && !l.conn.IsClosed() {
		return nil
	}
	l.close()
	config, err := pgx.ParseConfig(*to)
	if err != nil {
		return err
	}
	// A commit whose wait for the standby was cancelled is announced by a warning
	// and is not the acknowledgement that the promise is about.
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { l.warned = l.warned || n.Severity == "WARNING" }
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	l.conn, err = pgx.ConnectConfig(ctx, config)
	if err != nil {
		l.conn = nil
		return err
	}
	l.to = to
	return nil
}

// errWarned: the server did what it was asked, with a warning.
var errWarned = errors.New("the server warned")

// count runs one statement in a transaction of its own and returns the number it
// gives. A nil error means that the commit was acknowledged.
func (l *link) count(ctx context.Context, sql string, arg any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	l.warned = false
	var n int64
	err := l.conn.QueryRow(ctx, sql, arg).Scan(&n)
	return n, l.result(err)
}

func (l *link) transaction(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	l.warned = false
	return l.result(pgx.BeginFunc(ctx, l.conn, func(tx pgx.Tx) error { return f(ctx, tx) }))
}

// result drops the connection after an error: what is wrong with it may be that
// it leads to a server that became read-only.
func (l *link) result(err error) error {
	if err == nil && l.warned {
		err = errWarned
	}
	if err != nil {
		l.close()
	}
	return err
}
