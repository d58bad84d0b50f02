package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
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

// Rest waits a little and then watches for as long as over.
func (f *Fleet) Rest(ctx context.Context, over time.Duration) (r Rest, err error) {
	if err := sleep(ctx, 5*time.Second); err != nil {
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
	if err := sleep(ctx, over); err != nil {
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
		memory, err := resident(strconv.Itoa(s.Pid()))
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
		if times[i], err = processorTime(s.Pid()); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// processorTime is what all threads of a process have used, to the nanosecond where
// the kernel says so (schedstat), which /proc/PID/stat does not.
func processorTime(pid int) (time.Duration, error) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	entries, err := os.ReadDir(tasks)
	if err != nil {
		return 0, err
	}
	var all time.Duration
	for _, e := range entries {
		text, err := os.ReadFile(tasks + "/" + e.Name() + "/schedstat")
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		all += time.Duration(ns)
	}
	return all, nil
}

// quantile sorts list and returns the smallest value that a share of q does not
// exceed.
func quantile[T int64 | float64 | time.Duration](list []T, q float64) T {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
