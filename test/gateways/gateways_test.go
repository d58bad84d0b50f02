package gateways

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
)

func fields(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// What a client sends under the identity headers' names must never reach the
// application, whatever the key has, and neither must the credential.
func TestTheApplicationSeesTheKeysIdentityAndNotTheClients(t *testing.T) {
	rich := issue(t, "ks_rich", "Ünï 100%", "pay all", "refund")
	bare := issue(t, "ks_bare", "m_bare")
	forged := []string{
		"X-Keysidecar-Key-Id", "forged", "X-Keysidecar-Owner-Id", "forged", "X-Keysidecar-Owner-Id", "forged2", "X-Keysidecar-Scopes", "forged",
		"X_Keysidecar_Key_Id", "forged", "X_Keysidecar_Scopes", "forged",
	}
	each(t, func(t *testing.T, g *gateway) {
		for _, tt := range []struct {
			secret            string
			key, owner, scope string
		}{
			{"ks_rich", rich, "%C3%9Cn%C3%AF%20100%25", "pay%20all refund"},
			{"ks_bare", bare, "m_bare", ""},
		} {
			for _, credential := range [][]string{{"X-Api-Key", tt.secret}, {"Authorization", "Bearer " + tt.secret}} {
				_, s, err := g.ask(t.Context(), http.MethodGet, "/", "", fields(append(slices.Clone(forged), credential...)...))
				if err != nil || s == nil {
					t.Fatalf("%v: not let through: %v", credential[0], err)
				}
				for name, want := range map[string]string{"X-Keysidecar-Key-Id": tt.key, "X-Keysidecar-Owner-Id": tt.owner, "X-Keysidecar-Scopes": tt.scope} {
					if got := strings.Join(s.Header.Values(name), "|"); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
				text := fmt.Sprint(s.Header)
				if strings.Contains(text, "forged") || strings.Contains(text, tt.secret) {
					t.Errorf("the application saw %s", text)
				}
			}
		}
	})
}

// Requests of all kinds arrive as they were sent.
func TestRequestsPassUnharmed(t *testing.T) {
	issue(t, "ks_pass", "m_pass")
	each(t, func(t *testing.T, g *gateway) {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			for _, path := range []string{"/", "/orders/7?a=b&c=%2F", "/v1/keys/x", "/a%2Fb"} {
				for _, size := range []int{0, 10, 200_000} {
					if size > 0 && (method == "GET" || method == "HEAD" || method == "OPTIONS") {
						continue
					}
					body := strings.Repeat("b", size)
					res, s, err := g.ask(t.Context(), method, path, body, fields("X-Api-Key", "ks_pass", "Origin", "https://shop.example", "Cache-Control", "no-cache"))
					if err != nil || res.StatusCode != 200 {
						t.Fatalf("%s %s with %d bytes: %v %v", method, path, size, res, err)
					}
					if method != "HEAD" && (s.Method != method || s.URI != path || s.Body != digest([]byte(body))) {
						t.Errorf("%s %s with %d bytes arrived as %s %s, or with another body", method, path, size, s.Method, s.URI)
					}
				}
			}
		}
		// More than other routes of the sidecar take.
		large := fields("X-Api-Key", "ks_pass")
		for i := range 3 {
			large.Set(fmt.Sprint("X-Large-", i), strings.Repeat("l", 3500))
		}
		if res, _, err := g.ask(t.Context(), "GET", "/", "", large); err != nil || res.StatusCode != 200 {
			t.Errorf("10 KB of header: %v %v", res, err)
		}
	})
}

func TestTheGatewayRefuses(t *testing.T) {
	issue(t, "ks_good", "m_good")
	issue(t, "ks_closed", "m_closed")
	if _, err := world.Exec(t.Context(), `SELECT keysidecar.suspend_owner('m_closed')`); err != nil {
		t.Fatal(err)
	}
	id := keystore.HashSecret(nil, []byte("ks_closed"))
	if _, err := world.sidecar.Until(t.Context(), id, cluster.Code("owner_suspended")); err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, g *gateway) {
		g.refused(t, "no credential", 401, fields())
		g.refused(t, "another scheme", 401, fields("Authorization", "Basic a3NfZ29vZDo="))
		g.refused(t, "X-Api-Key twice", 401, fields("X-Api-Key", "ks_good", "X-Api-Key", "ks_good"))
		g.refused(t, "X-Api-Key twice, one unknown", 401, fields("X-Api-Key", "ks_good", "X-Api-Key", "ks_none"))
		g.refused(t, "two credentials", 401, fields("X-Api-Key", "ks_good", "Authorization", "Bearer ks_good"))
		g.refused(t, "an unknown secret", 403, fields("X-Api-Key", "ks_none"))
		g.refused(t, "a key_id for a secret", 403, fields("X-Api-Key", keystore.HashSecret(nil, []byte("ks_good"))))
		g.refused(t, "a suspended owner", 403, fields("X-Api-Key", "ks_closed"))
		g.refused(t, "forged identity", 401, fields("X-Keysidecar-Key-Id", "x", "X-Keysidecar-Owner-Id", "x", "X-Keysidecar-Scopes", "x"))
		if status, err := g.status(t.Context(), "ks_good"); err != nil || status != 200 {
			t.Errorf("a good one: %d %v", status, err)
		}
		// Its client may not ask the sidecar by itself.
		for _, path := range []string{"/_keysidecar", "/v1/authz", "//v1/authz", "/%5fkeysidecar"} {
			before := world.app.requests.Load()
			res, _, err := g.ask(t.Context(), "GET", path, "", fields("X-Api-Key", "ks_none"))
			if err != nil || res.StatusCode == 200 || world.app.requests.Load() != before {
				t.Errorf("%s: %v %v", path, res, err)
			}
		}
	})
}

// unrun are the rows of the table for what cannot be had here.
const unrun = "| [Envoy](#envoy) `ext_authz` (HTTP) | Unix socket (pipe) | [envoy.yaml](../examples/gateways/envoy.yaml) | 401 | 403 | 503 by `status_on_error` | 503 by `status_on_error` | - | against its contract only |\n" +
	"| [Traefik](#traefik) `ForwardAuth` | loopback | [traefik.yaml](../examples/gateways/traefik.yaml) | 401 | 403 | 503 | 500 | - | against its contract only |\n" +
	"| [Spring Security](#spring-security) | loopback | [application.yaml](../examples/spring/application.yaml) | 401 | 401 | 500 | 500 | - | against its contract only |\n"

// The time from the acknowledged commit to the first refusal. It writes the table of
// gateways in docs/integrations.md.
func TestARevokedKeyStopsAtTheGateway(t *testing.T) {
	const samples = 15
	var rows strings.Builder
	each(t, func(t *testing.T, g *gateway) {
		var took []time.Duration
		for i := range samples {
			secret := fmt.Sprintf("ks_revoked_%s_%d", g.name, i)
			id := issue(t, secret, "m_revoked")
			if status, err := g.status(t.Context(), secret); err != nil || status != 200 {
				t.Fatalf("before: %d %v", status, err)
			}
			committed, err := world.Exec(t.Context(), `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1`, id)
			if err != nil {
				t.Fatal(err)
			}
			err = until(t.Context(), "it is refused", func() bool {
				status, err := g.status(t.Context(), secret)
				if err != nil || status != 200 && status != 403 {
					t.Errorf("%d %v", status, err)
				}
				return status == 403
			})
			if err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(committed))
			g.refused(t, "afterwards", 403, fields("X-Api-Key", secret))
		}
		slices.Sort(took)
		median, worst := took[samples/2], took[samples-1]
		t.Logf("%s: %.1f (%.1f) ms", g.name, median.Seconds()*1000, worst.Seconds()*1000)
		if median > fenceInterval/4 || worst > maxStaleness {
			t.Errorf("median %v, worst %v: not because of the message", median, worst)
		}
		fmt.Fprintf(&rows, "| %s | Unix socket | [%s](../examples/gateways/%s) | 401 | 403 | %d | %d | %.1f ms (%.1f) | %s, by test |\n",
			g.title, g.file, g.file, g.cannotTell, g.down, median.Seconds()*1000, worst.Seconds()*1000, g.version[0])
	})
	if *write != "" && !t.Failed() {
		text := "| gateway | transport | configuration | no credential | revoked or unknown key | sidecar cannot tell | sidecar down | revocation to refusal, median (worst) | checked |\n" +
			"|---|---|---|---|---|---|---|---|---|\n" + rows.String() + unrun + fmt.Sprintf("\nMeasured on %d cores.\n", runtime.NumCPU())
		if err := evidence.WriteSection(*write, "gateways", text); err != nil {
			t.Fatal(err)
		}
	}
}

// Postgres is silent for longer than the promise: nobody can tell, and nothing
// passes. When it is back, everything does.
func TestNothingPassesWhenTheSidecarCannotTell(t *testing.T) {
	issue(t, "ks_stale", "m_stale")
	if err := world.PG.Pause(); err != nil {
		t.Fatal(err)
	}
	paused := true
	defer func() {
		if paused {
			_ = world.PG.Resume()
		}
	}()
	for _, g := range world.gateways {
		// That nobody issued a key is told from memory, until the lease is over. The other key
		// may have to be read, and is refused sooner then.
		if err := until(t.Context(), g.name+" cannot tell", func() bool {
			status, err := g.status(t.Context(), "ks_none")
			return err == nil && status == g.cannotTell
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range world.gateways {
		g.refused(t, g.name, g.cannotTell, fields("X-Api-Key", "ks_stale"))
		g.refused(t, g.name+", unknown", g.cannotTell, fields("X-Api-Key", "ks_none"))
	}
	paused = false
	if err := world.PG.Resume(); err != nil {
		t.Fatal(err)
	}
	mustRecover(t, "ks_stale")
}

func TestNothingPassesWhenTheSidecarIsDown(t *testing.T) {
	issue(t, "ks_down", "m_down")
	for _, g := range world.gateways {
		if status, err := g.status(t.Context(), "ks_down"); err != nil || status != 200 {
			t.Fatalf("%s: %d %v", g.name, status, err)
		}
	}
	if err := world.sidecar.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, g := range world.gateways {
		for range 3 {
			g.refused(t, g.name, g.down, fields("X-Api-Key", "ks_down"))
		}
	}
	if err := world.sidecar.Start(); err != nil {
		t.Fatal(err)
	}
	mustRecover(t, "ks_down")
}

func mustRecover(t *testing.T, secret string) {
	t.Helper()
	for _, g := range world.gateways {
		if err := until(t.Context(), g.name+" lets requests pass again", func() bool {
			status, err := g.status(t.Context(), secret)
			return err == nil && status == 200
		}); err != nil {
			t.Error(err)
		}
	}
	if err := ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// What Envoy sends by its documentation (ext_authz over HTTP): its client's method
// and Host, path_prefix and the client's path, no body, and the headers named.
func TestEnvoysContract(t *testing.T) {
	issue(t, "ks_envoy", "m_envoy", "refund")
	for _, tt := range []struct {
		prefix, method, path, secret string
		status                       int
	}{
		{"/v1/authz", "GET", "/orders/7?x=y", "ks_envoy", 200},
		{"/v1/authz", "POST", "/", "ks_envoy", 200},
		{"/v1/authz", "DELETE", "/../../v1/status", "ks_envoy", 200},
		{"/v1/authz-policy/refunds", "PUT", "/orders/7", "ks_envoy", 200},
		{"/v1/authz", "HEAD", "/", "ks_none", 403},
		{"/v1/authz", "OPTIONS", "/", "", 401},
		{"/v1/authz-policy/nothing", "GET", "/", "ks_envoy", 403},
	} {
		request := tt.method + " " + tt.prefix + tt.path + " HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 0\r\n" +
			"x-envoy-internal: true\r\nx-forwarded-for: 10.0.0.1\r\nx-envoy-expected-rq-timeout-ms: 500\r\n"
		if tt.secret != "" {
			request += "x-api-key: " + tt.secret + "\r\n"
		}
		res := replay(t, "unix", world.sidecar.Socket, tt.method, request+"\r\n")
		if res.StatusCode != tt.status {
			t.Errorf("%+v: %d", tt, res.StatusCode)
		}
		// It allows on 200 exactly, and overwrites with the headers it is told to take.
		if tt.status == 200 && (len(res.Header["X-Keysidecar-Owner-Id"]) != 1 || len(res.Header["X-Keysidecar-Key-Id"]) != 1 || len(res.Header["X-Keysidecar-Scopes"]) != 1) {
			t.Errorf("%+v: %v", tt, res.Header)
		}
	}
}

// What Traefik sends by its documentation (ForwardAuth): GET to the address as it
// stands, with the request as X-Forwarded fields and its client's headers.
func TestTraefiksContract(t *testing.T) {
	issue(t, "ks_traefik", "m_traefik")
	for secret, status := range map[string]int{"ks_traefik": 200, "ks_none": 403, "": 401} {
		request := "GET /v1/authz HTTP/1.1\r\nHost: " + world.tcp + "\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n" +
			"Origin: https://shop.example\r\nSec-Fetch-Site: same-site\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Host: shop.example\r\n" +
			"X-Forwarded-Method: POST\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Uri: /orders/7?x=y\r\n"
		if secret != "" {
			request += "X-Api-Key: " + secret + "\r\n"
		}
		if res := replay(t, "tcp", world.tcp, "GET", request+"\r\n"); res.StatusCode != status {
			t.Errorf("%q: %d", secret, res.StatusCode)
		}
	}
}

// What Spring Security's introspector sends: a form, with Basic and JSON asked for.
func TestSpringSecuritysContract(t *testing.T) {
	issue(t, "ks spring+%", "m_spring", "pay", "refund")
	request := "POST /v1/introspect HTTP/1.1\r\nHost: " + world.tcp + "\r\nAccept: application/json, application/*+json\r\n" +
		"Content-Type: application/x-www-form-urlencoded;charset=UTF-8\r\nAuthorization: Basic YXBwOnRva2Vu\r\nContent-Length: %d\r\n\r\n%s"
	for form, want := range map[string]string{
		"token=ks+spring%2B%25": `"client_id":"m_spring","scope":"pay refund"`,
		"token=ks_none":         `{"active":false}`,
	} {
		res := replay(t, "tcp", world.tcp, "POST", fmt.Sprintf(request, len(form), form))
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 || !strings.Contains(string(body), want) || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %v", form, res.StatusCode, body, err)
		}
	}
}

// replay sends bytes and reads one answer.
func replay(t *testing.T, network, address, method, request string) *http.Response {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res
}

// The sidecar's own settings in the document, and everything else that is YAML.
func TestSettingsInTheDocumentLoad(t *testing.T) {
	text, err := os.ReadFile("../../docs/integrations.md")
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, b := range block.FindAllStringSubmatch(string(text), -1) {
		if b[1] != "yaml" {
			continue
		}
		var any map[string]any
		if err := yaml.Unmarshal([]byte(b[2]), &any); err != nil {
			t.Errorf("%v in\n%s", err, b[2])
		}
		if _, ours := any["authz"]; !ours {
			continue
		}
		loaded++
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte("store: {kind: file, file: {path: k}}\n"+b[2]), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := config.Load(file, nil)
		if err == nil {
			err = c.Validate(config.ForSidecar)
		}
		if err != nil {
			t.Errorf("%v in\n%s", err, b[2])
		}
	}
	if loaded < 2 {
		t.Errorf("only %d blocks with settings of the sidecar", loaded)
	}
}
