package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/proc"
)

// Memory is what a sidecar holds with a number of Ed25519 keys, and how long it
// takes to load them.
type Memory struct {
	Keys int
	// Resident is after the warm, Peak the most until then, Again the most while
	// everything was loaded anew (keysidecar.reset); in bytes.
	Resident, Peak, Again int64
	// Warm is how long the warm took, Copy how long a COPY of the same rows in
	// binary form to a client that throws them away (the best of three).
	Warm, Copy time.Duration
}

const memoryCopies = 3

// MeasureMemory starts a sidecar on a database of each number of keys in turn; the
// numbers ascend.
func MeasureMemory(ctx context.Context, bin string, numbers []int) (rows []Memory, machine []string, err error) {
	c, err := cluster.Start(ctx, bin)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	f := &Fleet{Cluster: c}
	if machine, err = f.Machine(ctx); err != nil {
		return nil, nil, err
	}
	if _, err := c.Exec(ctx, `INSERT INTO keysidecar.owners SELECT 'm_' || i FROM generate_series(0, 9999) i`); err != nil {
		return nil, nil, err
	}
	have := 0
	for _, n := range numbers {
		if _, err := c.Exec(ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key, scopes)
			SELECT 'pk_live_' || lpad(i::text, 10, '0'), 'm_' || i % 10000, 'ed25519',
			       decode('302a300506032b6570032100', 'hex') || sha256(i::text::bytea), '{pay}' FROM generate_series($1::int, $2::int) i`, have+1, n); err != nil {
			return nil, nil, err
		}
		have = n
		if _, err := c.Exec(ctx, `VACUUM ANALYZE keysidecar.public_keys`); err != nil {
			return nil, nil, err
		}
		row, err := measureMemory(ctx, c, n)
		if err != nil {
			return nil, nil, fmt.Errorf("%d keys: %w", n, err)
		}
		rows = append(rows, row)
	}
	return rows, machine, nil
}

func measureMemory(ctx context.Context, c *cluster.Cluster, n int) (m Memory, err error) {
	m.Keys = n
	if m.Copy, err = copyTime(ctx, c.DSN()); err != nil {
		return m, err
	}
	s, err := c.Sidecar(fmt.Sprintf("memory-%d", n), fmt.Sprintf("KEYSIDECAR_CACHE_CAPACITY=%d", n+n/10))
	if err != nil {
		return m, err
	}
	if err := s.Ready(ctx); err != nil {
		return m, err
	}
	// What the warm used beyond the keys is given back in the background.
	if err := cluster.Sleep(ctx, 2*time.Second); err != nil {
		return m, err
	}
	warm, err := s.Metric(ctx, "keysidecar_warm_duration_seconds_sum")
	if err != nil {
		return m, err
	}
	m.Warm = time.Duration(warm * float64(time.Second))
	if m.Resident, m.Peak, err = residentAndPeak(s.Pid()); err != nil {
		return m, err
	}
	if err := resetPeak(s.Pid()); err != nil {
		return m, err
	}
	if _, err := c.Exec(ctx, `SELECT keysidecar.reset()`); err != nil {
		return m, err
	}
	if err := untilMetric(ctx, s, "keysidecar_warm_duration_seconds_count", 2); err != nil {
		return m, err
	}
	if err := s.Ready(ctx); err != nil {
		return m, err
	}
	if _, m.Again, err = residentAndPeak(s.Pid()); err != nil {
		return m, err
	}
	if _, err = s.Stop(); err != nil {
		err = fmt.Errorf("%w\n%s", err, s.Log())
	}
	return m, err
}

// copyTime is how long the rows of a warm take when nobody looks at them.
func copyTime(ctx context.Context, dsn string) (best time.Duration, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	for i := range memoryCopies {
		begun := time.Now()
		if _, err := conn.PgConn().CopyTo(ctx, io.Discard, `COPY (SELECT k.key_id, k.owner_id, k.algorithm, k.public_key, k.scopes, k.not_before, k.expires_at,
			k.revoked_at, k.attributes, o.suspended_at FROM keysidecar.public_keys k LEFT JOIN keysidecar.owners o USING (owner_id)) TO STDOUT (FORMAT binary)`); err != nil {
			return 0, err
		}
		if took := time.Since(begun); i == 0 || took < best {
			best = took
		}
	}
	return best, nil
}

func untilMetric(ctx context.Context, s *cluster.Sidecar, name string, least float64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		v, err := s.Metric(ctx, name)
		if err != nil || v >= least {
			return err
		}
		if err := cluster.Sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("%s is %v: %w", name, v, err)
		}
	}
}

func residentAndPeak(pid int) (now, peak int64, err error) {
	if now, err = proc.Memory(pid, "VmRSS"); err != nil {
		return 0, 0, err
	}
	peak, err = proc.Memory(pid, "VmHWM")
	return now, peak, err
}

// resetPeak lets the kernel count the most resident memory from now on (proc(5),
// clear_refs).
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
