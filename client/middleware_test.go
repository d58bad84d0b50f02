package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/client"
)

// protected is a handler behind the middleware that answers whose request it was.
func protected(t testing.TB, c *client.Client, o client.MiddlewareOptions) http.Handler {
	t.Helper()
	m, err := c.Middleware(o)
	if err != nil {
		t.Fatal(err)
	}
	return m(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := client.KeyFromContext(r.Context())
		if !ok {
			t.Error("a request without a key has passed")
			return
		}
		w.Header().Set("Key", key.ID)
		w.Header().Set("Owner", key.OwnerID)
		w.Header().Set("Scopes", strings.Join(key.Scopes, " "))
		for name := range r.Header {
			w.Header().Add("Saw", name)
		}
	}))
}

// fields are header fields in pairs of name and value.
type fields []string

func (f fields) addTo(h http.Header) {
	for i := 0; i+1 < len(f); i += 2 {
		h.Add(f[i], f[i+1])
	}
}

var presentations = map[string]fields{
	"none":                     {},
	"a good one":               {"X-Api-Key", secret},
	"a good bearer":            {"Authorization", "Bearer " + secret},
	"a bearer in small":        {"Authorization", "bearer   " + secret},
	"unknown":                  {"X-Api-Key", "ks_nobody"},
	"two fields":               {"X-Api-Key", secret, "Authorization", "Bearer " + secret},
	"one field twice":          {"X-Api-Key", secret, "X-Api-Key", secret},
	"one field twice, empty":   {"X-Api-Key", "", "X-Api-Key", secret},
	"authorization twice":      {"Authorization", "Basic eDp5", "Authorization", "Bearer " + secret},
	"empty":                    {"X-Api-Key", ""},
	"an empty bearer":          {"Authorization", "Bearer"},
	"an empty bearer, a space": {"Authorization", "Bearer "},
	"another scheme":           {"Authorization", "Basic eDp5"},
	"another scheme beside":    {"Authorization", "Basic eDp5", "X-Api-Key", secret},
	"a word like bearer":       {"Authorization", "Bearers " + secret},
	"no scheme":                {"Authorization", secret},
	"too long":                 {"X-Api-Key", strings.Repeat("x", 4097)},
	"the longest":              {"X-Api-Key", strings.Repeat("x", 4096)},
	"identity from outside":    {"X-Api-Key", secret, "X-Keysidecar-Owner-Id", "m_other"},
}

// The middleware answers as the sidecar's own route for gateways, asked with the same
// fields.
func TestMiddlewareDiffersFromTheGatewayRoute(t *testing.T) {
	t.Parallel()
	s := startReal(t, false)
	h := protected(t, s.client(t), client.MiddlewareOptions{Credential: client.CredentialSecret, Scopes: []string{"read"}})
	path := strings.TrimPrefix(s.address, "unix://")
	raw := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer raw.CloseIdleConnections()
	compare := func(t *testing.T, what string, f fields) int {
		t.Helper()
		req := httptest.NewRequest(http.MethodGet, "http://localhost/v1/authz", http.NoBody).WithContext(t.Context())
		f.addTo(req.Header)
		want, err := raw.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer want.Body.Close()
		wantBody, _ := io.ReadAll(want.Body)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		got := w.Result()
		defer got.Body.Close()
		gotBody, _ := io.ReadAll(got.Body)
		if got.StatusCode != want.StatusCode {
			t.Errorf("%s: %d, the sidecar %d", what, got.StatusCode, want.StatusCode)
		}
		if got.StatusCode == http.StatusOK {
			if got.Header.Get("Owner") != want.Header.Get("X-Keysidecar-Owner-Id") || got.Header.Get("Key") != want.Header.Get("X-Keysidecar-Key-Id") || got.Header.Get("Scopes") != want.Header.Get("X-Keysidecar-Scopes") {
				t.Errorf("%s: %v, the sidecar %v", what, got.Header, want.Header)
			}
			return got.StatusCode
		}
		for _, name := range []string{"WWW-Authenticate", "Retry-After", "Cache-Control", "Content-Type"} {
			if got.Header.Get(name) != want.Header.Get(name) {
				t.Errorf("%s: %s %q, the sidecar %q", what, name, got.Header.Get(name), want.Header.Get(name))
			}
		}
		if string(gotBody) != string(wantBody) {
			t.Errorf("%s:\n%s\n%s", what, gotBody, wantBody)
		}
		return got.StatusCode
	}
	seen := map[int]bool{}
	for what, f := range presentations {
		seen[compare(t, what, f)] = true
	}
	gone := sampleKeys()
	gone.Keys = slices.DeleteFunc(gone.Keys, func(k testKey) bool { return k.KeyID == secretID })
	s.change(gone)
	eventually(t, "the key is refused", func() bool {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		presentations["a good one"].addTo(req.Header)
		h.ServeHTTP(w, req)
		return w.Code == http.StatusForbidden
	})
	s.silence()
	eventually(t, "nobody can tell", func() bool {
		_, err := s.client(t).Lookup(t.Context(), oddID)
		return errors.Is(err, client.ErrUnavailable)
	})
	seen[compare(t, "unavailable", presentations["a good one"])] = true
	if len(seen) != 4 || !seen[200] || !seen[401] || !seen[403] || !seen[503] {
		t.Errorf("seen: %v", seen)
	}
}

func TestNothingPassesWithoutASidecar(t *testing.T) {
	t.Parallel()
	c := (&target{address: "unix:///nonexistent/s.sock"}).client(t)
	var reasons []error
	h := protected(t, c, client.MiddlewareOptions{Credential: client.CredentialKeyID, Refused: func(_ *http.Request, status int, reason error) {
		if status != http.StatusServiceUnavailable {
			t.Errorf("%d: %v", status, reason)
		}
		reasons = append(reasons, reason)
	}})
	req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x"))
	req.Header.Set("X-Api-Key", "pk_live")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	var p struct{ Code string }
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 503 || p.Code != "unavailable" || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(reasons) != 1 || !errors.Is(reasons[0], client.ErrUnavailable) || strings.Contains(w.Body.String(), "nonexistent") {
		t.Errorf("%v %s", reasons, w.Body)
	}
}

func TestHostileIDPassesTheMiddleware(t *testing.T) {
	t.Parallel()
	c := (&target{address: "unix:///nonexistent/s.sock"}).client(t)
	h := protected(t, c, client.MiddlewareOptions{Credential: client.CredentialKeyID})
	for _, id := range hostileIDs {
		req := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		req.Header["X-Api-Key"] = []string{id}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %d", id, w.Code)
		}
	}
}

// What the handler sees: no credential, and no identity that the client made up.
func TestHandlerSeesTheCredential(t *testing.T) {
	t.Parallel()
	c := startFake(t).client(t)
	for _, keep := range []bool{false, true} {
		h := protected(t, c, client.MiddlewareOptions{Credential: client.CredentialSecret, Headers: []string{"x-api-key", "authorization"}, KeepCredential: keep})
		req := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		fields{"X-Api-Key", secret, "Authorization", "Basic eDp5", "X-Keysidecar-Key-Id", "k", "X-Keysidecar-Owner-Id", "m", "X-Keysidecar-Scopes", "s", "Accept", "x"}.addTo(req.Header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		saw := w.Header()["Saw"]
		slices.Sort(saw)
		want := []string{"Accept", "Authorization"}
		if keep {
			want = append(want, "X-Api-Key")
		}
		if !slices.Equal(saw, want) || req.Header.Get("X-Api-Key") != secret {
			t.Errorf("keep %v: %v", keep, saw)
		}
	}
}

func TestMiddlewareWithoutAPolicyIsMade(t *testing.T) {
	t.Parallel()
	c := (&target{address: "unix:///nonexistent/s.sock"}).client(t)
	for name, o := range map[string]client.MiddlewareOptions{
		"nothing":       {},
		"no credential": {Scopes: []string{"pay"}},
		"no such":       {Credential: 3},
		"bad scopes":    {Credential: client.CredentialSecret, Scopes: []string{""}},
		"no scopes":     {Credential: client.CredentialSecret, Scopes: []string{}},
		"bad header":    {Credential: client.CredentialSecret, Headers: []string{"X Api"}},
		"twice":         {Credential: client.CredentialSecret, Headers: []string{"X-Api-Key", "x-api-key"}},
	} {
		if m, err := c.Middleware(o); err == nil || m != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
