package server

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

func TestAnActiveKeyIsAnsweredWhole(t *testing.T) {
	t.Parallel()
	s := start(t)
	a := s.do("GET", "/v1/keys/pk_live_1", "")
	want := `{"valid":true,"code":"active","key_id":"pk_live_1","owner_id":"m_1","algorithm":"ed25519",` +
		`"public_key":"MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","scopes":["pay","refund"],` +
		`"not_before":null,"expires_at":"2027-01-01T00:00:00.000Z","attributes":{"env": "live", "tier": 3, "beta": true},` +
		`"as_of":{"history":"9f2c","seq":1234,"age_ms":412},"source":"cache"}`
	if a.status != 200 || string(a.body) != want {
		t.Errorf("got %d\n%s\nwant\n%s", a.status, a.body, want)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	a = s.do("GET", "/v1/keys/opaque~+=:-._1", "")
	if m := a.json(t); a.status != 200 || m["public_key"] != nil || m["owner_id"] != `Ünï "q"` {
		t.Errorf("an opaque key: %d %s", a.status, a.body)
	}
}

// A client that looks at nothing but a member it likes must not find a key in a
// refusal.
func TestANegativeVerdictHoldsNothingOfTheKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	members := []string{"as_of", "code", "key_id", "source", "valid"}
	for id, want := range map[string]struct {
		get  int
		code string
	}{
		"pk_revoked": {410, "revoked"}, "pk_expired": {410, "expired"}, "pk_future": {403, "not_yet_valid"},
		"pk_suspended": {403, "owner_suspended"}, "pk_none": {404, "unknown_key"},
	} {
		for _, accept := range []string{"*/*", "application/x-pem-file", "application/jwk+json"} {
			a := s.do("GET", "/v1/keys/"+id, "", header("Accept", accept))
			m := a.json(t)
			if got := slices.Sorted(maps.Keys(m)); a.status != want.get || m["valid"] != false || m["code"] != want.code || !slices.Equal(got, members) {
				t.Errorf("GET %s as %s: %d %s", id, accept, a.status, a.body)
			}
		}
		a := s.do("POST", "/v1/verify", `{"key_id":"`+id+`"}`)
		m := a.json(t)
		if got := slices.Sorted(maps.Keys(m)); a.status != 403 || m["valid"] != false || m["code"] != want.code || m["key_id"] != id || !slices.Equal(got, members) {
			t.Errorf("verify %s: %d %s", id, a.status, a.body)
		}
	}
}

// "Cannot tell" is neither valid nor invalid, in every surface (S6), and says
// nothing of why.
func TestUnavailableIsAVerdictOfItsOwn(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, reason := range []keystore.Reason{
		keystore.ReasonWarming, keystore.ReasonLeaseOver, keystore.ReasonFillFailed, keystore.ReasonFillLimit, keystore.ReasonMissRate, keystore.ReasonStopping,
	} {
		s.keys.set(func(f *fakeKeys) { f.reason = reason })
		for _, a := range []*answer{
			s.do("GET", "/v1/keys/pk_live_1", ""),
			s.do("GET", "/v1/keys/pk_live_1", "", header("Accept", "application/x-pem-file")),
			s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`),
		} {
			if want := `{"valid":false,"code":"unavailable","key_id":"pk_live_1","as_of":null,"source":null}`; a.status != 503 || string(a.body) != want {
				t.Errorf("%s: %d %s", reason, a.status, a.body)
			}
			if a.header.Get("Retry-After") != "1" {
				t.Errorf("%s: no Retry-After", reason)
			}
		}
	}
	s.keys.set(func(f *fakeKeys) { f.reason = "" })
	if got := s.metric("keysidecar_verdicts_total", "code", "unavailable"); got != 18 {
		t.Errorf("verdicts counted: %v", got)
	}
	s.mustServe()
}

func TestAnAnswerNamesItsSource(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) { f.remote["pk_live_1"] = true })
	if m := s.do("GET", "/v1/keys/pk_live_1", "").json(t); m["source"] != "database" {
		t.Errorf("source %v", m["source"])
	}
	s.keys.set(func(f *fakeKeys) { clear(f.remote); f.stale = true })
	if m := s.do("GET", "/v1/keys/pk_live_1", "").json(t); m["source"] != "stale" {
		t.Errorf("source %v", m["source"])
	}
}

// If the keystore ever answered with another key's record, that record must not
// be handed out under the asked name.
func TestAnotherKeysRecordIsNeverAnswered(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) { f.keys["pk_none"] = f.keys["pk_live_1"]; f.swap = "pk_live_1" })
	for _, a := range []*answer{s.do("GET", "/v1/keys/pk_none", ""), s.do("POST", "/v1/verify", `{"key_id":"pk_none"}`)} {
		if a.status != 500 || a.code() != "internal" || strings.Contains(string(a.body), "valid") {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

func TestRepresentations(t *testing.T) {
	t.Parallel()
	s := start(t)
	const (
		js  = "application/json"
		jwk = "application/jwk+json"
		pm  = "application/x-pem-file"
	)
	for _, tt := range []struct {
		accept       []string
		live, opaque string // the media type, or "" for 406
	}{
		{nil, js, js},
		{[]string{""}, js, js},
		{[]string{"*/*"}, js, js},
		{[]string{"application/*"}, js, js},
		{[]string{js}, js, js},
		{[]string{"Application/JSON; charset=utf-8"}, js, js},
		{[]string{pm}, pm, ""},
		{[]string{jwk}, jwk, ""},
		{[]string{pm + ", " + jwk + ";q=0.5"}, pm, ""},
		{[]string{pm + ";q=0.4, " + jwk + ";q=0.5"}, jwk, ""},
		{[]string{pm, "*/*;q=0.1"}, pm, js},
		{[]string{"text/html, application/xhtml+xml, */*;q=0.8"}, js, js},
		{[]string{js + ";q=0, */*"}, jwk, ""},
		{[]string{js + ";q=0, " + jwk + ";q=0, */*;q=0.001"}, pm, ""},
		{[]string{"application/*;q=0, " + pm}, pm, ""},
		{[]string{`text/plain;a="x,y;q=1";q=0.9, ` + pm}, pm, ""},
		{[]string{"image/png"}, "", ""},
		{[]string{"*/*;q=0"}, "", ""},
		{[]string{"application/json;q=2"}, "", ""},
		{[]string{"application/json;q=0.1234"}, "", ""},
		{[]string{";;,,"}, "", ""},
	} {
		for id, want := range map[string]string{"pk_live_1": tt.live, "opaque~+=:-._1": tt.opaque} {
			a := s.do("GET", "/v1/keys/"+id, "", func(r *http.Request) { r.Header["Accept"] = tt.accept })
			if want == "" {
				if a.status != 406 || a.code() != "not_acceptable" {
					t.Errorf("%q for %s: %d %s", tt.accept, id, a.status, a.body)
				}
				continue
			}
			if got := a.header.Get("Content-Type"); a.status != 200 || got != want {
				t.Errorf("%q for %s: %d %s, want %s", tt.accept, id, a.status, got, want)
			}
		}
	}
	if got := s.metric("keysidecar_http_bad_requests_total", "reason", "not_acceptable"); got == 0 {
		t.Error("406 is not counted")
	}

	a := s.do("GET", "/v1/keys/pk_live_1", "", header("Accept", pm))
	block, rest := pem.Decode(a.body)
	if block == nil || block.Type != "PUBLIC KEY" || !bytes.Equal(block.Bytes, ed25519Key(t)) || len(rest) > 0 {
		t.Errorf("PEM: %s", a.body)
	}
	if a.header.Get("Keysidecar-Key-Id") != "pk_live_1" {
		t.Error("a PEM does not say whose it is")
	}
	a = s.do("GET", "/v1/keys/pk_live_1", "", header("Accept", jwk))
	var key map[string]string
	if err := json.Unmarshal(a.body, &key); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"kty": "OKP", "kid": "pk_live_1", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}; !maps.Equal(key, want) {
		t.Errorf("JWK: %s", a.body)
	}
}

// A key of a kind that has no JWK still has a PEM, and asking for both gets it.
func TestAKeyWithoutJWKFallsBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.put(keystore.Key{ID: "odd", OwnerID: "m_1", Algorithm: "odd", PublicKey: []byte("not SPKI")})
	if a := s.do("GET", "/v1/keys/odd", "", header("Accept", "application/jwk+json, application/x-pem-file;q=0.5")); a.header.Get("Content-Type") != "application/x-pem-file" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.do("GET", "/v1/keys/odd", "", header("Accept", "application/jwk+json")); a.status != 406 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.do("GET", "/v1/keys/odd", "", header("Accept", "application/jwk+json, */*;q=0.1")); a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// What a client believes to be one key's name must never be answered as another
// key's, nor as another route.
func TestHostilePathsNeverReachAnotherKeyOrRoute(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.put(keystore.Key{ID: "good", OwnerID: "m_1", Algorithm: "x"})
	s.keys.put(keystore.Key{ID: "a", OwnerID: "m_1", Algorithm: "x"})
	for _, tt := range []struct {
		target string
		status int
		code   string
	}{
		{"/v1/keys/..%2Fstatus", 400, "bad_key_id"},
		{"/v1/keys/%2e%2e%2fstatus", 400, "bad_key_id"},
		{"/v1/keys/a%2Fb", 400, "bad_key_id"},
		{"/v1/keys/a%2fb", 400, "bad_key_id"},
		{"/v1/keys/a%5Cb", 400, "bad_key_id"},
		{"/v1/keys/a%00", 400, "bad_key_id"},
		{"/v1/keys/good%0a", 400, "bad_key_id"},
		{"/v1/keys/good%0d%0aX:1", 400, "bad_key_id"},
		{"/v1/keys/good%20", 400, "bad_key_id"},
		{"/v1/keys/good%ff", 400, "bad_key_id"},
		{"/v1/keys/%c3%28", 400, "bad_key_id"},
		{"/v1/keys/%ed%a0%80", 400, "bad_key_id"},
		{"/v1/keys/g%C3%B6od", 400, "bad_key_id"},
		{"/v1/keys/good%", 400, "bad_key_id"},
		{"/v1/keys/good%4", 400, "bad_key_id"},
		{"/v1/keys/good%zz", 400, "bad_key_id"},
		{"/v1/keys/%2567ood", 400, "bad_key_id"}, // decoded once it is %67ood, not good
		{"/v1/keys/good;v=1", 400, "bad_key_id"},
		{"/v1/keys/good,a", 400, "bad_key_id"},
		{"/v1/keys/good*", 400, "bad_key_id"},
		{"/v1/keys/good#x", 400, "bad_key_id"},
		{"/v1/keys/g\xc3\xb6od", 400, "bad_key_id"},
		{"/v1/keys/g\xffod", 400, "bad_key_id"},
		{"/v1/keys/", 400, "bad_key_id"},
		{"/v1/keys/.", 400, "bad_key_id"},
		{"/v1/keys/..", 400, "bad_key_id"},
		{"/v1/keys/%2e", 400, "bad_key_id"},
		{"/v1/keys/%2e%2e", 400, "bad_key_id"},
		{"/v1/keys/" + strings.Repeat("k", 257), 400, "bad_key_id"},
		{"/v1/keys/" + strings.Repeat("k", 300), 400, "bad_key_id"},
		{"/v1/keys/good?x", 400, "unexpected_query"},
		{"/v1/keys/good?", 400, "unexpected_query"},
		{"/v1/keys/?good", 400, "unexpected_query"},
		{"/v1/status?verbose", 400, "unexpected_query"},
		{"/v1/keys/good%3Fx", 400, "bad_key_id"},
		{"/v1/keys/../status", 404, "no_such_route"},
		{"/v1/keys/./good", 404, "no_such_route"},
		{"/v1/keys/a/../good", 404, "no_such_route"},
		{"/v1/keys/good/", 404, "no_such_route"},
		{"/v1/keys/a/b", 404, "no_such_route"},
		{"/v1/keys//good", 404, "no_such_route"},
		{"/v1/keys", 404, "no_such_route"},
		{"/v1//keys/good", 404, "no_such_route"},
		{"//v1/keys/good", 404, "no_such_route"},
		{"/v1/../v1/keys/good", 404, "no_such_route"},
		{"/v1/%6beys/good", 404, "no_such_route"},
		{"/V1/keys/good", 404, "no_such_route"},
		{"/v1/KEYS/good", 404, "no_such_route"},
		{"/v1/status/", 404, "no_such_route"},
		{"/v1/status%2f", 404, "no_such_route"},
		{"/v1/verify/", 404, "no_such_route"},
		{"/v1/verify/batch/x", 404, "no_such_route"},
		{"/", 404, "no_such_route"},
		{"/v1", 404, "no_such_route"},
		{"/metrics", 404, "no_such_route"},
		{"/?/v1/keys/good", 404, "no_such_route"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			calls := s.keys.callCount()
			before := s.metric("keysidecar_http_bad_requests_total", "reason", tt.code)
			got := s.raw("GET "+tt.target+" HTTP/1.1\r\nHost: x\r\n\r\n", 1)
			if len(got) != 1 || got[0].status != tt.status || got[0].code() != tt.code {
				t.Fatalf("%+v", got)
			}
			if got[0].closed {
				t.Error("the connection was closed over a well-formed request")
			}
			if s.keys.callCount() != calls {
				t.Errorf("the keystore was asked for %q", s.keys.lastCall().id)
			}
			if after := s.metric("keysidecar_http_bad_requests_total", "reason", tt.code); after != before+1 {
				t.Errorf("counted %v times", after-before)
			}
		})
	}
	s.mustServe()
}

func TestAKeyIDIsDecodedOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	long := strings.Repeat("k", 256)
	s.keys.put(keystore.Key{ID: long, OwnerID: "m_1", Algorithm: "x"})
	for target, id := range map[string]string{
		"/v1/keys/pk_live_1":                     "pk_live_1",
		"/v1/keys/%70k_live%5f1":                 "pk_live_1",
		"/v1/keys/opaque~+=:-._1":                "opaque~+=:-._1",
		"/v1/keys/opaque%7E%2b%3D%3a%2D._1":      "opaque~+=:-._1",
		"/v1/keys/" + long:                       long,
		"/v1/keys/" + strings.Repeat("%6b", 256): long,
	} {
		if a := s.do("GET", target, ""); a.status != 200 || a.json(t)["key_id"] != id || s.keys.lastCall().id != id {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	if a := s.do("GET", "/v1/keys/PK_LIVE_1", ""); a.status != 404 || a.code() != "unknown_key" {
		t.Errorf("key ids are case-sensitive: %d %s", a.status, a.body)
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, tt := range []struct{ method, target, allow string }{
		{"POST", "/v1/keys/pk_live_1", "GET, HEAD"}, {"DELETE", "/v1/keys/pk_live_1", "GET, HEAD"},
		{"OPTIONS", "/v1/keys/pk_live_1", "GET, HEAD"}, {"TRACE", "/v1/keys/pk_live_1", "GET, HEAD"},
		{"PUT", "/v1/status", "GET, HEAD"}, {"POST", "/openapi.yaml", "GET, HEAD"}, {"get", "/v1/status", "GET, HEAD"},
		{"GET", "/v1/verify", "POST"}, {"HEAD", "/v1/verify", "POST"}, {"PATCH", "/v1/verify/batch", "POST"}, {"QUERY", "/v1/verify", "POST"},
	} {
		a := s.raw(tt.method+" "+tt.target+" HTTP/1.1\r\nHost: x\r\n\r\n", 1)[0]
		if a.status != 405 || a.header.Get("Allow") != tt.allow || tt.method != "HEAD" && a.code() != "method_not_allowed" {
			t.Errorf("%s %s: %d, Allow %q", tt.method, tt.target, a.status, a.header.Get("Allow"))
		}
	}
	if a := s.raw("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 1)[0]; a.status != 404 {
		t.Errorf("OPTIONS *: %d", a.status)
	}
	if got := s.metric("keysidecar_http_bad_requests_total", "reason", "method_not_allowed"); got != 11 {
		t.Errorf("counted %v", got)
	}
	for _, target := range []string{"/v1/keys/pk_live_1", "/v1/keys/pk_revoked", "/v1/status", "/openapi.yaml", "/nothing"} {
		get, head := s.do("GET", target, ""), s.do("HEAD", target, "")
		if head.status != get.status || head.header.Get("Content-Type") != get.header.Get("Content-Type") ||
			head.header.Get("Content-Length") != get.header.Get("Content-Length") {
			t.Errorf("HEAD %s: %d %v, GET %d %v", target, head.status, head.header, get.status, get.header)
		}
	}
	s.mustServe()
}

// A body or a query that is ignored may have been meant as a check.
func TestAGETWithABodyIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, sent := range []string{
		"GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n{\"owner_id\":\"m_2\"}",
		"GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
	} {
		if a := s.raw(sent, 1)[0]; a.status != 400 || a.code() != "unexpected_body" || a.closed {
			t.Errorf("%+v", a)
		}
	}
	for _, sent := range []string{
		"GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		if a := s.raw(sent, 1)[0]; a.status != 200 || a.closed {
			t.Errorf("%+v", a)
		}
	}
}

func TestStatusTellsTheState(t *testing.T) {
	t.Parallel()
	s := start(t)
	a := s.do("GET", "/v1/status", "")
	m := a.json(t)
	if a.status != 200 || m["instance"] != "test-1" || m["version"] != "1.2.3" || m["fresh"] != true || m["policy"] != "fail_closed" ||
		m["max_staleness_ms"] != 3000.0 || m["lease_remaining_ms"] != 2588.0 || m["stale_limit_ms"] != nil {
		t.Errorf("%d %s", a.status, a.body)
	}
	if _, has := m["valid"]; has {
		t.Error("only a verdict may have a member valid")
	}
	s.keys.set(func(f *fakeKeys) {
		f.status = keystore.Status{StaleLimit: 60e9, MaxStaleness: 3e9, LastFenceError: "timeout", StoreKind: "file"}
	})
	m = s.do("GET", "/v1/status", "").json(t)
	if m["policy"] != "serve_stale" || m["promise"].(map[string]any)["refused_within_ms"] != 60000.0 || m["as_of"] != nil || m["last_fence_error"] != "timeout" {
		t.Errorf("%v", m)
	}
}

func TestTheContractIsServed(t *testing.T) {
	t.Parallel()
	s := start(t)
	a := s.do("GET", "/openapi.yaml", "")
	if a.status != 200 || !bytes.Equal(a.body, openAPIDocument) || a.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("%d %s", a.status, a.header)
	}
}
