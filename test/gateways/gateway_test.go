package gateways

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// gateway is a running gateway.
type gateway struct {
	name string
	// address is where its clients find it.
	address string
	*cluster.Process
	client *http.Client
	// What its clients see when the sidecar cannot tell, and when it is down.
	cannotTell, down int
	// title, file and version are for the table: its name as a link, where its
	// configuration is below examples/gateways, and the arguments that print its version.
	title, file string
	version     []string
}

// application is what the gateways protect. It answers with what it was sent.
type application struct {
	address string
	// requests counts what reached it.
	requests atomic.Int64
}

// seen is what the application tells of a request.
type seen struct {
	Method, URI string
	Header      http.Header
	// Body is the SHA-256 of the body, in hexadecimal.
	Body string
}

func digest(body []byte) string { return fmt.Sprintf("%x", sha256.Sum256(body)) }

func newApplication() (*application, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &application{address: l.Addr().String()}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Header, digest(body)})
	}))
	s.Listener = l
	s.Start()
	return a, nil
}

var block = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```")

// snippet returns the one block of docs/integrations.md in a language, with the
// addresses of the document replaced by those of the test.
func snippet(language, address string) (string, error) {
	text, err := os.ReadFile("../../docs/integrations.md")
	if err != nil {
		return "", err
	}
	found := ""
	for _, b := range block.FindAllStringSubmatch(string(text), -1) {
		if b[1] == language {
			if found != "" {
				return "", fmt.Errorf("two blocks in %s", language)
			}
			found = b[2]
		}
	}
	if found == "" {
		return "", errors.New("no block in " + language)
	}
	return replace(found, language, address)
}

// replace puts the test's addresses in the places of the document's.
func replace(text, language, address string) (string, error) {
	_, port, _ := net.SplitHostPort(address)
	listen := map[string][2]string{
		"nginx":     {"listen 8080;", "listen 127.0.0.1:" + port + ";"},
		"caddyfile": {":8080 {", "http://:" + port + " {\n\tbind 127.0.0.1"},
		"haproxy":   {"bind :8080", "bind 127.0.0.1:" + port},
		"lua":       {"/run/keysidecar/keysidecar.sock", world.sidecar.Socket},
	}[language]
	places := [][2]string{listen, {"127.0.0.1:3000", world.app.address}, {"/run/keysidecar/keysidecar.sock", world.sidecar.Socket}}
	if language == "haproxy" {
		places[2] = [2]string{"/etc/haproxy/keysidecar.lua", "keysidecar.lua"}
	}
	if language == "lua" {
		places = places[:1]
	}
	for _, p := range places {
		if strings.Count(text, p[0]) != 1 {
			return "", fmt.Errorf("%s: %q is not there once", language, p[0])
		}
		text = strings.Replace(text, p[0], p[1], 1)
	}
	return text, nil
}

// launch starts a program in front of the application.
func launch(g *gateway, program string, args ...string) (*gateway, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
			if p := filepath.Join(dir, program); path == "" {
				if _, err := os.Stat(p); err == nil {
					path = p
				}
			}
		}
	}
	if path == "" {
		return nil, fmt.Errorf("%s is not installed: make deps installs it on Debian and Ubuntu", program)
	}
	if g.Process, err = world.Program(g.name, path, args...); err != nil {
		return nil, err
	}
	printed, err := exec.Command(path, g.version...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", program, err, printed)
	}
	g.version = []string{versionNumber.FindString(string(printed))}
	g.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	return g, nil
}

var versionNumber = regexp.MustCompile(`\d+\.\d+\.\d+`)

// place returns a folder and an address for a gateway. The address is free when it
// is handed out; nothing else on this machine is given it meanwhile.
func place(dir, name string) (folder, address string, err error) {
	folder = filepath.Join(dir, name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", "", err
	}
	address, release, err := testenv.ReserveAddress()
	if err != nil {
		return "", "", err
	}
	return folder, address, release()
}

func newNginx(dir string) (*gateway, error) {
	folder, address, err := place(dir, "nginx")
	if err != nil {
		return nil, err
	}
	text, err := snippet("nginx", address)
	if err != nil {
		return nil, err
	}
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", kind, folder, kind)
	}
	// One process, so that it may open the socket whoever runs the test.
	file := filepath.Join(folder, "nginx.conf")
	err = os.WriteFile(file, []byte("daemon off; master_process off; error_log stderr error; pid "+folder+"/pid;\nevents {}\nhttp {\naccess_log off;\n"+temp.String()+text+"}\n"), 0o600)
	if err != nil {
		return nil, err
	}
	return launch(&gateway{name: "nginx", address: address, cannotTell: 500, down: 500,
		title: "[nginx](#nginx) `auth_request`", file: "nginx.conf", version: []string{"-v"}}, "nginx", "-p", folder, "-c", file, "-e", "stderr")
}

func newCaddy(dir string) (*gateway, error) {
	folder, address, err := place(dir, "caddy")
	if err != nil {
		return nil, err
	}
	text, err := snippet("caddyfile", address)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(folder, "Caddyfile")
	if err := os.WriteFile(file, []byte("{\n\tadmin off\n\tauto_https off\n}\n"+text), 0o600); err != nil {
		return nil, err
	}
	return launch(&gateway{name: "caddy", address: address, cannotTell: 503, down: 502,
		title: "[Caddy](#caddy) `forward_auth`", file: "Caddyfile", version: []string{"version"}}, "caddy", "run", "--config", file, "--adapter", "caddyfile")
}

func newHAProxy(dir string) (*gateway, error) {
	folder, address, err := place(dir, "haproxy")
	if err != nil {
		return nil, err
	}
	for name, language := range map[string]string{"haproxy.cfg": "haproxy", "keysidecar.lua": "lua"} {
		text, err := snippet(language, address)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return launch(&gateway{name: "haproxy", address: address, cannotTell: 503, down: 503,
		title: "[HAProxy](#haproxy) Lua", file: "haproxy.cfg", version: []string{"-v"}}, "haproxy", "-db", "-C", folder, "-f", filepath.Join(folder, "haproxy.cfg"))
}

// ask sends a request through the gateway. The answer's body is what the
// application saw, if it saw it.
func (g *gateway) ask(ctx context.Context, method, path, body string, header http.Header) (*http.Response, *seen, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+g.address, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	req.URL.Opaque = path
	req.Header = header
	res, err := g.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || method == http.MethodHead {
		return res, nil, err
	}
	s := new(seen)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, nil, fmt.Errorf("%w in %d bytes from the application: %.80q", err, len(text), text)
	}
	return res, s, nil
}

// status is the status of a plain request with a secret, or none.
func (g *gateway) status(ctx context.Context, secret string) (int, error) {
	header := http.Header{}
	if secret != "" {
		header.Set("X-Api-Key", secret)
	}
	res, _, err := g.ask(ctx, http.MethodGet, "/", "", header)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, nil
}

// each runs a test for every gateway.
func each(t *testing.T, test func(t *testing.T, g *gateway)) {
	for _, g := range world.gateways {
		t.Run(g.name, func(t *testing.T) { test(t, g) })
	}
}

// refused sends a request that must not reach the application.
func (g *gateway) refused(t *testing.T, what string, want int, header http.Header) {
	t.Helper()
	before := world.app.requests.Load()
	res, _, err := g.ask(t.Context(), http.MethodGet, "/", "", header)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if res.StatusCode != want || world.app.requests.Load() != before {
		t.Errorf("%s: %d, want %d; %d requests reached the application", what, res.StatusCode, want, world.app.requests.Load()-before)
	}
	if want == http.StatusUnauthorized && !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("%s: 401 without WWW-Authenticate: %v", what, res.Header)
	}
}
