package load

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keysidecar/keysidecar/test/history"
)

func TestAnswersAreWrittenDownWrong(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		switch id := keyOf(r); {
		case strings.HasPrefix(id, "made-up-"):
			say(w, 404, `{"valid":false,"code":"unknown_key","key_id":%q,"as_of":{"history":"h","seq":7,"age_ms":1},"source":"database"}`, id)
		case id == "none":
			say(w, 503, `{"valid":false,"code":"unavailable","key_id":"none","as_of":null,"source":null}`)
		case id == "full":
			w.Header().Set("Connection", "close")
			say(w, 503, `too many connections`)
		case id == "other":
			activeKey(w, "another")
		case id == "broken":
			say(w, 200, `{"valid":tr`)
		case id == "cut":
			panic(http.ErrAbortHandler)
		default:
			activeKey(w, id)
		}
	})
	h := newTape(t)
	p := NewProber(ProberOptions{
		Socket: f.socket, Process: 4, History: h.Writer, Rate: 2000, MadeUp: 0.2, Hot: []string{"k", "none", "full", "other", "broken", "cut"}, Seed: 1,
	})
	stop := drive(t, p.Run)
	eventually(t, "a thousand requests", func() bool { return h.Records() >= 1000 })
	stop()
	seen := make(map[string]bool)
	for _, q := range all[history.Request](t, h) {
		name := q.KeyID
		if strings.HasPrefix(name, "made-up-") {
			name = "made-up"
		}
		seen[name] = true
		if q.Process != 4 || q.DoneAt <= q.SentAt {
			t.Fatalf("%+v", q)
		}
		got := history.Request{Status: q.Status, Code: q.Code, Valid: q.Valid, History: q.History, Seq: q.Seq, AgeMS: q.AgeMS, Source: q.Source, Failed: q.Failed}
		want := map[string]history.Request{
			"k":       {Status: 200, Code: "active", Valid: true, History: "9f2c01ab", Seq: 1234, AgeMS: 412, Source: "cache"},
			"made-up": {Status: 404, Code: "unknown_key", History: "h", Seq: 7, AgeMS: 1, Source: "database"},
			"none":    {Status: 503, Code: "unavailable"},
			"full":    {Status: 503},
			"other":   {Status: 200, Code: "another_key", Valid: true, History: "9f2c01ab", Seq: 1234, AgeMS: 412, Source: "cache"},
			"broken":  {Failed: true, Code: "malformed"},
			"cut":     {Failed: true, Code: "closed"},
		}[name]
		if got != want {
			t.Fatalf("%s: %+v, want %+v", name, got, want)
		}
	}
	if len(seen) != 7 {
		t.Errorf("asked for %v", seen)
	}
}

// A prober goes on through restarts, and says of each answer who gave it.
func TestRestartEndsTheProber(t *testing.T) {
	var process, answered atomic.Int64
	process.Store(1)
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		answered.Add(1)
		say(w, 410, `{"valid":false,"code":"revoked","key_id":%q,"as_of":{"history":"h","seq":%d,"age_ms":1},"source":"cache"}`, keyOf(r), process.Load())
	})
	h := newTape(t)
	p := NewProber(ProberOptions{Socket: f.socket, Process: 1, History: h.Writer, Rate: 1000, Hot: []string{"k"}})
	stop := drive(t, p.Run)
	for next := int64(2); next <= 4; next++ {
		n := answered.Load()
		eventually(t, "answers", func() bool { return answered.Load() > n+50 })
		f.stop()
		refused := h.Records()
		eventually(t, "failures", func() bool { return h.Records() > refused+3 })
		p.SetProcess(int(next))
		process.Store(next)
		f.start()
	}
	n := answered.Load()
	eventually(t, "answers", func() bool { return answered.Load() > n+50 })
	stop()
	failed := 0
	by := make(map[int]int)
	for _, q := range all[history.Request](t, h) {
		if q.Failed {
			failed++
			if q.Code != "refused" && q.Code != "closed" {
				t.Errorf("failed: %q", q.Code)
			}
			continue
		}
		by[q.Process]++
		if q.Seq != int64(q.Process) {
			t.Fatalf("process %d answered, %d is written down", q.Seq, q.Process)
		}
	}
	if failed == 0 || len(by) != 4 {
		t.Errorf("%d failed, answers %v", failed, by)
	}
}

func TestHangingSidecarHoldsTheProberForEver(t *testing.T) {
	release := make(chan struct{})
	f := newFake(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	h := newTape(t)
	p := NewProber(ProberOptions{Socket: f.socket, History: h.Writer, Rate: 100, Hot: []string{"k"}, Timeout: 50 * time.Millisecond, Workers: 1})
	stop := drive(t, p.Run)
	eventually(t, "time-outs", func() bool { return h.Records() >= 3 })
	stop()
	for _, q := range all[history.Request](t, h) {
		if took := time.Duration(q.DoneAt - q.SentAt); !q.Failed || q.Code != "timeout" || took < 50*time.Millisecond {
			t.Errorf("%+v", q)
		}
	}
}

// Watched keys are asked for all their life: before the revocation, often until
// they are refused, and after the bound, however late the answer comes.
func TestWatchedKeyIsLeftAlone(t *testing.T) {
	const bound = 300 * time.Millisecond
	var mu sync.Mutex
	refuse := make(map[string]bool)
	var away atomic.Bool
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		id := keyOf(r)
		mu.Lock()
		no := refuse[id]
		mu.Unlock()
		switch {
		case away.Load():
			panic(http.ErrAbortHandler)
		case no:
			say(w, 410, `{"valid":false,"code":"revoked","key_id":%q,"as_of":null,"source":"cache"}`, id)
		default:
			activeKey(w, id)
		}
	})
	h := newTape(t)
	watch := new(Watch)
	p := NewProber(ProberOptions{Socket: f.socket, History: h.Writer, Watch: watch, Bound: bound, Workers: 3})
	stop := drive(t, p.Run)
	ids := []string{"a", "b", "c", "d", "e", "f"}
	var watched []*Watched
	for _, id := range ids {
		watched = append(watched, watch.Add(id))
	}
	n := h.Records()
	eventually(t, "requests before the revocation", func() bool { return h.Records() > n+20 })
	sentAt := history.Now()
	for _, k := range watched {
		k.Revoking()
	}
	n = h.Records()
	eventually(t, "requests while it is not known", func() bool { return h.Records() > n+100 })
	mu.Lock()
	for _, id := range ids {
		refuse[id] = true
	}
	mu.Unlock()
	ackedAt := history.Now()
	for _, k := range watched {
		k.Revoked(ackedAt)
	}
	// Nothing is answered from now on until long after the bound.
	away.Store(true)
	eventually(t, "the bound to pass", func() bool { return history.Now() > ackedAt+int64(bound+1500*time.Millisecond) })
	away.Store(false)
	// Each is asked until it has answered once, and then never again.
	eventually(t, "silence", func() bool {
		n := h.Records()
		from := history.Now()
		eventually(t, "a while", func() bool { return history.Now() > from+3*slowly })
		return h.Records() == n
	})
	stop()
	type count struct{ before, during, past int }
	got := make(map[string]*count)
	for _, id := range ids {
		got[id] = new(count)
	}
	for _, q := range all[history.Request](t, h) {
		c := got[q.KeyID]
		switch {
		case q.Failed:
		case q.SentAt < sentAt:
			c.before++
		case q.SentAt <= ackedAt:
			c.during++
		case q.SentAt > ackedAt+int64(bound):
			c.past++
		}
	}
	for id, c := range got {
		if c.before < 2 || c.during < 8 || c.past < 1 {
			t.Errorf("%s: asked %d times before, %d times during, answered %d times past", id, c.before, c.during, c.past)
		}
	}
}

// Keys without a claim leave the schedule, too.
func TestScheduleKeepsWhatIsOver(t *testing.T) {
	const bound = int64(3e9)
	watch := new(Watch)
	s := schedule{watch: watch, workers: 1, every: 20e6, atMost: 50e6, bound: bound, items: make(map[*Watched]*item)}
	now := history.Now()
	dropped, acked, silent := watch.Add("dropped"), watch.Add("acked"), watch.Add("silent")
	for _, k := range []*Watched{dropped, acked, silent} {
		k.Revoking()
	}
	dropped.Drop()
	acked.Revoked(now)
	silent.Revoked(now)
	s.take(now)
	left := func(at int64) []string {
		var ids []string
		for i := 0; i < 3 && len(s.queue) > 0; i++ {
			it := s.first()
			it.due = at + 1
			s.asked(it, at, at, it.keyID != "silent", false)
		}
		for k := range s.items {
			ids = append(ids, k.keyID)
		}
		slices.Sort(ids)
		return ids
	}
	if got := left(now + bound); len(got) != 3 {
		t.Errorf("before the bound: %v", got)
	}
	if got := left(now + bound + after + 1e9); !slices.Equal(got, []string{"silent"}) {
		t.Errorf("after the bound: %v", got)
	}
	if got := left(now + bound + lingers + 1e9); len(got) != 0 {
		t.Errorf("a minute later: %v", got)
	}
}

// BenchmarkProber tells what asking costs this process: the share of a core for
// 1,500 requests a second, the server's own part included.
func BenchmarkProber(b *testing.B) {
	f := newFake(b, func(w http.ResponseWriter, r *http.Request) { activeKey(w, keyOf(r)) })
	h := newTape(b)
	p := NewProber(ProberOptions{Socket: f.socket, History: h.Writer, Rate: 1500, Hot: []string{"k1", "k2"}})
	before, from := cpu(b), history.Now()
	stop := drive(b, p.Run)
	eventually(b, "requests", func() bool { return h.Records() >= 7500 })
	took := history.Now() - from
	b.ReportMetric(100*float64(cpu(b)-before)/float64(took), "%core")
	b.ReportMetric(float64(h.Records())/(float64(took)/1e9), "requests/s")
	stop()
	_ = h.Close()
}

func cpu(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
