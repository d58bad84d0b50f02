package schema_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// A crash empties the tables that changes pass through (they are unlogged) and
// may leave a hole in the numbers. It must not part a key from its event.
func TestCrashPartsNoKeyFromItsEvent(t *testing.T) {
	t.Parallel()
	own := testenv.StartPostgres(t)
	dsn := schematest.NewDatabase(t, own)
	s := connect(t, dsn)
	s.do(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	var writing sync.WaitGroup
	begun := make(chan struct{}, 8)
	for w := range cap(begun) {
		conn := connect(t, dsn)
		writing.Go(func() {
			for i := 0; ; i++ {
				_, err := conn.Exec(context.Background(), fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('%d-%d', 'm_1', 'x')`, w, i))
				if err != nil {
					return // the server was killed
				}
				if i == 20 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	if err := own.Kill(); err != nil {
		t.Fatal(err)
	}
	writing.Wait()
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	s = connect(t, dsn)
	head := s.head()
	if n := one[int](s, `SELECT count(*) FROM keysidecar.public_keys k FULL JOIN (SELECT key_id FROM keysidecar.events WHERE kind = 'issued') e USING (key_id)
		WHERE k.key_id IS NULL OR e.key_id IS NULL`); n != 0 {
		t.Errorf("%d keys have no event, or events no key", n)
	}
	if !intact(s) {
		t.Error(problems(s))
	}
	s.do(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = '0-0'`)
	s.wantSince(head, "revoked 0-0 m_1")
	t.Logf("%d keys; the head before was %d, after %d", one[int](s, `SELECT count(*) FROM keysidecar.public_keys`), head, s.head())
}
