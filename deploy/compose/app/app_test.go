package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a sidecar that answers as it is told.
func fake(t *testing.T, h http.HandlerFunc) *sidecar {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return newSidecar(socket)
}

func TestAKeyIsUsedThatTheSidecarDidNotCallValid(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"active":                {200, `{"valid":true,"code":"active","key_id":"pk_1"}`, answerUse},
		"revoked":               {410, `{"valid":false,"code":"revoked","key_id":"pk_1"}`, answerRefuse},
		"another key":           {200, `{"valid":true,"code":"active","key_id":"pk_2"}`, answerRefuse},
		"valid, and not 200":    {403, `{"valid":true,"code":"active","key_id":"pk_1"}`, answerRefuse},
		"200 and not valid":     {200, `{"valid":false,"code":"revoked","key_id":"pk_1"}`, answerRefuse},
		"valid is not true":     {200, `{"valid":"true","key_id":"pk_1"}`, answerFail},
		"a problem":             {400, `{"code":"bad_key_id"}`, answerRefuse},
		"it cannot tell":        {503, `{"valid":false,"code":"unavailable","key_id":"pk_1"}`, answerFail},
		"cannot tell and valid": {503, `{"valid":true,"code":"active","key_id":"pk_1"}`, answerFail},
		"no JSON":               {200, `yes`, answerFail},
		"broken off":            {200, `{"valid":true,"key_id":"pk_1"`, answerFail},
	} {
		s := fake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		if have := (&pages{keys: []string{"pk_1"}, sidecar: s}).rows(t.Context()); have[0].Answer != c.want {
			t.Errorf("%s: %+v", name, have)
		}
	}
}

func TestASidecarThatIsNotThereRefusesKeys(t *testing.T) {
	_, use, err := newSidecar(filepath.Join(t.TempDir(), "none")).ask(t.Context(), "pk_1")
	if use || !errors.Is(err, errCannotTell) {
		t.Errorf("%v, %v", use, err)
	}
}

func TestAKeyIdentifierLeavesItsPlaceInThePath(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"valid": true, "key_id": strings.TrimPrefix(r.RequestURI, "/v1/keys/")})
	})
	for id, want := range map[string]string{"../status": "..%2Fstatus", "a?b#c": "a%3Fb%23c", "a b": "a%20b"} {
		v, use, err := s.ask(t.Context(), id)
		if use || err != nil || v.KeyID != want {
			t.Errorf("%s: asked for %q, %v, %v", id, v.KeyID, use, err)
		}
	}
}

func TestThePageRunsWhatAnAnswerSays(t *testing.T) {
	const evil = `<script>alert(1)</script>`
	s := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"valid": false, "code": evil, "key_id": "pk_1"})
	})
	h := newPages("app-a", []string{"pk_1", " ", ""}, s)
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w
	}
	page := get("/")
	if page.Code != 200 || strings.Contains(page.Body.String(), evil) || strings.Count(page.Body.String(), "<tr class") != 1 {
		t.Errorf("%d %s", page.Code, page.Body)
	}
	if csp := page.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy: %s", csp)
	}
	for path, kind := range map[string]string{"/page.js": "javascript", "/page.css": "text/css", "/healthz": "text/plain", "/keys.json": "application/json"} {
		if w := get(path); w.Code != 200 || !strings.Contains(w.Header().Get("Content-Type"), kind) {
			t.Errorf("%s: %d %s", path, w.Code, w.Header())
		}
	}
	if w := get("/page.html"); w.Code != 404 {
		t.Errorf("the template is served: %d", w.Code)
	}
}

func TestItStopsInTheMiddleOfARequestOrNever(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	arrived, release := make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/slow", func(http.ResponseWriter, *http.Request) { close(arrived); <-release })
	go func() { served <- serve(ctx, address, mux) }()
	for isThere(t.Context(), address) != nil {
		select {
		case err := <-served:
			t.Fatal(err)
		default:
		}
	}
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + address + "/slow")
		if err == nil {
			err = resp.Body.Close()
		}
		answered <- err
	}()
	<-arrived
	cancel()
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the request: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("the server: %v", err)
	}
	if isThere(t.Context(), address) == nil {
		t.Error("it is still there")
	}
}
