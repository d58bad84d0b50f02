package server

import (
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

func TestCacheControlSetsBounds(t *testing.T) {
	t.Parallel()
	age := func(d time.Duration) keystore.Bounds { return keystore.Bounds{HasMaxAge: true, MaxAge: d} }
	for field, want := range map[string]keystore.Bounds{
		"":                                  {},
		"no-cache":                          {NoCache: true},
		"No-Cache":                          {NoCache: true},
		`no-cache="Set-Cookie"`:             {NoCache: true},
		"max-age=5":                         age(5 * time.Second),
		"max-age=0":                         age(0),
		`max-age="7"`:                       age(7 * time.Second),
		"MAX-AGE=007":                       age(7 * time.Second),
		"max-age=99999999999999999999999":   age(math.MaxInt32 * time.Second),
		"max-age=5, max-age=3":              age(3 * time.Second),
		"max-age=3,max-age=5":               age(3 * time.Second),
		"only-if-cached":                    {OnlyIfCached: true},
		"only-if-cached , max-age=2":        {OnlyIfCached: true, HasMaxAge: true, MaxAge: 2 * time.Second},
		"no-cache, only-if-cached":          {NoCache: true, OnlyIfCached: true},
		", ,no-cache,,":                     {NoCache: true},
		"\tno-cache\t":                      {NoCache: true},
		"no-store, no-transform, max-stale": {},
		"max-stale=9, min-fresh=1":          {},
		`x="no-cache, max-age=x"`:           {},
		`x="a\"b, no-cache", max-age=1`:     age(time.Second),
		"no-cachet, xmax-age=1, max-agee=2": {},
	} {
		if got, err := parseCacheControl([]byte(field)); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", field, got, err, want)
		}
	}
	for _, field := range badCacheControls {
		if got, err := parseCacheControl([]byte(field)); err == nil {
			t.Errorf("%q: %+v", field, got)
		}
	}
}

var badCacheControls = []string{
	"max-age", "max-age=", "max-age=x", "max-age=-1", "max-age=1.5", "max-age=5s", "max-age =5", "max-age= 5", `max-age="5`, `max-age=""`,
	"no-cache max-age=1", "no-cache;max-age=1", "=1", "max-age=1=2", `"no-cache"`, `x="a`, `x="a\`, "a b", "(no-cache)", "x=,", "é",
}

// A bound that cannot be read is an error, not no bound.
func TestBadCacheControlIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, field := range badCacheControls {
		if field == "é" {
			continue // the client does not send it
		}
		calls := s.keys.callCount()
		for _, a := range []*answer{
			s.do("GET", "/v1/keys/pk_live_1", "", header("Cache-Control", field)),
			s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`, header("Cache-Control", field)),
		} {
			if a.status != 400 || a.code() != "bad_cache_control" {
				t.Errorf("%q: %d %s", field, a.status, a.body)
			}
		}
		if s.keys.callCount() != calls {
			t.Errorf("%q: the keystore was asked", field)
		}
	}
	if got := s.metric("keysidecar_http_bad_requests_total", "reason", "bad_cache_control"); got != float64(2*(len(badCacheControls)-1)) {
		t.Errorf("counted %v", got)
	}
	s.mustServe()
}

func TestBoundsReachTheKeystore(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, tt := range []struct {
		fields []string
		want   keystore.Bounds
	}{
		{nil, keystore.Bounds{}},
		{[]string{"max-age=2"}, keystore.Bounds{HasMaxAge: true, MaxAge: 2 * time.Second}},
		{[]string{"max-age=2", "only-if-cached"}, keystore.Bounds{HasMaxAge: true, MaxAge: 2 * time.Second, OnlyIfCached: true}},
		{[]string{"no-cache"}, keystore.Bounds{NoCache: true}},
		{nil, keystore.Bounds{}}, // nothing stays from the request before
	} {
		fields := func(r *http.Request) { r.Header["Cache-Control"] = tt.fields }
		s.do("GET", "/v1/keys/pk_live_1", "", fields)
		if got := s.keys.lastCall().bounds; got != tt.want {
			t.Errorf("GET with %q: %+v", tt.fields, got)
		}
		s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`, fields)
		if got := s.keys.lastCall().bounds; got != tt.want {
			t.Errorf("verify with %q: %+v", tt.fields, got)
		}
	}
}

func TestOnlyIfCachedUnmetIs504(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) { f.remote["pk_live_1"] = true })
	field := header("Cache-Control", "only-if-cached")
	for _, a := range []*answer{
		s.do("GET", "/v1/keys/pk_live_1", "", field),
		s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`, field),
		s.do("POST", "/v1/verify/batch", `{"requests":[{"key_id":"pk_revoked"},{"key_id":"pk_live_1"}]}`, field),
	} {
		if a.status != 504 || a.code() != "not_cached" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	a, b := s.batch(`{"partial":true,"requests":[{"key_id":"pk_revoked"},{"key_id":"pk_live_1"}]}`, field)
	if a.status != 200 || b.codes() != "pk_revoked=revoked pk_live_1=unavailable" {
		t.Errorf("partial: %d %s", a.status, a.body)
	}
	for _, c := range s.keys.calls {
		if !c.bounds.OnlyIfCached {
			t.Errorf("asked without only-if-cached: %+v", c)
		}
	}
	if a := s.do("GET", "/v1/keys/pk_revoked", "", field); a.status != 410 {
		t.Errorf("a cached key: %d", a.status)
	}
}
