package schema_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Savepoints undo changes, rows of pending and queued triggers, each in a way of
// its own; random transactions find combinations that nobody thinks of. The log
// must have exactly the changes that survived, in their order.
func TestRandomTransactionsAreCapturedExactly(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	serial := 0
	for range 400 {
		head := s.head()
		var script []string
		levels := [][]string{nil} // changes of the transaction and of each open savepoint
		top := func() *[]string { return &levels[len(levels)-1] }
		step := func(sql string) {
			script = append(script, sql)
			s.do(sql)
		}
		step(`BEGIN`)
		for range 1 + random.IntN(12) {
			switch n := random.IntN(10); {
			case n < 5:
				serial++
				*top() = append(*top(), fmt.Sprintf("issued k%d m_1", serial))
				step(fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('k%d', 'm_1', 'x')`, serial))
			case n < 7:
				step(fmt.Sprintf(`SAVEPOINT s%d`, len(levels)))
				levels = append(levels, nil)
			case n < 8 && len(levels) > 1: // undo, and keep the savepoint
				*top() = nil
				step(fmt.Sprintf(`ROLLBACK TO s%d`, len(levels)-1))
			case n < 9 && len(levels) > 1:
				released := *top()
				levels = levels[:len(levels)-1]
				*top() = append(*top(), released...)
				step(fmt.Sprintf(`RELEASE s%d`, len(levels)))
			case n == 9:
				step(fmt.Sprintf(`SET CONSTRAINTS ALL %s`, []string{"IMMEDIATE", "DEFERRED"}[random.IntN(2)]))
			}
		}
		want := slices.Concat(levels...)
		if random.IntN(5) == 0 {
			want = nil
			step(`ROLLBACK`)
		} else {
			step(`COMMIT`)
		}
		if got := s.since(head); !slices.Equal(got, want) {
			t.Fatalf("seed %d:\n%s\ngave  %q\nwanted %q", seed, strings.Join(script, ";\n"), got, want)
		}
	}
	if n := one[int](s, `SELECT (SELECT count(*) FROM keysidecar.staging) + (SELECT count(*) FROM keysidecar.pending)`); n != 0 {
		t.Errorf("seed %d: %d rows of finished transactions are left over", seed, n)
	}
}
