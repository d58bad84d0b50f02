package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

type batchAnswer struct {
	Verdicts []struct {
		Valid  bool
		Code   string
		KeyID  string `json:"key_id"`
		Source *string
	}
}

func (s *service) batch(body string, opts ...requestOption) (*answer, batchAnswer) {
	s.t.Helper()
	a := s.do("POST", "/v1/verify/batch", body, opts...)
	var b batchAnswer
	if err := json.Unmarshal(a.body, &b); err != nil {
		s.t.Fatal(err)
	}
	return a, b
}

// codes is "key_id=code" for each verdict.
func (b *batchAnswer) codes() string {
	var all []string
	for _, v := range b.Verdicts {
		all = append(all, v.KeyID+"="+v.Code)
	}
	return strings.Join(all, " ")
}

func TestABatchIsAnsweredInOrder(t *testing.T) {
	t.Parallel()
	s := start(t)
	const body = `{"requests":[{"key_id":"pk_none"},{"key_id":"pk_live_1","owner_id":"m_1"},{"key_id":"pk_live_1","scopes":["admin"]},` +
		`{"key_id":"pk_revoked"},{"key_id":"pk_live_1"},{"key_id":"pk_live_1","attributes":{"env":"live"}},{"key_id":"pk_live_1","owner_id":"m_2"}]}`
	const want = "pk_none=unknown_key pk_live_1=active pk_live_1=scope_missing pk_revoked=revoked pk_live_1=active pk_live_1=active pk_live_1=owner_mismatch"
	a, b := s.batch(body)
	if a.status != 200 || b.codes() != want {
		t.Errorf("%d %s", a.status, b.codes())
	}
	if strings.Count(string(a.body), "public_key") != 3 {
		t.Errorf("a negative verdict holds a key: %s", a.body)
	}
	// Whatever part of it must be read from the database first.
	for _, remote := range [][]string{{"pk_live_1"}, {"pk_none"}, {"pk_revoked", "pk_none"}, {"pk_live_1", "pk_none", "pk_revoked"}} {
		s.keys.set(func(f *fakeKeys) {
			clear(f.remote)
			for _, id := range remote {
				f.remote[id] = true
			}
		})
		if a, b := s.batch(body); a.status != 200 || b.codes() != want {
			t.Errorf("%v in the database only: %d %s", remote, a.status, b.codes())
		}
	}
	if got := s.metric("keysidecar_verdicts_total"); got != 35 {
		t.Errorf("verdicts counted: %v", got)
	}
}

func TestABatchIsUnavailableAsAWholeUnlessPartial(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) { f.unavailableKeys["pk_odd"] = true })
	for _, remote := range []bool{false, true} {
		s.keys.set(func(f *fakeKeys) { f.remote["pk_odd"] = remote; f.remote["pk_live_1"] = remote })
		a, b := s.batch(`{"requests":[{"key_id":"pk_live_1"},{"key_id":"pk_odd"}]}`)
		if a.status != 503 || a.code() != "unavailable" || len(b.Verdicts) != 0 || a.header.Get("Retry-After") != "1" {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a, _ := s.batch(`{"requests":[{"key_id":"pk_odd"}],"partial":false}`); a.status != 503 {
			t.Errorf("partial false: %d", a.status)
		}
		for _, body := range []string{
			`{"requests":[{"key_id":"pk_live_1"},{"key_id":"pk_odd"},{"key_id":"pk_revoked"}],"partial":true}`,
			`{"partial":true,"requests":[{"key_id":"pk_live_1"},{"key_id":"pk_odd"},{"key_id":"pk_revoked"}]}`,
		} {
			a, b := s.batch(body)
			if a.status != 200 || b.codes() != "pk_live_1=active pk_odd=unavailable pk_revoked=revoked" || b.Verdicts[1].Valid || b.Verdicts[1].Source != nil {
				t.Errorf("%d %s", a.status, a.body)
			}
		}
	}
	s.keys.set(func(f *fakeKeys) { f.reason = keystore.ReasonLeaseOver })
	if a, _ := s.batch(`{"requests":[{"key_id":"pk_live_1"},{"key_id":"pk_live_1"}]}`); a.status != 503 {
		t.Errorf("%d", a.status)
	}
	if a, b := s.batch(`{"requests":[{"key_id":"pk_live_1"},{"key_id":"pk_live_1"}],"partial":true}`); a.status != 200 || b.codes() != "pk_live_1=unavailable pk_live_1=unavailable" {
		t.Errorf("%d %s", a.status, b.codes())
	}
}

func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	s := start(t)
	items := func(n int) string {
		return `{"requests":[` + strings.TrimSuffix(strings.Repeat(`{"key_id":"pk_live_1"},`, n), ",") + `]}`
	}
	if a, b := s.batch(items(1000)); a.status != 200 || len(b.Verdicts) != 1000 {
		t.Errorf("1000: %d", a.status)
	}
	if a := s.do("POST", "/v1/verify/batch", items(1001)); a.status != 413 || a.code() != "batch_too_large" {
		t.Errorf("1001: %d %s", a.status, a.body)
	}
	for body, want := range map[string][2]string{
		`{}`:                         {"missing_member", "requests"},
		`{"partial":true}`:           {"missing_member", "requests"},
		`{"requests":[]}`:            {"bad_member", "requests"},
		`{"requests":null}`:          {"bad_member", "requests"},
		`{"requests":{}}`:            {"bad_member", "requests"},
		`{"requests":["pk_live_1"]}`: {"bad_member", "requests[0]"},
		`{"requests":[null]}`:        {"bad_member", "requests[0]"},
		`{"requests":[{"key_id":"a"}],"partial":1}`:    {"bad_member", "partial"},
		`{"requests":[{"key_id":"a"}],"partial":null}`: {"bad_member", "partial"},
		`{"requests":[{"key_id":"a"}],"partal":true}`:  {"unknown_member", "partal"},
		`{"requests":[{"key_id":"a"}],"requests":[]}`:  {"duplicate_member", "requests"},
		`{"requests":[{"key_id":"a"},]}`:               {"malformed_json", ""},
		`{"requests":[{"key_id":"a"}`:                  {"malformed_json", ""},
		`{"requests":[{"key_id":"a"}],"partial":tru}`:  {"malformed_json", ""},
		`{"requests":[{"key_id":"a"}]} x`:              {"malformed_json", ""},
		`[{"key_id":"a"}]`:                             {"malformed_json", ""},
		`{"key_id":"a"}`:                               {"unknown_member", "key_id"},
	} {
		a := s.do("POST", "/v1/verify/batch", body)
		if m := a.json(t); a.status != 400 || m["code"] != want[0] || want[1] != "" && m["member"] != want[1] {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	big := `{"requests":[` + strings.TrimSuffix(strings.Repeat(`{"key_id":"pk_live_1","owner_id":"`+strings.Repeat("m", 200)+`"},`, 900), ",") + `]}`
	if len(big) < maxBody {
		t.Fatal("not large enough")
	}
	if a, b := s.batch(big); a.status != 200 || len(b.Verdicts) != 900 {
		t.Errorf("a batch of %d bytes: %d", len(big), a.status)
	}
	if a := s.do("POST", "/v1/verify", big); a.status != 413 {
		t.Errorf("a single question of %d bytes: %d", len(big), a.status)
	}
	s.mustServe()
}

// Keys that must be read are read several at a time and all in the same order;
// with no-cache one fence after the request serves them all.
func TestABatchReadsSeveralKeysAtATime(t *testing.T) {
	t.Parallel()
	s := start(t)
	wait := make(chan struct{})
	var items []string
	s.keys.set(func(f *fakeKeys) {
		f.wait = wait
		for i := range 20 {
			id := fmt.Sprintf("pk_%d", i)
			f.keys[id] = with(f.keys["pk_live_1"], func(k *keystore.Key) { k.ID = id })
			f.remote[id] = true
			items = append(items, `{"key_id":"`+id+`"}`)
		}
	})
	done := make(chan batchAnswer)
	go func() {
		_, b := s.batch(`{"requests":[`+strings.Join(items, ",")+`]}`, header("Cache-Control", "no-cache"))
		done <- b
	}()
	for range batchReaders {
		<-s.keys.entered
	}
	close(wait)
	b := <-done
	for i, v := range b.Verdicts {
		if want := fmt.Sprintf("pk_%d", i); v.KeyID != want || !v.Valid {
			t.Errorf("verdict %d: %+v", i, v)
		}
	}
	if len(b.Verdicts) != 20 {
		t.Errorf("%d verdicts", len(b.Verdicts))
	}
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	for _, c := range s.keys.calls {
		if !c.bounds.OnlyIfCached && (c.bounds.NoCache || !c.bounds.HasMaxAge || c.bounds.MaxAge > 10*time.Second) {
			t.Errorf("asked with %+v", c.bounds)
		}
	}
}

// A batch whose reads hang ends by its own time, not by the sum of theirs.
func TestABatchEndsInTime(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) {
		f.wait = make(chan struct{})
		f.remote["pk_live_1"] = true
	})
	body := `{"partial":true,"requests":[` + strings.TrimSuffix(strings.Repeat(`{"key_id":"pk_live_1"},`, 100), ",") + `]}`
	began := time.Now()
	a, b := s.batch(body)
	if took := time.Since(began); a.status != 200 || len(b.Verdicts) != 100 || took > batchTime+2*time.Second {
		t.Errorf("%d, %d verdicts after %v", a.status, len(b.Verdicts), took)
	}
	for _, v := range b.Verdicts {
		if v.Valid || v.Code != "unavailable" {
			t.Fatalf("%+v", v)
		}
	}
}

// A panic in one of a batch's readers answers 500; it does not end the daemon.
func TestAPanicIsAnsweredAndSurvived(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, value := range []any{"internal text: sk_secret", fmt.Errorf("hunter2")} {
		s.keys.set(func(f *fakeKeys) { f.panics = value })
		for _, ask := range [][3]string{
			{"GET", "/v1/keys/pk_live_1", ""}, {"GET", "/v1/status", ""}, {"POST", "/v1/verify", `{"key_id":"pk_live_1"}`},
			{"POST", "/v1/verify/batch", `{"requests":[{"key_id":"pk_live_1"}]}`},
		} {
			if a := s.do(ask[0], ask[1], ask[2]); a.status != 500 || a.code() != "internal" || strings.Contains(string(a.body), "sk_") {
				t.Errorf("%s: %d %s", ask[1], a.status, a.body)
			}
		}
	}
	s.keys.set(func(f *fakeKeys) { f.panics = nil })
	if got := s.metric("keysidecar_http_panics_total"); got != 8 {
		t.Errorf("panics counted: %v", got)
	}
	s.mustServe()
}

// What is put together for many keys is what each would be told by itself: by a real
// store, whose memory is asked for several keys at a time.
func TestABatchSaysWhatSingleQuestionsAreTold(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.Keys = manyKeys(t, 50) })
	ages := regexp.MustCompile(`"age_ms":\d+`)
	plain := func(body []byte) string { return string(ages.ReplaceAll(bytes.TrimSpace(body), []byte(`"age_ms":0`))) }
	var questions, want []string
	for i := range 60 { // the last ten are unknown
		for _, q := range []string{
			`{"key_id":"` + rowID(i) + `"}`, `{"key_id": "` + rowID(i) + `"}`, `{"key_id":"pk_bench\u005f` + rowID(i)[len("pk_bench_"):] + `"}`,
			`{"owner_id":"m_0","key_id":"` + rowID(i) + `"}`, `{"key_id":"` + rowID(i) + `","owner_id":"m_1"}`,
			`{"key_id":"` + rowID(i) + `","scopes":["pay"]}`, `{"key_id":"` + rowID(i) + `","scopes":["pay","x"]}`,
			`{"key_id":"` + rowID(i) + `","attributes":{"a":1}}`, `{"key":"` + rowID(i) + `"}`,
		} {
			questions = append(questions, q)
			want = append(want, plain(s.do("POST", "/v1/verify", q).body))
		}
	}
	for _, n := range []int{1, keystore.MaxTogether - 1, keystore.MaxTogether, keystore.MaxTogether + 1, len(questions)} {
		a := s.do("POST", "/v1/verify/batch", `{"requests":[`+strings.Join(questions[:n], ",")+`]}`)
		if got := plain(a.body); got != `{"verdicts":[`+strings.Join(want[:n], ",")+`]}` {
			t.Errorf("%d questions: %s", n, got)
		}
	}
	before := s.metric("keysidecar_verdicts_total")
	a := s.do("POST", "/v1/verify/batch", `{"requests":[`+strings.Join(questions[:keystore.MaxTogether+2], ",")+`,{"key_id":""}]}`)
	if want := fmt.Sprintf("requests[%d].key_id", keystore.MaxTogether+2); a.status != 400 || !strings.Contains(string(a.body), want) {
		t.Errorf("%d %s, want %s", a.status, a.body, want)
	}
	if n := s.metric("keysidecar_verdicts_total") - before; n != keystore.MaxTogether+2 {
		t.Errorf("%v verdicts counted before a mistake", n)
	}
}

// byKeyID takes only what question would take, and reads it as question does.
func TestTheShortestQuestionIsReadLikeOthers(t *testing.T) {
	t.Parallel()
	texts := []string{
		``, `{`, `{"key_id":"`, `{"key_id":"a`, `{"key_id":"a"`, `{"key_id":"a"}`, `{"key_id":"a"},`, `{"key_id":"a"}]`, `{"key_id":"a" }`, `{"key_id" :"a"}`,
		`{"key_id":""}`, `{"key_id":"."}`, `{"key_id":".."}`, `{"key_id":"..."}`, `{"key_id":"a b"}`, `{"key_id":"a\"}`, `{"key_id":"a\\"}`, `{"key_id":"\u0061"}`,
		`{"key_id":"é"}`, "{\"key_id\":\"\xff\"}", "{\"key_id\":\"a\n\"}", `{"key_id":"a","key_id":"a"}`, `{"key_id":"a"}}`, `{"key_id":null}`,
		`{"key_id":"` + strings.Repeat("a", keystore.MaxIDBytes) + `"}`, `{"key_id":"` + strings.Repeat("a", keystore.MaxIDBytes+1) + `"}`,
	}
	draw := rand.New(rand.NewPCG(1, 3))
	const from = `{"key_id":"pk_live_1"}`
	for range 20_000 {
		b := []byte(from)
		for range 1 + draw.IntN(2) {
			b[draw.IntN(len(b))] = byte(draw.IntN(256))
		}
		texts = append(texts, string(b))
	}
	taken := 0
	for _, text := range texts {
		old := question{ownerID: []byte("m"), scopes: [][]byte{{'s'}}, attributes: []attribute{{}}, signed: signed{has: hasSignature}}
		var quick, slow bodyReader
		q, want := old, old
		quick.reset([]byte(text), nil)
		if !quick.byKeyID(&q) {
			if quick.at != 0 {
				t.Errorf("%q: %d bytes were read", text, quick.at)
			}
			continue
		}
		taken++
		slow.reset([]byte(text), nil)
		if err := slow.question(&want); err != nil || quick.at != slow.at || string(q.keyID) != string(want.keyID) ||
			q.ownerID != nil || len(q.scopes)+len(q.attributes) > 0 || q.signed.has != 0 {
			t.Errorf("%q: %q up to %d, want %q up to %d, %v", text, q.keyID, quick.at, want.keyID, slow.at, err)
		}
	}
	if taken < 1000 {
		t.Errorf("only %d were taken", taken)
	}
}
