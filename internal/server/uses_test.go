package server

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/usage"
)

// usesHeard is a Uses that remembers.
type usesHeard struct {
	mu  sync.Mutex
	ids []string
}

func (u *usesHeard) Note(keyID string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ids = append(u.ids, keyID)
}

func (u *usesHeard) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	ids := u.ids
	u.ids = nil
	slices.Sort(ids)
	return ids
}

// Somebody who tries a key that he may not use must not make it look used.
func TestOnlyAnswersThatAreValidCountAsUse(t *testing.T) {
	t.Parallel()
	var heard usesHeard
	s := start(t, func(o *DataOptions) {
		o.Uses = &heard
		o.Gateway = Gateway{Credential: CredentialKeyID, Headers: []string{"X-Api-Key"}, Policies: map[string]Policy{"none": {Scopes: []string{"nobody-has-it"}}}}
	})
	s.keys.set(func(f *fakeKeys) { f.remote["opaque~+=:-._1"] = true })
	const live, form = "pk_live_1", "application/x-www-form-urlencoded"
	for _, c := range []struct {
		method, target, body string
		opts                 []requestOption
		want                 []string
	}{
		{"GET", "/v1/keys/pk_live_1", "", nil, []string{live}},
		{"GET", "/v1/keys/pk_live_1", "", []requestOption{header("Accept", "application/x-pem-file")}, []string{live}},
		{"GET", "/v1/keys/pk_revoked", "", nil, nil},
		{"GET", "/v1/keys/pk_nobody", "", nil, nil},
		{"POST", "/v1/verify", `{"key_id":"pk_live_1","scopes":["pay"]}`, nil, []string{live}},
		{"POST", "/v1/verify", `{"key_id":"pk_live_1","scopes":["fly"]}`, nil, nil},
		{"POST", "/v1/verify", `{"key_id":"pk_live_1","owner_id":"m_2"}`, nil, nil},
		{"POST", "/v1/verify/batch", `{"requests":[{"key_id":"pk_live_1"},{"key_id":"pk_expired"},{"key_id":"opaque~+=:-._1"},{"key_id":"pk_live_1","owner_id":"m_2"}]}`, nil,
			[]string{"opaque~+=:-._1", live}},
		{"GET", "/v1/authz/path", "", []requestOption{header("X-Api-Key", live)}, []string{live}},
		{"GET", "/v1/authz-policy/none", "", []requestOption{header("X-Api-Key", live)}, nil},
		{"POST", "/v1/introspect", "token=pk_live_1", []requestOption{func(r *http.Request) { r.Header.Set("Content-Type", form) }}, []string{live}},
		{"POST", "/v1/introspect", "token=pk_suspended", []requestOption{func(r *http.Request) { r.Header.Set("Content-Type", form) }}, nil},
		{"GET", "/v1/status", "", nil, nil},
	} {
		a := s.do(c.method, c.target, c.body, c.opts...)
		if have := heard.take(); !slices.Equal(have, c.want) {
			t.Errorf("%s %s %s: %d, noted %q, want %q", c.method, c.target, c.body, a.status, have, c.want)
		}
	}
}

// newUses is the real thing, which never writes here.
func newUses(tb testing.TB) *usage.Recorder {
	tb.Helper()
	r, err := usage.New(usage.Options{
		Open:     func(context.Context) (usage.Session, error) { return nil, context.Canceled },
		Interval: time.Hour, Resolution: time.Minute,
		Clock: clock.New(), Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestACachedAnswerAllocatesNoMoreWithUsageOn(t *testing.T) {
	keys, uses := newFixedKeys(t), newUses(t)
	result := testing.Benchmark(func(b *testing.B) {
		serveScripted(b, keys, postVerify, b.N, func(o *DataOptions) { o.Uses = uses })
	})
	// The race detector makes pools forget at random.
	if got := result.AllocsPerOp(); got > 0 && !raceEnabled {
		t.Errorf("%d allocations for an answer: %s", got, result.MemString())
	}
}

// BenchmarkUsage is a look-up without and with the notes of usage.enabled, in one run.
func BenchmarkUsage(b *testing.B) {
	keys := newFixedKeys(b)
	for _, request := range []struct{ name, text string }{{"get", getActive}, {"verify", postVerify}, {"batch of 100", postBatch(100)}} {
		b.Run(request.name+"/off", func(b *testing.B) { serveScripted(b, keys, request.text, b.N) })
		b.Run(request.name+"/on", func(b *testing.B) {
			uses := newUses(b)
			serveScripted(b, keys, request.text, b.N, func(o *DataOptions) { o.Uses = uses })
		})
	}
}
