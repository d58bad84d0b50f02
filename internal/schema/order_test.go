package schema_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// reader follows the log as a sidecar's fence does: it asks for what comes from
// its cursor's row on, and takes that row as the proof that the log is still the
// one it read.
type reader struct {
	*session
	seq int64
	id  uuid.UUID
	all []int64
}

func newReader(s *session) *reader {
	r := &reader{session: s}
	row := s.QueryRow(context.Background(), "SELECT seq, event_id FROM keysidecar.events ORDER BY seq DESC LIMIT 1")
	if err := row.Scan(&r.seq, &r.id); err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (r *reader) step() error {
	rows, err := r.Query(context.Background(), "SELECT seq, event_id FROM keysidecar.events WHERE seq >= $1 ORDER BY seq LIMIT 500", r.seq)
	if err != nil {
		return err
	}
	var seq int64
	var id uuid.UUID
	first := true
	_, err = pgx.ForEachRow(rows, []any{&seq, &id}, func() error {
		if first {
			first = false
			if seq != r.seq || id != r.id {
				return fmt.Errorf("the cursor's row %d is gone, %d is there", r.seq, seq)
			}
			return nil
		}
		if seq <= r.seq {
			return fmt.Errorf("%d came after %d", seq, r.seq)
		}
		r.seq, r.id, r.all = seq, id, append(r.all, seq)
		return nil
	})
	if err == nil && first {
		return fmt.Errorf("the cursor's row %d is gone", r.seq)
	}
	return err
}

// If a number became visible after a higher one, a cursor would pass it for ever.
func TestReadersSeeEveryEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	const writers, changes, keys = 16, 20_000, 5_000
	s := newSession(t)
	s.do(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	s.do(fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'k' || lpad(i::text, 4, '0'), 'm_1', 'x' FROM generate_series(0, %d) i`, keys))

	r := newReader(s.another())
	begun := r.seq

	var acknowledged, retried atomic.Int64
	var writing sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		conn := s.another()
		level := []string{"READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}[w%4]
		conn.do(`SET default_transaction_isolation = '` + strings.ToLower(level) + `'`)
		writing.Go(func() {
			for acknowledged.Load() < changes {
				// Ascending, so that writers do not deadlock with each other.
				low, n := rand.IntN(keys-4), 1+rand.IntN(4)
				var sql strings.Builder
				for i := range n {
					fmt.Fprintf(&sql, "UPDATE keysidecar.public_keys SET expires_at = clock_timestamp() + '1 h' WHERE key_id = 'k%04d';", low+i)
				}
				err := conn.try("BEGIN;" + sql.String() + "COMMIT")
				if hasCode(err, "40001") || hasCode(err, "40P01") {
					retried.Add(1)
					if err = conn.try(`ROLLBACK`); err == nil {
						continue
					}
				}
				if err != nil {
					errs <- err
					return
				}
				acknowledged.Add(int64(n))
			}
		})
	}
	written := make(chan struct{})
	go func() { writing.Wait(); close(written) }()

	for done := false; !done; {
		select {
		case err := <-errs:
			t.Fatal(err)
		case <-written:
			done = true // one more step sees everything
		default:
		}
		if err := r.step(); err != nil {
			t.Fatal(err)
		}
	}
	for before := int64(-1); before != r.seq; {
		before = r.seq
		if err := r.step(); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := int64(len(r.all)), acknowledged.Load(); got != want {
		t.Errorf("the reader saw %d events of %d acknowledged changes", got, want)
	}
	inLog := one[int64](s, "SELECT count(*) FROM keysidecar.events WHERE seq > $1", begun)
	if inLog != int64(len(r.all)) {
		t.Errorf("the log has %d events, the reader saw %d: some became visible late", inLog, len(r.all))
	}
	t.Logf("%d changes, %d events, %d transactions to be retried", acknowledged.Load(), len(r.all), retried.Load())
}
