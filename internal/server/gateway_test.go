package server

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// testGateway takes key ids, which tests can read.
func testGateway() Gateway {
	return Gateway{Credential: CredentialKeyID, Policies: map[string]Policy{
		"refunds": {OwnerID: "m_1", Scopes: []string{"refund"}, Attributes: `{"env":"live","tier":3}`},
		"closed":  {OwnerID: "nobody"},
	}}
}

func withGateway(change ...func(*Gateway)) func(*DataOptions) {
	return func(o *DataOptions) {
		o.Gateway = testGateway()
		for _, c := range change {
			c(&o.Gateway)
		}
	}
}

func secrets(g *Gateway) { g.Credential = CredentialSecret }

var identityHeaders = []string{"X-Keysidecar-Key-Id", "X-Keysidecar-Owner-Id", "X-Keysidecar-Scopes"}

// mustAuthorize checks one answer of a gateway's route: its status, its code, and
// that exactly a 200 has the identity header fields.
func mustAuthorize(t *testing.T, what string, a *answer, status int, code string) {
	t.Helper()
	if a.status != status || a.code() != code {
		t.Errorf("%s: %d %s, want %d %s", what, a.status, a.body, status, code)
	}
	for _, name := range identityHeaders {
		if got := a.header.Values(name); len(got) != 0 && status != 200 || len(got) != 1 && status == 200 {
			t.Errorf("%s: %d has %s: %q", what, a.status, name, got)
		}
	}
	if status == 401 && a.header.Get("WWW-Authenticate") == "" || status == 503 && a.header.Get("Retry-After") == "" {
		t.Errorf("%s: %d with %v", what, a.status, a.header)
	}
	if status == 200 && len(a.body) > 0 {
		t.Errorf("%s: a body: %q", what, a.body)
	}
}

// Without a setting there are no routes for gateways, and the limits are those of
// all routes.
func TestGatewaysCannotAskUnlessConfigured(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, target := range []string{"/v1/authz", "/v1/authz/x", "/v1/authz-policy/refunds"} {
		if a := s.do("GET", target, "", header("X-Api-Key", "pk_live_1")); a.status != 404 || a.code() != "no_such_route" {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	if a := s.do("POST", "/v1/introspect", "token=pk_live_1", form); a.status != 404 {
		t.Errorf("introspection: %d", a.status)
	}
	if a := s.raw("GET /v1/authz HTTP/1.1\r\nHost: x\r\nCookie: "+strings.Repeat("c", 9000)+"\r\n\r\n", 1); len(a) != 1 || a[0].status != 431 {
		t.Errorf("a large header: %+v", a)
	}
	if len(s.keys.calls) > 0 {
		t.Error("a key was looked up")
	}
}

// The four answers there are, for every state of a key.
func TestAuthzAnswersWithFourStatuses(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	for key, want := range map[string]int{
		"pk_live_1": 200, "pk_revoked": 403, "pk_expired": 403, "pk_future": 403, "pk_suspended": 403, "pk_none": 403, "opaque~+=:-._1": 200,
		"a/b": 401, "..": 401, "pk live": 401, strings.Repeat("k", 257): 401,
	} {
		code := map[int]string{200: "", 403: "refused", 401: "bad_credential"}[want]
		mustAuthorize(t, key, s.do("GET", "/v1/authz", "", header("X-Api-Key", key)), want, code)
		mustAuthorize(t, key+" as bearer", s.do("GET", "/v1/authz", "", header("Authorization", "Bearer "+key)), want, code)
	}
	s.keys.set(func(f *fakeKeys) { f.unavailableKeys["pk_live_1"] = true })
	mustAuthorize(t, "one key cannot be told", s.do("GET", "/v1/authz", "", header("X-Api-Key", "pk_live_1")), 503, "unavailable")
	s.keys.set(func(f *fakeKeys) { clear(f.unavailableKeys); f.reason = keystore.ReasonLeaseOver })
	mustAuthorize(t, "the lease is over", s.do("GET", "/v1/authz", "", header("X-Api-Key", "pk_live_1")), 503, "unavailable")
	mustAuthorize(t, "no credential", s.do("GET", "/v1/authz", ""), 401, "no_credential")
	s.keys.set(func(f *fakeKeys) { f.reason, f.panics = "", "x" })
	mustAuthorize(t, "a panic", s.do("GET", "/v1/authz", "", header("X-Api-Key", "pk_live_1")), 503, "internal")
	s.keys.set(func(f *fakeKeys) {
		f.panics = nil
		f.swap = "pk_revoked"
		f.keys["pk_revoked"] = with(f.keys["pk_revoked"], func(k *keystore.Key) { k.Revoked = false })
	})
	mustAuthorize(t, "another key's record", s.do("GET", "/v1/authz", "", header("X-Api-Key", "pk_live_1")), 503, "internal")
	if s.metric("keysidecar_verdicts_total", "code", "unavailable") != 2 || s.metric("keysidecar_verdicts_total", "code", "active") == 0 {
		t.Error("verdicts are not counted")
	}
	if s.metric("keysidecar_http_requests_total", "route", "authz", "code", "503") != 3 { // the panic has none
		t.Error("requests are not counted")
	}
}

// What stands behind the gateway must be able to rely on these fields: they are
// always there, and nothing in a key can break out of them.
func TestIdentityHeadersAreSetAndEncoded(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	owner := "Ünï \"q\" 100%\\ m,1"
	s.keys.put(keystore.Key{ID: "pk_odd", OwnerID: owner, Algorithm: "opaque", Scopes: []string{"pay all", "pay", "a%20b", "\u2028", "x\r\nX-Evil: 1"}})
	a := s.do("GET", "/v1/authz", "", header("X-Api-Key", "pk_odd"))
	mustAuthorize(t, "odd", a, 200, "")
	if got := a.header.Get("X-Keysidecar-Owner-Id"); got != "%C3%9Cn%C3%AF%20%22q%22%20100%25%5C%20m,1" {
		t.Errorf("owner: %q", got)
	}
	if got, err := url.PathUnescape(a.header.Get("X-Keysidecar-Owner-Id")); err != nil || got != owner {
		t.Errorf("owner, decoded: %q %v", got, err)
	}
	if got := a.header.Get("X-Keysidecar-Scopes"); got != "pay%20all pay a%2520b %E2%80%A8 x%0D%0AX-Evil:%201" {
		t.Errorf("scopes: %q", got)
	}
	if a.header.Get("X-Evil") != "" {
		t.Error("a scope became a header field")
	}
	a = s.do("HEAD", "/v1/authz", "", header("X-Api-Key", "opaque~+=:-._1"))
	mustAuthorize(t, "no scopes", a, 200, "")
	if got := a.header.Values("X-Keysidecar-Scopes"); len(got) != 1 || got[0] != "" {
		t.Errorf("no scopes: %q", got)
	}
	if a.header.Get("X-Keysidecar-Key-Id") != "opaque~+=:-._1" {
		t.Errorf("key: %q", a.header.Get("X-Keysidecar-Key-Id"))
	}
}

// Whoever is behind the gateway may take the other of two credentials.
func TestTwoCredentialsAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway(), func(o *DataOptions) { o.Gateway.Headers = []string{"X-Api-Key", "X-Other", "Authorization"} })
	for _, tt := range []struct {
		fields string
		status int
		code   string
	}{
		{"X-Api-Key: pk_live_1", 200, ""},
		{"x-aPI-kEY:\t pk_live_1 \t", 200, ""},
		{"X-Other: pk_live_1", 200, ""},
		{"Authorization: bearer   pk_live_1", 200, ""},
		{"Authorization: BEARER\tpk_live_1", 200, ""},
		{"X-Api-Key: pk_live_1\r\nX-Api-Key: pk_live_1", 401, "ambiguous_credential"},
		{"X-Api-Key: pk_live_1\r\nx-api-key: pk_none", 401, "ambiguous_credential"},
		{"X-Api-Key: pk_none\r\nX-Api-Key: pk_live_1", 401, "ambiguous_credential"},
		{"X-Api-Key:\r\nX-Api-Key: pk_live_1", 401, "ambiguous_credential"},
		{"X-Api-Key: pk_live_1\r\nX-Api-Key:", 401, "ambiguous_credential"},
		{"X-Api-Key: pk_live_1\r\nA: b\r\nX-Other: pk_live_1", 401, "ambiguous_credential"},
		{"X-Api-Key: pk_live_1\r\nAuthorization: Bearer pk_live_1", 401, "ambiguous_credential"},
		{"X-Api-Key: pk_live_1\r\nAuthorization: Bearer", 401, "ambiguous_credential"},
		{"Authorization: Bearer pk_live_1\r\nAuthorization: Basic eDp5", 401, "ambiguous_credential"},
		{"Authorization: Basic eDp5\r\nAuthorization: Bearer pk_live_1", 401, "ambiguous_credential"},
		{"X-Api-Key: pk_live_1, pk_live_1", 401, "bad_credential"},
		{"Authorization: Bearer pk_live_1, Bearer pk_live_1", 401, "bad_credential"},
		{"Authorization: Bearer", 401, "bad_credential"},
		{"Authorization: Bearer   ", 401, "bad_credential"},
		{"X-Api-Key: " + strings.Repeat("k", maxSecretBytes+1), 401, "bad_credential"},
		{"X-Api-Key:", 401, "no_credential"},
		{"X_Api_Key: pk_live_1", 401, "no_credential"},
		{"X-Api-Keys: pk_live_1", 401, "no_credential"},
		{"X-Api: pk_live_1", 401, "no_credential"},
		{"Authorization: Basic eDp5", 401, "no_credential"},
		{"Authorization: Bearerpk_live_1", 401, "no_credential"},
		{"Authorization: pk_live_1", 401, "no_credential"},
		{"X-Api-Key: pk_live_1\r\nAuthorization: Basic eDp5", 200, ""},
		{"X-Api-Key: pk_live_1\r\nX-Keysidecar-Owner-Id: admin", 200, ""},
	} {
		got := s.raw("GET /v1/authz HTTP/1.1\r\nHost: x\r\n"+tt.fields+"\r\n\r\n", 1)
		if len(got) != 1 {
			t.Fatalf("%.80q: %d answers", tt.fields, len(got))
		}
		mustAuthorize(t, fmt.Sprintf("%.80q", tt.fields), got[0], tt.status, tt.code)
		if tt.status == 200 && got[0].header.Get("X-Keysidecar-Owner-Id") != "m_1" {
			t.Errorf("%q: another owner: %v", tt.fields, got[0].header)
		}
	}
}

// Gateways append their client's path, use its method, and pass on its header
// fields and sometimes its body. None of that changes the answer.
func TestAuthzTakesWhateverAGatewaySends(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	for _, suffix := range []string{"", "/", "/orders/7", "//", "/../../v1/status", "/%2e%2e/%zz%", "/a?b=c&d", "?x=/v1/keys/pk_none", "/\xff\xfe", "/;a=b/[", "/" + strings.Repeat("p", 30000)} {
		for _, route := range []string{"/v1/authz", "/v1/authz-policy/refunds"} {
			methods := []string{"GET"}
			if suffix == "/orders/7" {
				methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "x!#$%&'*+-.^_`|~"}
			}
			for _, method := range methods {
				for _, rest := range []string{"\r\n", "Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"} {
					if method == "HEAD" && rest != "\r\n" {
						continue
					}
					got := s.raw(method+" "+route+suffix+" HTTP/1.1\r\nHost: shop.example\r\nX-Api-Key: pk_live_1\r\n"+rest, 1)
					if len(got) != 1 {
						t.Fatalf("%s %.40s: %d answers", method, route+suffix, len(got))
					}
					mustAuthorize(t, fmt.Sprintf("%s %.40s %.20q", method, route+suffix, rest), got[0], 200, "")
				}
			}
		}
	}
	// What would be wrong on another route, or ask for another answer.
	for _, fields := range []string{
		"Cache-Control: no-cache", "Cache-Control: only-if-cached", "Cache-Control: max-age=x", "Accept: image/png", "Content-Type: a\r\nContent-Type: b",
		"Origin: https://shop.example", "Sec-Fetch-Site: cross-site", "Content-Encoding: gzip", "Sec-Fetch-Site: a\r\nSec-Fetch-Site: b",
		"Upgrade: websocket\r\nConnection: upgrade", "Expect: 100-continue",
	} {
		c := s.dial()
		if _, err := io.WriteString(c, "GET /v1/authz HTTP/1.1\r\nHost: x\r\nX-Api-Key: pk_live_1\r\n"+fields+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r, get := bufio.NewReader(c), [][2]string{{"GET", "/v1/authz"}}
		a := s.answers(r, get, 1)
		if len(a) == 1 && a[0].status == 100 {
			a = s.answers(r, get, 1)
		}
		if len(a) != 1 {
			t.Fatalf("%s: no answer", fields)
		}
		mustAuthorize(t, fields, a[0], 200, "")
		_ = c.Close()
	}
	s.keys.mu.Lock()
	for _, c := range s.keys.calls {
		if c.bounds != (keystore.Bounds{}) || c.id != "pk_live_1" {
			t.Errorf("asked for %+v", c)
		}
	}
	s.keys.mu.Unlock()
	// A body that is large, and one that is too large.
	for size, want := range map[int]int{maxGatewayBody: 200, maxGatewayBody + 1: 403} {
		a := s.do("POST", "/v1/authz/upload", strings.Repeat("b", size), header("X-Api-Key", "pk_live_1"))
		mustAuthorize(t, fmt.Sprint(size, " bytes"), a, want, map[int]string{200: "", 403: "body_too_large"}[want])
	}
	// Targets that look like the route and are not.
	for _, target := range []string{"/v1/authzx", "/v1/authz%2F", "/v1/AUTHZ", "/v1/authz-", "/v1/authz-policyx"} {
		if a := s.do("GET", target, "", header("X-Api-Key", "pk_live_1")); a.status != 404 || a.code() != "no_such_route" {
			t.Errorf("%s: %d", target, a.status)
		}
	}
}

// nginx before 1.29.7 speaks HTTP/1.0 and closes.
func TestAuthzOverHTTP10(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	for sent, closed := range map[string]bool{
		"GET /v1/authz/x HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\nX-Api-Key: pk_live_1\r\n\r\n": true,
		"GET /v1/authz/x HTTP/1.0\r\nX-Api-Key: pk_live_1\r\n\r\n":                                         true,
		"GET /v1/authz/x HTTP/1.0\r\nConnection: keep-alive\r\nX-Api-Key: pk_live_1\r\n\r\n":               false,
		"POST /v1/authz/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Api-Key: pk_live_1\r\n\r\n":        true,
	} {
		a := s.raw(sent, 1)
		mustAuthorize(t, sent, a[0], 200, "")
		if a[0].closed != closed {
			t.Errorf("%q: closed: %v", sent, a[0].closed)
		}
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway(func(g *Gateway) { g.Policy = Policy{Scopes: []string{"pay"}} }))
	s.keys.put(keystore.Key{ID: "pk_reads", OwnerID: "m_1", Algorithm: "opaque", Scopes: []string{"read"}})
	s.keys.put(keystore.Key{ID: "pk_test", OwnerID: "m_1", Algorithm: "opaque", Scopes: []string{"refund"}, Attributes: `{"env":"test","tier":3}`})
	for _, tt := range []struct {
		target, key string
		status      int
		code        string
	}{
		{"/v1/authz/x", "pk_live_1", 200, ""},
		{"/v1/authz/x", "pk_reads", 403, "refused"},
		{"/v1/authz-policy/refunds", "pk_live_1", 200, ""},
		{"/v1/authz-policy/refunds/x/y?z", "pk_live_1", 200, ""},
		{"/v1/authz-policy/refunds?z", "pk_live_1", 200, ""},
		{"/v1/authz-policy/refunds", "pk_reads", 403, "refused"},
		{"/v1/authz-policy/refunds", "pk_test", 403, "refused"},
		{"/v1/authz-policy/closed/refunds", "pk_live_1", 403, "refused"},
		{"/v1/authz-policy/Refunds", "pk_live_1", 403, "no_such_policy"},
		{"/v1/authz-policy/refund", "pk_live_1", 403, "no_such_policy"},
		{"/v1/authz-policy/refunds%2Fx", "pk_live_1", 403, "no_such_policy"},
		{"/v1/authz-policy/%72efunds", "pk_live_1", 403, "no_such_policy"},
		{"/v1/authz-policy//refunds", "pk_live_1", 403, "no_such_policy"},
		{"/v1/authz-policy/", "pk_live_1", 403, "no_such_policy"},
		{"/v1/authz-policy", "pk_live_1", 403, "no_such_policy"},
	} {
		mustAuthorize(t, tt.target+" "+tt.key, s.do("GET", tt.target, "", header("X-Api-Key", tt.key)), tt.status, tt.code)
	}
	for name, bad := range map[string]Gateway{
		"empty scope":           {Credential: CredentialKeyID, Policy: Policy{Scopes: []string{""}}},
		"owner with control":    {Credential: CredentialKeyID, Policy: Policy{OwnerID: "a\nb"}},
		"attributes no object":  {Credential: CredentialKeyID, Policy: Policy{Attributes: `[]`}},
		"attributes empty":      {Credential: CredentialKeyID, Policy: Policy{Attributes: `{}`}},
		"attributes null":       {Credential: CredentialKeyID, Policies: map[string]Policy{"p": {Attributes: `{"a":null}`}}},
		"attributes and more":   {Credential: CredentialKeyID, Policy: Policy{Attributes: `{"a":1}{}`}},
		"header with a space":   {Credential: CredentialSecret, Headers: []string{"X Key"}},
		"header twice":          {Credential: CredentialSecret, Headers: []string{"X-Key", "x-key"}},
		"too many header names": {Credential: CredentialSecret, Headers: strings.Split("a,b,c,d,e,f,g,h,i", ",")},
	} {
		if _, err := newGateway(&bad); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// A presented secret is looked up by its hash, appears nowhere, and is wiped.
func TestAPresentedSecretIsHashedAndWiped(t *testing.T) {
	t.Parallel()
	for pepper, owner := range map[string]string{"": "m_1", "pepper": "m_2"} {
		s := start(t, withGateway(secrets), func(o *DataOptions) { o.Pepper = []byte(pepper) })
		id := keystore.HashSecret([]byte(pepper), []byte("sk_secret"))
		for range 3 {
			a := s.do("GET", "/v1/authz", "", header("X-Api-Key", "sk_secret"))
			mustAuthorize(t, "secret", a, 200, "")
			if a.header.Get("X-Keysidecar-Key-Id") != id || a.header.Get("X-Keysidecar-Owner-Id") != owner || s.keys.lastCall().id != id {
				t.Errorf("%v, asked for %q", a.header, s.keys.lastCall().id)
			}
			mustAuthorize(t, "another", s.do("GET", "/v1/authz", "", header("Authorization", "Bearer sk_secret2")), 403, "refused")
		}
		mustAuthorize(t, "the hash itself", s.do("GET", "/v1/authz", "", header("X-Api-Key", id)), 403, "refused")
		mustAuthorize(t, "the longest", s.do("GET", "/v1/authz", "", header("X-Api-Key", strings.Repeat("s", maxSecretBytes))), 403, "refused")
	}

	// The buffers: nothing of the library's memory holds the secret afterwards.
	keys := newFakeKeys(t)
	request := "GET /v1/authz HTTP/1.1\r\nHost: x\r\nX-Api-Key: sk_secret\r\n\r\n"
	conn := newScripted(t, keys, withGateway(secrets), request)
	seen := 0
	conn.wrote = func() {
		seen++
		if strings.Contains(string(conn.buffer), "sk_secret") {
			t.Error("the library's buffer still holds the secret")
		}
	}
	conn.serve(3)
	if seen != 3 {
		t.Errorf("%d answers", seen)
	}
}

// A gateway's client may have a large header; other routes' limits stay, on the
// same connection too, and a connection goes back to a small buffer.
func TestAGatewaysHeaderMayHave64KiB(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	request := func(target string, size int) string {
		head := "GET " + target + " HTTP/1.1\r\nHost: x\r\nCookie: %s\r\nX-Api-Key: pk_live_1\r\n\r\n"
		return fmt.Sprintf(head, strings.Repeat("c", size-len(head)+2))
	}
	const key = "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, tt := range []struct {
		name, sent string
		statuses   []int
		closed     bool
	}{
		{"just fits a small buffer", request("/v1/authz", maxHeader) + key, []int{200, 200}, false},
		{"just above", request("/v1/authz", maxHeader+1) + key, []int{200, 200}, false},
		{"between", key + request("/v1/authz/x", 20000) + key + request("/v1/authz-policy/refunds", 9000) + key, []int{200, 200, 200, 200, 200}, false},
		{"the largest", request("/v1/authz", maxGatewayHeader) + key, []int{200, 200}, false},
		{"several of the largest", strings.Repeat(request("/v1/authz", maxGatewayHeader), 5) + key, []int{200, 200, 200, 200, 200, 200}, false},
		{"too large", request("/v1/authz", maxGatewayHeader+1) + key, []int{403}, true},
		{"too large after others", key + request("/v1/authz", 30000) + request("/v1/authz", maxGatewayHeader+1) + key, []int{200, 200, 403}, true},
		{"a long path", "GET /v1/authz/" + strings.Repeat("p", 50000) + " HTTP/1.1\r\nHost: x\r\nX-Api-Key: pk_live_1\r\n\r\n" + key, []int{200, 200}, false},
		{"a path too long", "GET /v1/authz/" + strings.Repeat("p", maxGatewayHeader) + " HTTP/1.1\r\nHost: x\r\n\r\n", []int{403}, true},
		{"another route's path too long", "GET /v1/keys/" + strings.Repeat("p", 9000) + " HTTP/1.1\r\nHost: x\r\n\r\n", []int{414}, true},
		{"another route's header too large", request("/v1/keys/pk_live_1", maxHeader+1), []int{431}, true},
		{"another route after it", request("/v1/authz", 30000) + request("/v1/keys/pk_live_1", maxHeader+1), []int{200, 431}, true},
		{"smuggling in a large head", strings.Replace(request("/v1/authz", 30000), "\r\n\r\n", "\r\nA: b\nC: d\r\n\r\n", 1) + key, []int{403}, true},
		{"bare LF at once", "GET /v1/authz HTTP/1.1\nHost: x\r\n\r\n" + key, []int{400}, true},
		{"two lengths", "POST /v1/authz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx" + key, []int{403}, true},
		{"version 3", "GET /v1/authz HTTP/3.0\r\n\r\n", []int{403}, true},
		{"an expectation", "GET /v1/authz HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n", []int{403}, true},
		{"with a body", strings.Replace(request("/v1/authz", 30000), "\r\n\r\n", "\r\nContent-Length: 20000\r\n\r\n", 1) + strings.Repeat("b", 20000) + key, []int{200, 200}, false},
	} {
		for _, piece := range []int{1 << 20, 4096, 1000} {
			c := s.dial()
			go func() {
				for rest := tt.sent; rest != ""; {
					n := min(piece, len(rest))
					if _, err := io.WriteString(c, rest[:n]); err != nil {
						return // refused
					}
					rest = rest[n:]
				}
			}()
			requests := requestsIn(tt.sent)
			if tt.statuses[0] == 400 {
				requests = nil // not even a request line
			}
			got := s.answers(bufio.NewReader(c), requests, len(tt.statuses))
			_ = c.Close()
			if len(got) != len(tt.statuses) {
				t.Errorf("%s by %d: %d answers, want %d", tt.name, piece, len(got), len(tt.statuses))
				continue
			}
			for i, want := range tt.statuses {
				if got[i].status != want {
					t.Errorf("%s by %d: answer %d: %d %s, want %d", tt.name, piece, i, got[i].status, got[i].body, want)
				}
			}
			if got[len(got)-1].closed != tt.closed {
				t.Errorf("%s by %d: closed: %v", tt.name, piece, got[len(got)-1].closed)
			}
		}
	}
	eventually(t, "all are gone", func() bool { return s.metric("keysidecar_http_connections", "listener", "unix") == 0 })
	s.mustServe()
}

// A request whose head has not ended is kept back; the one before it is answered
// meanwhile.
func TestAnAnswerDoesNotWaitForTheNextHead(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	for _, size := range []int{10, 7000, 8150, 20000, 60000} {
		c := s.dial()
		r := bufio.NewReader(c)
		first := "GET /v1/authz HTTP/1.1\r\nHost: x\r\nX-Api-Key: pk_live_1\r\nCookie: " + strings.Repeat("c", size) + "\r\n\r\n"
		if _, err := io.WriteString(c, first+first[:40]); err != nil {
			t.Fatal(err)
		}
		if got := s.answers(r, requestsIn(first), 1); len(got) != 1 || got[0].status != 200 {
			t.Fatalf("%d: %+v", size, got)
		}
		if _, err := io.WriteString(c, first[40:]); err != nil {
			t.Fatal(err)
		}
		if got := s.answers(r, requestsIn(first), 1); len(got) != 1 || got[0].status != 200 {
			t.Fatalf("%d, the next: %+v", size, got)
		}
		_ = c.Close()
	}
}

// However the bytes of requests of all kinds arrive, each is answered once, in
// order, as if it had come alone.
func TestGatewaysRequestsInAnyPieces(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	kinds := []struct {
		sent   string
		status int
	}{
		{"GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		{"GET /v1/keys/pk_revoked HTTP/1.1\r\nHost: x\r\n\r\n", 410},
		{"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n" + `{"key_id":"pk_live_1"}`, 200},
		{"GET /v1/authz HTTP/1.1\r\nHost: x\r\nX-Api-Key: pk_live_1\r\n\r\n", 200},
		{"\r\nDELETE /v1/authz/a/b?c HTTP/1.1\r\nHost: x\r\nX-Api-Key: pk_revoked\r\nCookie: " + strings.Repeat("c", 500) + "\r\n\r\n", 403},
		{"POST /v1/authz HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("c", 12000) + "\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("b", 100), 401},
		{"GET /v1/authz/" + strings.Repeat("p", 9000) + " HTTP/1.1\r\nHost: x\r\nX-Api-Key: pk_live_1\r\n\r\n", 200},
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 80 {
		var sent strings.Builder
		var statuses []int
		for range 1 + random.IntN(8) {
			k := kinds[random.IntN(len(kinds))]
			sent.WriteString(k.sent)
			statuses = append(statuses, k.status)
		}
		c := s.dial()
		most := 1 << random.IntN(15)
		pieces := random.Perm(len(sent.String()))[:min(len(sent.String()), 1+len(sent.String())/most)]
		slices.Sort(pieces)
		go func() {
			at := 0
			for _, end := range append(pieces, sent.Len()) {
				if _, err := io.WriteString(c, sent.String()[at:end]); err != nil {
					return
				}
				at = end
			}
		}()
		got := s.answers(bufio.NewReader(c), requestsIn(sent.String()), len(statuses))
		var have []int
		for _, a := range got {
			have = append(have, a.status)
		}
		if !slices.Equal(have, statuses) {
			t.Errorf("%v, want %v", have, statuses)
		}
		_ = c.Close()
	}
	s.mustServe()
}

// A head that trickles in is ended, wherever it is kept meanwhile, and so is one
// whose client goes away.
func TestAGatewaysSlowHeadIsCut(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway(), func(o *DataOptions) { o.ReadTimeout = 80 * time.Millisecond })
	for begun, want := range map[string]int{
		"G":             408,
		"GET /v1/authz": 408,
		"GET /v1/authz HTTP/1.1\r\nHost: x\r\nA: ":                                                                  403,
		"GET /v1/authz HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 20000):                                     403,
		"GET /v1/authz/" + strings.Repeat("a", 20000):                                                               403,
		"POST /v1/authz HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\n{\"key":                                    403,
		"POST /v1/authz HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 20000) + "\r\nContent-Length: 22\r\n\r\n": 403,
	} {
		c := s.dial()
		got := s.exchange(c, begun, 1)
		if len(got) != 1 || got[0].status != want || got[0].code() != "request_timeout" || !got[0].closed {
			t.Errorf("%.60q: %+v, want %d", begun, got, want)
		}
		_ = c.Close()
		c = s.dial()
		_, _ = io.WriteString(c, begun)
		_ = c.Close()
	}
	eventually(t, "all are gone", func() bool { return s.metric("keysidecar_http_connections", "listener", "unix") == 0 })
	s.mustServe()
}

// What a large head left behind is not kept with the connection.
func TestALargeHeadIsNotKept(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	c := s.dial()
	r := bufio.NewReader(c)
	for _, sent := range []string{
		"GET /v1/authz HTTP/1.1\r\nHost: x\r\nX-Api-Key: pk_live_1\r\nCookie: " + strings.Repeat("c", 60000) + "\r\n\r\n",
		"GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		if got := s.answers(r, requestsIn(sent), 1); len(got) != 1 || got[0].status != 200 {
			t.Fatalf("%+v", got)
		}
	}
	_ = c.Close()
	for _, l := range s.data.listeners {
		l.mu.Lock()
		for c := range l.conns {
			eventually(t, "the connection idles", func() bool { p, _ := c.phase(); return p == idle })
			if c.wide || c.held != nil || c.given[0] != nil || c.given[1] != nil || cap(c.framer.line) > keepBuffer {
				t.Errorf("wide %v, %d held, %d of a line", c.wide, cap(c.held), cap(c.framer.line))
			}
		}
		l.mu.Unlock()
	}
}

// On the loopback listener a gateway presents the listener's token; what it passes
// on from browsers does no harm, and a name that resolves to this machine does.
func TestGatewaysOnTheLoopbackListener(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	host := func(h string) requestOption { return func(r *http.Request) { r.Host = h } }
	browser := []requestOption{header("X-Api-Key", "pk_live_1"), header("Origin", "https://shop.example"), header("Sec-Fetch-Site", "cross-site")}
	a := s.doTCP("GET", "/v1/authz/x", "", browser...)
	mustAuthorize(t, "from a browser through a gateway", a, 200, "")
	if a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("pages may read the answer")
	}
	mustAuthorize(t, "preflight", s.doTCP("OPTIONS", "/v1/authz", "", header("Origin", "https://evil.example")), 401, "no_credential")
	mustAuthorize(t, "rebound name", s.doTCP("GET", "/v1/authz", "", header("X-Api-Key", "pk_live_1"), host("evil.example")), 403, "host_not_allowed")
	mustAuthorize(t, "bearer", s.doTCP("GET", "/v1/authz", "", header("Authorization", "Bearer pk_live_1")), 200, "")

	s = start(t, withGateway(), func(o *DataOptions) { o.TCP.Token = func() (string, error) { return "s3cret-token", nil } })
	token := header("Authorization", "Bearer s3cret-token")
	mustAuthorize(t, "token, any Host", s.doTCP("GET", "/v1/authz", "", token, header("X-Api-Key", "pk_live_1"), host("shop.example")), 200, "")
	mustAuthorize(t, "token only", s.doTCP("GET", "/v1/authz", "", token), 401, "no_credential")
	mustAuthorize(t, "no token", s.doTCP("GET", "/v1/authz", "", header("X-Api-Key", "pk_live_1")), 401, "unauthorized")
	mustAuthorize(t, "a key as token", s.doTCP("GET", "/v1/authz", "", header("Authorization", "Bearer pk_live_1")), 401, "unauthorized")
	mustAuthorize(t, "two tokens", s.doTCP("GET", "/v1/authz", "", token, token, header("X-Api-Key", "pk_live_1")), 401, "unauthorized")
	mustAuthorize(t, "on the socket bearer is the client's", s.do("GET", "/v1/authz", "", header("Authorization", "Bearer pk_live_1")), 200, "")
}

// A cached key costs a gateway's request no garbage either.
func TestACachedAuthorizationAllocatesAlmostNothing(t *testing.T) {
	keys := newFixedKeys(t)
	for name, tt := range gatewayRequests {
		t.Run(name, func(t *testing.T) {
			result := testing.Benchmark(func(b *testing.B) { serveScripted(b, tt.keys(keys), tt.request, b.N, tt.change...) })
			if got := result.AllocsPerOp(); got > 0 && !raceEnabled {
				t.Errorf("%d allocations for an answer: %s %s", got, result, result.MemString())
			}
			t.Logf("%s %s", result, result.MemString())
		})
	}
}

var gatewayRequests = map[string]struct {
	request string
	keys    func(*fixedKeys) Keys
	change  []func(*DataOptions)
}{
	"key_id": {"GET /v1/authz/orders HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nX-Api-Key: pk_live_1\r\n\r\n", same, []func(*DataOptions){withGateway()}},
	"secret": {"GET /v1/authz-policy/refunds/o HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAuthorization: Bearer sk_secret\r\n\r\n", named(""), []func(*DataOptions){withGateway(secrets)}},
	"secret with pepper": {"GET /v1/authz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nX-Api-Key: sk_secret\r\n\r\n", named("pepper"),
		[]func(*DataOptions){withGateway(secrets), func(o *DataOptions) { o.Pepper = []byte("pepper") }}},
	"introspection": {"POST /v1/introspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 15\r\n\r\ntoken=sk_secret", named(""), []func(*DataOptions){withGateway(secrets)}},
}

func same(f *fixedKeys) Keys { return f }

// named gives the fixed record the name that sk_secret hashes to.
func named(pepper string) func(*fixedKeys) Keys {
	return func(f *fixedKeys) Keys {
		k := f.answer.Record.Key()
		k.ID = keystore.HashSecret([]byte(pepper), []byte("sk_secret"))
		g := *f
		g.answer.Record = keystore.NewRecord(&k)
		return &g
	}
}

func BenchmarkAuthz(b *testing.B) {
	for _, name := range slices.Sorted(maps.Keys(gatewayRequests)) {
		tt := gatewayRequests[name]
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			serveScripted(b, tt.keys(newFixedKeys(b)), tt.request, b.N, tt.change...)
		})
	}
}
