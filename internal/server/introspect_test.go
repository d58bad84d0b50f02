package server

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

func form(r *http.Request) { r.Header.Set("Content-Type", typeForm) }

// RFC 7662, 2.2: an active token with what is known of it, and otherwise not a
// word more than that it is inactive.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	s.keys.put(keystore.Key{
		ID: "pk_odd", OwnerID: "Ünï \"q\"", Algorithm: "opaque", Scopes: []string{"pay", "pay all", `q"\`},
		NotBefore: time.Unix(1700000000, 1000), ExpiresAt: time.Unix(1900000000, 999999000),
	})
	for token, want := range map[string]string{
		"pk_live_1":              `{"active":true,"key_id":"pk_live_1","sub":"m_1","client_id":"m_1","scope":"pay refund","exp":1798761600}`,
		"pk_odd":                 `{"active":true,"key_id":"pk_odd","sub":"Ünï \"q\"","client_id":"Ünï \"q\"","scope":"pay pay%20all q%22%5C","nbf":1700000001,"exp":1900000000}`,
		"opaque~+=:-._1":         `{"active":true,"key_id":"opaque~+=:-._1","sub":"Ünï \"q\"","client_id":"Ünï \"q\"","scope":""}`,
		"pk_revoked":             inactive,
		"pk_expired":             inactive,
		"pk_future":              inactive,
		"pk_suspended":           inactive,
		"pk_none":                inactive,
		"no key / id":            inactive,
		"..":                     inactive,
		"\x00\xff":               inactive,
		strings.Repeat("x", 257): inactive,
	} {
		a := s.do("POST", "/v1/introspect", url.Values{"token": {token}, "token_type_hint": {"access_token"}}.Encode(), form)
		if a.status != 200 || string(a.body) != want {
			t.Errorf("%q: %d %s, want %s", token, a.status, a.body, want)
		}
	}
	if a := s.do("POST", "/v1/introspect", "token=pk_live_1", header("Accept", "application/json"), form, header("Cache-Control", "no-cache")); a.status != 200 || !s.keys.lastCall().bounds.NoCache {
		t.Errorf("a caller's own bound is dropped: %d", a.status)
	}
	s.keys.set(func(f *fakeKeys) { f.reason = keystore.ReasonLeaseOver })
	if a := s.do("POST", "/v1/introspect", "token=pk_live_1", form); a.status != 503 || a.code() != "unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("cannot tell: %d %s", a.status, a.body)
	}
}

func TestIntrospectionOfSecrets(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway(secrets), func(o *DataOptions) { o.Pepper = []byte("pepper") })
	a := s.do("POST", "/v1/introspect", "token=sk_secret", form)
	if m := a.json(t); m["active"] != true || m["client_id"] != "m_2" || m["key_id"] != keystore.HashSecret([]byte("pepper"), []byte("sk_secret")) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.do("POST", "/v1/introspect", "token=sk_secret2", form); string(a.body) != inactive {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.do("POST", "/v1/introspect", "token="+strings.Repeat("s", 5000), form); a.status != 200 || string(a.body) != inactive {
		t.Errorf("%d %s", a.status, a.body)
	}
	conn := newScripted(t, s.keys, withGateway(secrets), strings.Replace(postOf("/v1/introspect", "token=sk_secret"), typeJSON, typeForm, 1))
	conn.wrote = func() {
		if strings.Contains(string(conn.buffer), "sk_secret") {
			t.Error("the library's buffer still holds the secret")
		}
	}
	conn.serve(2)
}

// badForms must not be taken for a question about some other token.
var badForms = map[string]string{
	"":                  "missing_member",
	"token=":            "missing_member",
	"tokn=x":            "missing_member",
	"Token=x":           "missing_member",
	"token_type_hint=x": "missing_member",
	"token=a&token=b":   "duplicate_member",
	"token=a&token=a":   "duplicate_member",
	"token=a&%74oken=b": "duplicate_member",
	"token=&token=b":    "duplicate_member",
	"token_type_hint=a&token_type_hint=b&token=x": "duplicate_member",
	"token=a&":       "malformed_form",
	"&token=a":       "malformed_form",
	"token=a&&b=c":   "malformed_form",
	"=a&token=b":     "malformed_form",
	"token=a;b=c":    "malformed_form",
	"token=%":        "malformed_form",
	"token=%4":       "malformed_form",
	"token=%4g":      "malformed_form",
	"token=a b":      "malformed_form",
	"token=a\r\n":    "malformed_form",
	"token=\xc3\xa9": "malformed_form",
	`{"token":"a"}`:  "missing_member",
}

func TestIntrospectionIsStrictAboutForms(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway())
	for body, code := range badForms {
		a := s.raw(strings.Replace(postOf("/v1/introspect", body), typeJSON, typeForm, 1), 1)
		if len(a) != 1 || a[0].status != 400 || a[0].code() != code {
			t.Errorf("%q: %+v, want %s", body, a, code)
		}
	}
	for body, want := range map[string]string{
		"token=pk%5Flive_1":                      "pk_live_1",
		"a=b&token=pk_live_1&resource=%20+":      "pk_live_1",
		"token=opaque~%2B=:-._1&token_type_hint": "opaque~+=:-._1",
	} {
		if a := s.do("POST", "/v1/introspect", body, form); a.status != 200 || a.json(t)["key_id"] != want {
			t.Errorf("%q: %d %s", body, a.status, a.body)
		}
	}
	for _, o := range []requestOption{noContentType, header("Content-Encoding", "gzip")} {
		if a := s.do("POST", "/v1/introspect", "token=pk_live_1", form, o); a.status != 415 {
			t.Errorf("%d", a.status)
		}
	}
	if a := s.do("GET", "/v1/introspect?token=pk_live_1", ""); a.status != 400 && a.status != 405 {
		t.Errorf("a token in the URL: %d", a.status)
	}
	if a := s.do("POST", "/v1/introspect", `{"token":"pk_live_1"}`); a.status != 415 {
		t.Errorf("JSON: %d", a.status)
	}
}

// Introspection must be authorized (RFC 7662, 2.1): by the listener, with its token
// as bearer, or as the password that clients such as Spring Security send.
func TestIntrospectionAsksForTheListenersToken(t *testing.T) {
	t.Parallel()
	s := start(t, withGateway(), func(o *DataOptions) { o.TCP.Token = func() (string, error) { return "s3cret-token", nil } })
	basic := func(user, password string) requestOption {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	for name, tt := range map[string]struct {
		o      requestOption
		status int
	}{
		"none":                 {form, 401},
		"bearer":               {header("Authorization", "Bearer s3cret-token"), 200},
		"basic":                {basic("any", "s3cret-token"), 200},
		"basic, no user":       {basic("", "s3cret-token"), 200},
		"basic, token as user": {basic("s3cret-token", ""), 401},
		"basic, wrong":         {basic("any", "s3cret-token2"), 401},
		"basic, a colon":       {basic("any", ":s3cret-token"), 401},
		"basic, no base64":     {header("Authorization", "Basic any:s3cret-token"), 401},
		"basic, empty":         {header("Authorization", "Basic"), 401},
	} {
		if a := s.doTCP("POST", "/v1/introspect", "token=pk_live_1", form, tt.o); a.status != tt.status {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := s.doTCP("POST", "/v1/introspect", "token=pk_live_1", form, basic("a", "s3cret-token"), header("Origin", "http://localhost")); a.status != 403 {
		t.Errorf("a browser's page: %d", a.status)
	}
}

// FuzzFormToken: what is taken is what net/url reads, and nothing is taken that it
// would read in another way.
func FuzzFormToken(f *testing.F) {
	for body := range badForms {
		f.Add([]byte(body))
	}
	f.Add([]byte("a=b&token=x%20+y&token_type_hint=c"))
	f.Fuzz(func(t *testing.T, body []byte) {
		values, urlErr := url.ParseQuery(string(body))
		token, err := formToken([]byte(string(body)))
		if err != nil {
			return
		}
		if urlErr != nil || len(values["token"]) != 1 || values.Get("token") != string(token) {
			t.Fatalf("%q: %q; net/url has %v %v", body, token, values, urlErr)
		}
	})
}
