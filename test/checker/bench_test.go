package checker

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

// BenchmarkCheck reads a run of 8 sidecars with a fault a second and 30
// revocations a second, 1,500 requests a second each.
func BenchmarkCheck(b *testing.B) {
	const requests = 2_000_000
	path := filepath.Join(b.TempDir(), "h")
	w, err := history.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	w.Add(&history.Meta{MaxStaleness: 3 * time.Second})
	for p := range 8 {
		w.Add(&history.Incarnation{Name: fmt.Sprint("s", p), Process: p})
	}
	now := int64(1e12)
	revoked := 0
	for i := range requests {
		now += 83_000
		if i%400 == 0 {
			id := fmt.Sprint("pk_", revoked)
			w.Add(&history.Issue{KeyID: id, AckedAt: now - 2e9})
			w.Add(&history.Revocation{KeyID: id, Way: "update", SentAt: now - 1e6, AckedAt: now, Seq: int64(revoked)})
			revoked++
		}
		if i%12_000 == 0 {
			w.Add(&history.Fault{Kind: fmt.Sprint("kind", rng.IntN(27)), BeganAt: now, EndedAt: now + 1e9 + rng.Int64N(5e9)})
		}
		q := history.Request{Process: i % 8, SentAt: now, DoneAt: now + 100_000, Status: 200, Code: "active", Valid: true, History: "h", Seq: int64(revoked), AgeMS: 900, Source: "cache"}
		switch rng.IntN(3) {
		case 0:
			q.KeyID = fmt.Sprint("hot", rng.IntN(1000))
		default:
			q.KeyID = fmt.Sprint("pk_", max(0, revoked-1-rng.IntN(120)))
			q.Status, q.Code, q.Valid = 410, "revoked", false
		}
		w.Request(&q)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	r, err := history.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	b.ResetTimer()
	for b.Loop() {
		report, err := Check(r)
		if err != nil || report.Err() != nil {
			b.Fatal(err, report.Err())
		}
	}
	b.ReportMetric(float64(b.N)*requests/b.Elapsed().Seconds(), "requests/s")
}
