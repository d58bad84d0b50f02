package scale

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/proc"
)

// Rest is what the fleet uses while nothing happens.
type Rest struct {
	Sidecars int
	Over     time.Duration
	// Resident, in bytes, and Processor, in cores, of every sidecar.
	Resident  []int64
	Processor []float64
	// Statements a second, of the whole database divided by the number of sidecars:
	// the relay's are in it.
	Statements float64
	// Connections of the whole fleet.
	Connections int
	// BrokerMemory is what the broker's memory grew by, in bytes, for all of them.
	BrokerMemory, QueueMemory int64
}

// settle is longer than it takes until every sidecar has made its first audit, which
// asks more than the others, at most 15 s with the defaults; and until Postgres has counted that: a
// session that is idle tells what it has done after 10 s.
const settle = 30 * time.Second

// Rest waits until everything is at rest and then watches for as long as over.
func (f *Fleet) Rest(ctx context.Context, over time.Duration) (r Rest, err error) {
	if err := cluster.Sleep(ctx, settle); err != nil {
		return r, err
	}
	r.Sidecars = len(f.Sidecars)
	before, err := f.processorTimes()
	if err != nil {
		return r, err
	}
	asked, err := f.statements(ctx)
	if err != nil {
		return r, err
	}
	begun := time.Now()
	if err := cluster.Sleep(ctx, over); err != nil {
		return r, err
	}
	after, err := f.processorTimes()
	if err != nil {
		return r, err
	}
	askedLater, err := f.statements(ctx)
	if err != nil {
		return r, err
	}
	r.Over = time.Since(begun)
	r.Statements = (askedLater - asked) / r.Over.Seconds() / float64(r.Sidecars)
	for i, s := range f.Sidecars {
		r.Processor = append(r.Processor, (after[i]-before[i]).Seconds()/r.Over.Seconds())
		memory, err := proc.Memory(s.Pid(), "VmRSS")
		if err != nil {
			return r, err
		}
		r.Resident = append(r.Resident, memory)
	}
	if r.Connections, err = f.connections(ctx); err != nil {
		return r, err
	}
	now, err := f.brokerMemory()
	if err != nil {
		return r, err
	}
	r.BrokerMemory = now - f.BrokerBefore
	r.QueueMemory, err = f.queueMemory()
	return r, err
}

// statements is how many transactions Postgres has counted in the fleet's database.
// Each statement of a sidecar is one; those of the relay and of this program are in
// it, too.
func (f *Fleet) statements(ctx context.Context) (n float64, err error) {
	err = f.SQL.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`).Scan(&n)
	return n, err
}

// connections is how many backends serve sidecars.
func (f *Fleet) connections(ctx context.Context) (n int, err error) {
	err = f.SQL.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'keysidecar sidecar-%'`).Scan(&n)
	return n, err
}

// queueMemory is what the broker counts for the sidecars' queues.
func (f *Fleet) queueMemory() (int64, error) {
	out, err := f.MQ.Ctl("list_queues", "--quiet", "--no-table-headers", "name", "memory")
	if err != nil {
		return 0, err
	}
	var all int64
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) != 2 || !strings.HasPrefix(fields[0], "keysidecar.q.") {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, err
		}
		all += n
	}
	return all, nil
}

func (f *Fleet) processorTimes() ([]time.Duration, error) {
	times := make([]time.Duration, len(f.Sidecars))
	for i, s := range f.Sidecars {
		var err error
		if times[i], err = proc.CPU(s.Pid()); err != nil {
			return nil, err
		}
	}
	return times, nil
}
