package checker

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

// records is a history in memory.
type records []history.Record

func (r records) Records() iter.Seq2[history.Record, error] {
	return func(yield func(history.Record, error) bool) {
		for _, rec := range r {
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// ms is a time of the test histories, which begin at 1,000 s.
func ms(n float64) int64 { return 1e12 + int64(n*1e6) }

const (
	sentAt  = 10_000 // when key k is revoked
	ackedAt = 10_002
	bound   = 3000
	seq     = 70 // the event's number
)

// clean is a run in which the key k is revoked, and two sidecars, 1 and 2, refuse
// it 20 ms later and when the bound is over.
func clean() records {
	r := records{
		&history.Meta{Seed: 1, MaxStaleness: bound * time.Millisecond, FenceInterval: time.Second, Version: "v"},
		&history.Incarnation{Name: "a", Process: 1, Began: ms(0)},
		&history.Incarnation{Name: "b", Process: 2, Began: ms(0)},
		&history.Incarnation{Name: "a", Process: 1, Began: ms(0), Ended: ms(60_000)},
		&history.Issue{KeyID: "k", AckedAt: ms(100)},
		&history.Revocation{KeyID: "k", Way: "update", SentAt: ms(sentAt), AckedAt: ms(ackedAt), Seq: seq},
	}
	for p := 1; p <= 2; p++ {
		r = append(r, active(p, 9_000), active(p, 9_990), revoked(p, 10_020), revoked(p, ackedAt+bound+500))
	}
	return r
}

type change func(*history.Request)

func request(p int, at float64, changes []change, q history.Request) *history.Request {
	q.Process, q.KeyID, q.SentAt, q.DoneAt = p, "k", ms(at), ms(at+1)
	q.History = "h"
	for _, c := range changes {
		c(&q)
	}
	return &q
}

// active is an answer to a request sent at a time, 1 ms long, from a state that
// was 500 ms old and did not know the revocation.
func active(p int, at float64, changes ...change) *history.Request {
	return request(p, at, changes, history.Request{Status: 200, Code: "active", Valid: true, Seq: seq - 1, AgeMS: 500, Source: "cache"})
}

// revoked is a refusal from a state that was 1 ms old.
func revoked(p int, at float64, changes ...change) *history.Request {
	return request(p, at, changes, history.Request{Status: 410, Code: "revoked", Seq: seq, AgeMS: 1, Source: "cache"})
}

func old(n int64) change     { return func(q *history.Request) { q.AgeMS = n } }
func cursor(n int64) change  { return func(q *history.Request) { q.Seq = n } }
func until(t float64) change { return func(q *history.Request) { q.DoneAt = ms(t) } }
func in(h string) change     { return func(q *history.Request) { q.History = h } }
func from(s string) change   { return func(q *history.Request) { q.Source = s } }
func code(status int, c string) change {
	return func(q *history.Request) { q.Status, q.Code = status, c }
}

func receipt(asked, complete float64) *history.Receipt {
	return &history.Receipt{KeyID: "k", Seq: seq, AskedAt: ms(asked), CompleteAt: ms(complete), Acknowledged: 2}
}

func restore(sent, acked float64) *history.Restore {
	r := &history.Restore{KeyID: "k", SentAt: ms(sent)}
	if acked > 0 {
		r.AckedAt = ms(acked)
	}
	return r
}

// planted are histories that one check alone finds something in.
func planted() map[string][]struct {
	name string
	add  records
} {
	type plant = struct {
		name string
		add  records
	}
	return map[string][]plant{
		Bound: {
			{"a moment after the bound", records{active(3, ackedAt+bound+0.001, old(5000))}},
			{"an hour after the bound", records{active(3, 3_600_000, old(4_000_000))}},
			{"by an incarnation that was under a fault", records{
				&history.Fault{Kind: "stopped", Process: []int{3}, BeganAt: ms(10_000), EndedAt: ms(15_000)}, active(3, 15_000, old(8000)),
			}},
			{"stale, marked as such", records{active(3, 14_000, old(5000), from("stale"))}},
			{"without as_of", records{active(3, 14_000, in(""), cursor(0), old(0))}},
			{"shortly before it was restored", records{restore(15_000, 15_001), active(3, 14_998, old(8000))}},
			{"when another incarnation's bound is longer", records{
				&history.Incarnation{Name: "d", Process: 4, Bound: time.Minute}, active(3, 14_000, old(5000)),
			}},
			{"after the incarnation's own bound, which is shorter", records{
				&history.Incarnation{Name: "d", Process: 4, Bound: time.Second}, active(4, 11_500, old(2000)),
			}},
		},
		ReceiptSound: {
			{"after a receipt", records{receipt(10_010, 10_040), active(3, 10_041)}},
			{"after a receipt that waited", records{
				&history.Receipt{KeyID: "k", AskedAt: ms(10_010), CompleteAt: ms(10_900), Expired: 1}, active(3, 11_000, old(2000)),
			}},
		},
		Resurrection: {
			{"from another state", records{revoked(3, 10_010, old(100)), active(3, 10_012)}},
			{"after a refusal that came before the acknowledgement", records{revoked(3, 10_000.1, old(100)), active(3, 10_012)}},
			{"after unknown, long after it was issued", records{revoked(3, 10_010, code(404, "unknown_key"), old(100)), active(3, 10_012)}},
			{"after the owner was refused", records{revoked(3, 10_010, code(403, "owner_suspended"), old(100)), active(3, 10_012)}},
			{"and refused again", records{revoked(3, 10_010, old(100)), active(3, 10_012), revoked(3, 10_014)}},
			{"after a refusal proven after the second revocation", records{
				restore(20_000, 20_001), &history.Revocation{KeyID: "k", SentAt: ms(21_000), AckedAt: ms(21_001), Seq: seq + 9},
				revoked(3, 21_020, old(1)), active(3, 21_030),
			}},
			{"after a refusal long after the restore", records{
				restore(20_000, 20_001), &history.Revocation{KeyID: "k", SentAt: ms(25_000), AckedAt: ms(25_001), Seq: seq + 9},
				revoked(3, 25_010, old(500)), active(3, 25_020),
			}},
		},
		CursorSound: {
			{"at the revocation", records{active(3, 10_010, cursor(seq)), revoked(3, 10_500)}},
			{"beyond it", records{active(3, 10_010, cursor(seq+5), from("database")), revoked(3, 10_500, cursor(seq+5))}},
		},
		Contradiction: {
			{"valid, status 410", records{active(3, 5000, code(410, "active"))}},
			{"valid, status 503", records{active(3, 5000, code(503, "active"))}},
			{"valid, revoked", records{active(3, 5000, code(200, "revoked"))}},
			{"valid, about another key", records{active(3, 5000, code(200, "another_key"))}},
			{"refused, status 200", records{revoked(3, 5000, code(200, "revoked"))}},
			{"refused, active", records{revoked(3, 5000, code(403, "active"))}},
			{"a key that was never revoked", records{active(3, 5000, code(404, "active"), func(q *history.Request) { q.KeyID = "other" })}},
		},
		AsOfSound: {
			{"asked after the acknowledgement", records{active(3, 10_100, old(20))}},
			{"from the database", records{active(3, 10_100, old(20), from("database"))}},
		},
	}
}

// Each check finds what was planted for it, alone, in whatever order the records
// come; without it the history is clean.
func TestPlantedViolationsAreMissed(t *testing.T) {
	all := planted()
	for _, check := range Checks() {
		if len(all[check]) == 0 {
			t.Errorf("nothing is planted for %s", check)
		}
	}
	for checkName, plants := range all {
		for _, p := range plants {
			t.Run(checkName+"/"+p.name, func(t *testing.T) {
				src := append(append(clean(), &history.Incarnation{Name: "c", Process: 3}), p.add...)
				rng := rand.New(rand.NewPCG(1, 1))
				for range 20 {
					r := mustCheck(t, src)
					if r.Violations[checkName] == 0 || r.Err() == nil {
						t.Fatal("not found")
					}
					if r.Total() != r.Violations[checkName] {
						t.Fatalf("others found something, too: %v\n%v", r.Violations, r.Examples)
					}
					rng.Shuffle(len(src), func(i, j int) { src[i], src[j] = src[j], src[i] })
				}
				r, err := check(src, []string{checkName})
				if err != nil || r.Err() != nil {
					t.Fatalf("without the check: %v %v", err, r.Err())
				}
			})
		}
	}
}

func mustCheck(t *testing.T, src records) *Report {
	t.Helper()
	r, err := Check(src)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatIsAllowedIsCalledAViolation(t *testing.T) {
	second := &history.Revocation{KeyID: "k", SentAt: ms(21_000), AckedAt: ms(21_001), Seq: seq + 9}
	for name, add := range map[string]records{
		"nothing else":                      nil,
		"valid until the bound":             {active(3, ackedAt+bound, old(5000))},
		"sent before, answered long after":  {active(3, ackedAt+bound-1, old(5000), until(60_000))},
		"valid while it was being refused":  {revoked(3, 10_010, old(100)), active(3, 10_009, until(10_030))},
		"refused by another incarnation":    {revoked(3, 10_010), active(4, 10_012)},
		"unavailable first":                 {revoked(3, 10_010, code(503, "unavailable"), old(100)), active(3, 10_012)},
		"no answer first":                   {&history.Request{Process: 3, KeyID: "k", SentAt: ms(10_010), DoneAt: ms(10_011), Failed: true, Code: "timeout"}, active(3, 10_012)},
		"valid again after a restore":       {restore(20_000, 20_001), active(3, 20_001, old(0), cursor(seq+3))},
		"valid while it is restored":        {restore(20_000, 20_010), active(3, 19_999, old(0), until(20_005))},
		"restored, outcome unknown":         {restore(20_000, 0), active(3, 30_000, old(0), cursor(seq+3))},
		"after a receipt and a restore":     {receipt(10_010, 10_040), restore(20_000, 20_001), active(3, 20_001, old(0), cursor(seq+3))},
		"sent before the receipt came":      {receipt(10_010, 10_040), active(3, 10_039.9, until(10_060))},
		"receipt that never came":           {&history.Receipt{KeyID: "k", AskedAt: ms(10_010)}, active(3, 10_100)},
		"receipt for nothing":               {&history.Receipt{KeyID: "k", AskedAt: ms(5000), CompleteAt: ms(5001)}, active(3, 6000)},
		"refused before it was known":       {&history.Issue{KeyID: "k", AckedAt: ms(9_999)}, revoked(3, 10_001, code(404, "unknown_key"), old(100)), active(3, 10_010)},
		"refused for the time before":       {restore(20_000, 20_001), second, revoked(3, 21_005, old(2000)), active(3, 21_020)},
		"refused by an uncertain one":       {restore(20_000, 20_001), &history.Revocation{KeyID: "k", SentAt: ms(20_500)}, second, revoked(3, 21_005, old(2000)), active(3, 21_020)},
		"an uncertain revocation":           {&history.Revocation{KeyID: "u", SentAt: ms(1000)}, active(3, 30_000, old(1), cursor(999), func(q *history.Request) { q.KeyID = "u" })},
		"undone at the same time":           {&history.Revocation{KeyID: "u", SentAt: ms(1000), AckedAt: ms(1010)}, &history.Restore{KeyID: "u", SentAt: ms(1005), AckedAt: ms(1020)}, active(3, 30_000, old(1), func(q *history.Request) { q.KeyID = "u" })},
		"undone by a restore that was late": {restore(20_000, 0), second, active(3, 30_000, old(1), cursor(999))},
		"a longer bound":                    {&history.Incarnation{Process: 4, Bound: time.Minute}, active(4, 60_000, old(60_000), from("stale"))},
		"a cursor of another history":       {active(3, 10_010, in("other"), cursor(seq+100))},
		"a seq that nobody knows":           {&history.Revocation{KeyID: "s", SentAt: ms(1000), AckedAt: ms(1001)}, active(3, 1010, cursor(999), func(q *history.Request) { q.KeyID = "s" }), revoked(3, 12_000, cursor(999))},
		"as old as the acknowledgement":     {active(3, 10_100, old(98))},
		"expired":                           {revoked(3, 9000, code(410, "expired"))},
		"the verify route":                  {revoked(3, 12_000, code(403, "revoked"))},
	} {
		t.Run(name, func(t *testing.T) {
			src := append(clean(), &history.Incarnation{Process: 3}, &history.Incarnation{Process: 4})
			src = append(src, add...)
			rng := rand.New(rand.NewPCG(2, 2))
			for range 20 {
				if r := mustCheck(t, src); r.Err() != nil {
					t.Fatalf("%v\n%v", r.Err(), r.Examples)
				}
				// Records that replace others stay in order.
				if name != "refused before it was known" && !strings.Contains(name, "bound") {
					rng.Shuffle(len(src), func(i, j int) { src[i], src[j] = src[j], src[i] })
				}
			}
		})
	}
}

func TestAnEmptyRunProvesSomething(t *testing.T) {
	meta := clean()[0]
	for name, src := range map[string]records{
		"nothing":        nil,
		"no requests":    {meta, &history.Revocation{KeyID: "k", SentAt: 1, AckedAt: 2}},
		"no revocations": {meta, &history.Incarnation{Process: 1}, active(1, 1)},
		"only uncertain": {meta, &history.Incarnation{Process: 1}, active(1, 1), &history.Revocation{KeyID: "k", SentAt: 1}},
		"no meta":        clean()[1:],
		"no bound":       append(records{&history.Meta{}}, clean()[1:]...),
		"nobody asked after the bound": slices.DeleteFunc(clean(), func(r history.Record) bool {
			q, ok := r.(*history.Request)
			return ok && q.SentAt > ms(ackedAt+bound)
		}),
		"only failures after the bound": slices.Collect(func(yield func(history.Record) bool) {
			for _, r := range clean() {
				if q, ok := r.(*history.Request); ok && q.SentAt > ms(ackedAt+bound) {
					q.Failed, q.Status, q.Code = true, 0, "timeout"
				}
				if !yield(r) {
					return
				}
			}
		}),
		"a stranger answers": append(clean(), revoked(9, 12_000)),
	} {
		t.Run(name, func(t *testing.T) {
			if r := mustCheck(t, src); len(r.Problems) == 0 || r.Err() == nil {
				t.Fatal("accepted")
			}
		})
	}
	two := append(clean(), clean()...)
	if _, err := Check(two); err == nil {
		t.Fatal("two runs in one file were accepted")
	}
}

func TestWarningsAreNotCounted(t *testing.T) {
	src := append(clean(),
		active(1, 1000, cursor(50)), active(1, 1002, cursor(49)), // backwards
		active(1, 1004, cursor(51)), active(1, 1003.5, cursor(50), until(1006)), // at the same time
		active(1, 1010, cursor(49), from("database")), // as it was asked
		active(2, 1010, cursor(3)),                    // another's
		active(1, 1010, cursor(3), in("h2")),          // of another history
		active(1, 1020, cursor(49)),                   // backwards
		receipt(10_010, 10_011+bound+250), receipt(10_010, 10_010+bound+250), receipt(10_020, 10_030),
	)
	r := mustCheck(t, src)
	if r.Err() != nil {
		t.Fatal(r.Err(), r.Examples)
	}
	if r.Backwards != 2 {
		t.Errorf("%d cursors went backwards", r.Backwards)
	}
	if d := r.Receipts.Complete; d.Len() != 3 || d.Late != 1 {
		t.Errorf("%d receipts, %d late", d.Len(), d.Late)
	}
}

func TestFiguresAreWrong(t *testing.T) {
	src := records{clean()[0]}
	for p := range 10 {
		src = append(src, &history.Incarnation{Name: fmt.Sprint("s", p), Process: p})
	}
	src = append(src,
		&history.Fault{Kind: "paused", Process: []int{0, 1}, BeganAt: ms(11_000)},
		&history.Fault{Kind: "paused", Process: []int{0, 1}, BeganAt: ms(11_000), EndedAt: ms(11_500)}, // the same, ended
		&history.Fault{Kind: "broker", BeganAt: ms(20_000), EndedAt: ms(30_000)},
		&history.Fault{Kind: "long ago", BeganAt: ms(1), EndedAt: ms(2)},
	)
	// Two keys, revoked at 10 s and at 25 s, and refused n ms later by sidecar n.
	for i, at := range []float64{10_000, 25_000} {
		id := fmt.Sprint("key", i)
		src = append(src, &history.Revocation{KeyID: id, Way: "delete", SentAt: ms(at - 1), AckedAt: ms(at)})
		name := func(q *history.Request) { q.KeyID = id }
		for p := range 10 {
			src = append(src, active(p, at-5, name), revoked(p, at+float64(p), name), revoked(p, at+4000, name))
		}
	}
	src = append(src,
		&history.Request{Process: 5, SentAt: ms(25_500), DoneAt: ms(25_501), Failed: true, Code: "timeout"},
		request(5, 26_000, nil, history.Request{Status: 503, Code: "unavailable"}),
		request(5, 40_000, nil, history.Request{Status: 503, Code: "unavailable"}),
		request(5, 40_000, nil, history.Request{Status: 200, Code: "active", Valid: true, Source: "database"}),
		&history.Receipt{KeyID: "key0", AskedAt: ms(10_001), CompleteAt: ms(10_051)},
		&history.Receipt{KeyID: "key1", AskedAt: ms(25_001), CompleteAt: ms(28_001), Expired: 1},
		&history.Receipt{KeyID: "key1", AskedAt: ms(25_001)},
	)
	r := mustCheck(t, src)
	if r.Err() != nil {
		t.Fatal(r.Err(), r.Examples)
	}
	check := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("requests", r.All.Requests, int64(64))
	check("healthy requests", r.Healthy.Requests, int64(64-20-20-2+10)) // key1's last ten come at 29 s
	check("pairs", r.All.Pairs, int64(20))
	check("pairs under a fault", r.UnderFault.Pairs, int64(12))
	check("pairs past the bound", r.UnderFault.Past, int64(12))
	check("upper bound", r.UpperBound(), 0.25)
	check("time to deny p50", r.All.TimeToDeny.Quantile(0.5), 5*time.Millisecond)
	check("time to deny max", r.All.TimeToDeny.Quantile(1), 10*time.Millisecond)
	check("kinds", len(r.Kinds), 3)
	check("broker pairs", r.Kinds[0].Pairs, int64(10))
	check("broker p99", r.Kinds[0].TimeToDeny.Quantile(0.99), 10*time.Millisecond)
	check("broker availability", r.Kinds[0].Availability(), 1-2/float64(r.Kinds[0].Requests))
	check("long ago", r.Kinds[1].Pairs, int64(0))
	check("paused", r.Kinds[2].Pairs, int64(2))
	check("paused faults", r.Kinds[2].Faults, 1)
	check("failed", r.UnderFault.Failed, int64(1))
	check("503 healthy", r.Healthy.Unavailable, int64(1))
	check("from database", r.All.FromDatabase, int64(1))
	check("receipts", fmt.Sprint(r.Receipts.Asked, r.Receipts.Incomplete, r.Receipts.WithExpired), "3 1 1")
	check("healthy receipts", r.Receipts.Healthy.Quantile(0.5), 50*time.Millisecond)
	check("receipts under a fault", r.Receipts.UnderFault.Quantile(0.5), 3*time.Second)
	check("ways", r.Ways["delete"], 2)
	check("accepted", r.All.Accepted.Quantile(1), time.Duration(0))

	var text, markdown strings.Builder
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.Markdown(&markdown); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"25 %", "paused", "10.0 ms", "V8 as_of"} {
		if !strings.Contains(text.String(), want) || !strings.Contains(markdown.String(), want) {
			t.Errorf("%q is not printed:\n%s", want, text.String())
		}
	}
}

// A key that stays valid for a while, and comes back in between, is denied when
// it has been refused for good.
func TestTimeToDenyCountsTheFirstRefusal(t *testing.T) {
	src := append(clean(), &history.Incarnation{Process: 3},
		active(3, 10_100), revoked(3, 10_200, code(503, "unavailable"), in("")), active(3, 10_300, old(700)),
		revoked(3, 10_400, code(503, "unavailable"), in("")), revoked(3, 10_500), revoked(3, 14_000))
	r := mustCheck(t, src)
	if r.Err() != nil {
		t.Fatal(r.Err(), r.Examples)
	}
	if got, want := r.All.TimeToDeny.Quantile(1), 399*time.Millisecond; got != want {
		t.Errorf("denied after %v, want %v", got, want)
	}
	if got, want := r.All.Accepted.Quantile(1), 298*time.Millisecond; got != want {
		t.Errorf("accepted for %v, want %v", got, want)
	}
}

// A sidecar that starts long after a revocation refuses at its first answer; that
// is no time to deny.
func TestStartingLateCountsAsDenyingLate(t *testing.T) {
	src := append(clean(), &history.Incarnation{Process: 3, Began: ms(12_000)}, &history.Incarnation{Process: 3, Ended: ms(50_000)}, revoked(3, 12_500), revoked(3, 14_000))
	r := mustCheck(t, src)
	if r.Err() != nil {
		t.Fatal(r.Err(), r.Examples)
	}
	if r.All.Pairs != 3 || r.All.Born != 1 || r.All.TimeToDeny.Len() != 2 || r.All.TimeToDeny.Quantile(1) != 19*time.Millisecond {
		t.Errorf("%d pairs, %d born later, denied after %v", r.All.Pairs, r.All.Born, r.All.TimeToDeny.Quantile(1))
	}
	// And what it says is a violation all the same.
	if r := mustCheck(t, append(src, active(3, 12_600, old(100)))); r.Violations[Resurrection] == 0 {
		t.Error("a resurrection was missed")
	}
}

func TestTimelinesForgetAFault(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		var faults []*history.Fault
		for range rng.IntN(8) {
			f := &history.Fault{Kind: fmt.Sprint("kind", rng.IntN(3)), BeganAt: rng.Int64N(50)}
			if rng.IntN(4) > 0 {
				f.EndedAt = f.BeganAt + 1 + rng.Int64N(20)
			}
			for p := range 3 {
				if rng.IntN(3) == 0 {
					f.Process = append(f.Process, p)
				}
			}
			faults = append(faults, f)
		}
		lines := newTimelines(faults)
		for range 100 {
			p, a := rng.IntN(4)-1, rng.Int64N(80)-2
			b := a + rng.Int64N(10)
			want := make(map[string]bool)
			for _, f := range faults {
				if (p == anywhere || len(f.Process) == 0 || slices.Contains(f.Process, p)) && f.BeganAt <= b && (f.EndedAt == 0 || f.EndedAt >= a) {
					want[f.Kind] = true
				}
			}
			var got []string
			for _, k := range lines.during(p, a, b) {
				got = append(got, lines.kinds[k])
			}
			if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(got, sorted) {
				t.Fatalf("process %d, [%d, %d]: %v, want %v", p, a, b, got, sorted)
			}
		}
	}
}

// A torn file is an error, whatever was read before.
func TestTornHistoryIsJudged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	w, err := history.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range clean() {
		w.Add(r)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if report, err := Check(r); err != nil || report.Err() != nil {
		t.Fatal(err, report)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-1); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(r); err == nil || !strings.Contains(err.Error(), "torn") {
		t.Fatalf("error %v", err)
	}
}

// Claims that were closed long ago are still held against every answer.
func TestLongRunForgetsItsRevocations(t *testing.T) {
	src := clean()
	for i := range 3000 {
		id := fmt.Sprint("later", i)
		at := 20_000 + float64(i)*1000
		name := func(q *history.Request) { q.KeyID = id }
		src = append(src, &history.Revocation{KeyID: id, SentAt: ms(at), AckedAt: ms(at + 1)}, active(1, at-10, name), revoked(1, at+10, name), revoked(1, at+4000, name))
	}
	src = append(src, active(2, 2_900_000, old(2_900_000-5000)))
	r := mustCheck(t, src)
	if r.All.Pairs != 3002 || r.Violations[Bound] != 1 || r.Total() != 1 {
		t.Fatalf("%d pairs, %v", r.All.Pairs, r.Violations)
	}
}
