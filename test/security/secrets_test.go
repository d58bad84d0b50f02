package security

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// planted are the secrets that must not turn up, by what they are, and where texts
// were looked at.
type planted struct {
	t       *testing.T
	secrets map[string]string
	looked  int
}

// add plants a secret.
func (p *planted) add(what, secret string) string {
	p.t.Helper()
	if len(secret) < 12 {
		p.t.Fatalf("%s is too short to be told from chance", what)
	}
	p.secrets[what] = secret
	return secret
}

// forms returns the texts as which a secret can turn up.
func forms(secret string) []string {
	found := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret)))}
	// Base64 of a longer text that holds it: three ways to begin, without the
	// characters at both ends that depend on what is around.
	for shift := range 3 {
		padded := append(make([]byte, shift), secret...)
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := e.EncodeToString(padded)
			found = append(found, text[(shift*8+5)/6:len(text)-2])
		}
	}
	// Bytes as %v shows them.
	return append(found, strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"))
}

// absent fails the test for every secret that text holds.
func (p *planted) absent(where string, text []byte) {
	p.t.Helper()
	p.looked++
	for what, secret := range p.secrets {
		for _, form := range forms(secret) {
			if i := bytes.Index(text, []byte(form)); i >= 0 {
				p.t.Errorf("%s shows %s: ...%q...", where, what, text[max(0, i-120):min(len(text), i+len(form)+20)])
				break
			}
		}
	}
}

// run runs the program to its end, looks at all it printed and at nothing else.
func (p *planted) run(stdin string, env []string, args ...string) (stdout string, err error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	stdout, stderr, err := program(ctx, stdin, env, args...)
	p.absent("standard error of "+args[0], []byte(stderr))
	return stdout, err
}

func TestTheSearchForSecretsFindsNothingEver(t *testing.T) {
	const secret = "s3cr/t+pässwörd=="
	for name, text := range map[string]string{
		"raw": "a" + secret + "b", "hex": fmt.Sprintf("%x", "ab"+secret), "HEX": fmt.Sprintf("%X", secret+"x"),
		"query": "?p=" + url.QueryEscape(secret), "bytes": fmt.Sprintf("%d", []byte("xy"+secret+"z")),
		"base64":   base64.StdEncoding.EncodeToString([]byte("user:" + secret)),
		"base64-1": base64.URLEncoding.EncodeToString([]byte("x" + secret + "yz")),
		"base64-2": base64.RawStdEncoding.EncodeToString([]byte("xx" + secret + "yz")),
	} {
		found := false
		for _, form := range forms(secret) {
			found = found || strings.Contains(text, form)
		}
		if !found {
			t.Errorf("%s: not found in %s", name, text)
		}
	}
}

// Everything that is secret is planted, everything is run, also what fails, and then
// everything is looked through: what processes print, what they serve, what they
// leave in the database, in the broker's files and in the list of processes.
func TestSecretTurnsUpSomewhere(t *testing.T) {
	p := &planted{t: t, secrets: make(map[string]string)}
	old := make(map[string]string)
	for name, password := range world.passwords {
		old[name] = password
	}
	t.Cleanup(func() { changePasswords(t, old) })
	changePasswords(t, map[string]string{
		sidecarLogin: p.add("the sidecar's Postgres password", "plant-pg-sidecar-7f3a"), relayLogin: p.add("the relay's Postgres password", "plant-pg-relay-91bc"),
		sidecarUser: p.add("the sidecar's broker password", "plant-mq-sidecar-22de"), relayUser: p.add("the relay's broker password", "plant-mq-relay-5a5a"),
	})
	for n, line := range strings.Split(strings.TrimSpace(string(world.client.Key)), "\n") {
		if !strings.HasPrefix(line, "-----") && len(line) > 20 {
			p.secrets[fmt.Sprintf("line %d of the client's private key", n)] = line
		}
	}
	pepper, token := p.add("the pepper", "plant-pepper-0123456789abcdef"), p.add("the listener's token", "plant-token-fedcba9876543210")

	// From here on Postgres logs every statement with its parameters.
	for _, sql := range []string{"ALTER SYSTEM SET log_statement = 'all'", "ALTER SYSTEM SET log_parameter_max_length = -1", "SELECT pg_reload_conf()"} {
		if _, err := world.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	postgresSaid, _ := serverLogs(t)
	tcp := freeAddress(t)
	common := []string{"KEYSIDECAR_LOG_LEVEL=debug", "KEYSIDECAR_KEYS_PEPPER_FILE=" + file(t, pepper)}
	credentialsOfSidecar := newCredentials(t, sidecarLogin, sidecarUser)
	r := relay(t, append(common, newCredentials(t, relayLogin, relayUser).env()...)...)
	s := sidecar(t, append(append(common, credentialsOfSidecar.env()...),
		"KEYSIDECAR_LISTEN_TCP_ADDRESS="+tcp, "KEYSIDECAR_LISTEN_TCP_TOKEN_FILE="+file(t, token),
		"KEYSIDECAR_AUTHZ_CREDENTIAL=secret", "KEYSIDECAR_AUDIT_INTERVAL=100ms")...)
	leading(t, r)
	ready(t, s)

	// Issue: one secret is generated, and printed this once; one is handed in.
	admin := append(common, "KEYSIDECAR_STORE_POSTGRES_DSN_FILE="+file(t, world.DSN()))
	out, err := p.run("", admin, "keys", "issue", "--owner", "m_secrets", "--secret", "--prefix", "sk_live_")
	generated := regexp.MustCompile(`sk_live_\S{40,}`).FindString(out)
	if err != nil || generated == "" {
		t.Fatalf("issue: %v\n%s", err, out)
	}
	p.add("a generated secret key", generated)
	handed := p.add("a secret key handed in", "sk_live_plant_handed_in_77")
	out, err = p.run(handed+"\n", admin, "keys", "issue", "--owner", "m_secrets", "--secret=-", "-o", "json")
	if err != nil {
		t.Fatalf("issue: %v\n%s", err, out)
	}
	p.absent("keys issue --secret=-", []byte(out))
	keyID := regexp.MustCompile(`sha256:[\w-]+`).FindString(out)
	wrong := p.add("a secret key that nobody has issued", "sk_live_plant_never_issued_9")

	// Ask in every way, with right, wrong and broken requests.
	client := clientOf(s)
	until(t, s, keyID, "active")
	for _, secret := range []string{generated, handed, wrong} {
		for _, ask := range []struct{ method, path, contentType, header, body string }{
			{"POST", "/v1/verify", "application/json", "", `{"key":"` + secret + `"}`},
			{"POST", "/v1/verify", "application/json", "", `{"key":"` + secret + `","kez":1}`},
			{"POST", "/v1/verify", "application/json", "", `{"key":"` + secret},
			{"POST", "/v1/verify", "text/plain", "", secret},
			{"POST", "/v1/verify/batch", "application/json", "", `{"requests":[{"key":"` + secret + `"},{"key":"` + secret + `x","scopes":["a"]}]}`},
			{"POST", "/v1/introspect", "application/x-www-form-urlencoded", "", "token=" + url.QueryEscape(secret)},
			{"POST", "/v1/introspect", "application/x-www-form-urlencoded", "", "token=" + url.QueryEscape(secret) + "&token=2"},
			{"GET", "/v1/authz", "", secret, ""},
			{"GET", "/v1/authz/some/path", "", "", ""},
			{"GET", "/v1/authz", "", secret + "\x80", ""},
		} {
			req, err := http.NewRequestWithContext(t.Context(), ask.method, "http://x"+ask.path, strings.NewReader(ask.body))
			if err != nil {
				t.Fatal(err)
			}
			if ask.contentType != "" {
				req.Header.Set("Content-Type", ask.contentType)
			}
			if ask.header != "" {
				req.Header.Set("X-Api-Key", ask.header)
			}
			body, err := do(client, req)
			if err != nil {
				t.Fatalf("%s %s: %v", ask.method, ask.path, err)
			}
			p.absent("the answer to "+ask.method+" "+ask.path, body)
		}
	}
	for _, presented := range []string{token, token + "x"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tcp+"/v1/keys/"+keyID, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+presented)
		body, err := do(http.DefaultClient, req)
		if err != nil {
			t.Fatal(err)
		}
		p.absent("the loopback listener", body)
	}
	p.command(s, handed, "verify", "--key=-")
	p.command(s, wrong, "verify", "--key=-", "-o", "json")
	p.command(s, "", "status", "-o", "json")
	p.command(s, "", "audit", "-o", "json")

	// Change and revoke.
	out, err = p.run("", admin, "keys", "rotate", keyID, "--secret")
	if rotated := regexp.MustCompile(`ks_\S{40,}|sk_live_\S{40,}`).FindString(out); rotated != "" {
		p.add("a rotated secret key", rotated)
	} else {
		t.Errorf("rotate: %v\n%s", err, out)
	}
	if out, err := p.run("", admin, "keys", "revoke", keyID, "--wait=20s"); err != nil {
		t.Errorf("revoke: %v\n%s", err, out)
	}
	until(t, s, keyID, "revoked")

	p.failures(append(common, "KEYSIDECAR_INSTANCE=broken"), credentialsOfSidecar)

	// A broker that turns the password down, and a database that does, while running.
	replace(t, credentialsOfSidecar.dsn, dsn(sidecarLogin, p.add("a wrong Postgres password", "plant-wrong-pg-4711"), "sslrootcert", credentialsOfSidecar.ca))
	replace(t, credentialsOfSidecar.url, brokerURL(sidecarUser, p.add("a wrong broker password", "plant-wrong-mq-0815"), "127.0.0.1"))
	disconnect(t)
	awaitStatus(t, s.Admin, "both passwords refused", func(s state) bool {
		return s.fenceError() == "auth" && s.Components.Broker.LastError == "auth"
	})
	replace(t, credentialsOfSidecar.url, "amqps://%zz:"+world.passwords[sidecarUser]+"@broker")
	replace(t, credentialsOfSidecar.dsn, "postgres://x:%zz"+world.passwords[sidecarLogin]+"@db/x")
	eventually(t, "both connection strings complained of", func() bool {
		return strings.Contains(s.Log(), "amqp.url_file") && strings.Contains(s.Log(), "store.postgres.dsn_file")
	})

	p.pages(s, r, tcp, token)
	p.processes(s, r)
	// The dump of every goroutine, which is what a crash prints.
	if err := s.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-s.Ended()
	if !strings.Contains(s.Log(), "goroutine ") {
		t.Error("no dump")
	}
	stop(t, r.Process)
	p.absent("the sidecar's log", []byte(s.Log()))
	p.absent("the relay's log", []byte(r.Log()))
	p.servers(postgresSaid)
	if p.looked < 100 {
		t.Errorf("only %d texts were looked at", p.looked)
	}
}

// command runs a command that asks the sidecar.
func (p *planted) command(s *cluster.Sidecar, stdin string, args ...string) {
	p.t.Helper()
	out, _ := p.run(stdin, []string{"KEYSIDECAR_LISTEN_SOCKET_PATH=" + s.Socket}, args...)
	p.absent("keysidecar "+args[0], []byte(out))
}

// failures runs what cannot work: each ends with an error that must not show too
// much.
func (p *planted) failures(common []string, c credentials) {
	p.t.Helper()
	pg, mq, pepper := world.passwords[sidecarLogin], world.passwords[sidecarUser], p.secrets["the pepper"]
	missing := filepath.Join(p.t.TempDir(), "missing")
	yaml := func(text string) string { return "KEYSIDECAR_CONFIG=" + file(p.t, text) }
	for _, env := range [][]string{
		{"KEYSIDECAR_STORE_POSTGRES_DSN=postgres://u:" + pg + "@db:port/x"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=postgres://u:%zz" + pg + "@db/x"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=postgres://u:" + pg + "#@db/x"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=host=db password='" + pg},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=host=db password=" + pg + " sslmode=nonsense"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=host=db password=" + pg + " sslmode=require"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=" + pg},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=" + dsn(sidecarLogin, pg, "sslrootcert", missing)},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=" + dsn(sidecarLogin, pg, "sslrootcert", c.ca, "host", "localhost"), "KEYSIDECAR_STARTUP_MAX_WAIT=1s"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN=" + dsn(sidecarLogin, pg+"x", "sslrootcert", c.ca), "KEYSIDECAR_STARTUP_MAX_WAIT=1s"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=postgres://u:" + pg + "@db/x"}, // the string itself for its file
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + file(p.t, pg)},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn, "KEYSIDECAR_AMQP_URL=amqp://u:" + mq + "@broker"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn, "KEYSIDECAR_AMQP_URL=amqps://u:" + mq + "@bro ker"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn, "KEYSIDECAR_AMQP_URL=" + mq},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn, "KEYSIDECAR_AMQP_URL_FILE=amqps://u:" + mq + "@broker"},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn, "KEYSIDECAR_KEYS_PEPPER_FILE=" + pepper},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn, "KEYSIDECAR_AMQP_URL_FILE=" + c.url, "KEYSIDECAR_AMQP_CERT_FILE=" + c.key, "KEYSIDECAR_AMQP_KEY_FILE=" + c.cert},
		{"KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn, "KEYSIDECAR_AMQP_URL_FILE=" + c.url, "KEYSIDECAR_AMQP_CA_FILE=" + c.key},
		{yaml("store: {postgres: {dsn: 'postgres://u:" + pg + "@db/x', dns: 1}}")},
		{yaml("store: {postgres: {dsn: {url: '" + pg + "'}}}")},
		{yaml("amqp: {url: ['amqps://u:" + mq + "@b', [x]]}\nstore: '" + pg + "'")},
		{yaml("store:\n  postgres:\n    dsn: \"" + pg + "\n")},
	} {
		env = append(append(common, "KEYSIDECAR_LISTEN_SOCKET_PATH="+missing+".sock", "KEYSIDECAR_LISTEN_ADMIN_ADDRESS=off"), env...)
		for _, args := range [][]string{{"config", "print"}, {"config", "validate"}, {"serve"}} {
			out, err := p.run("", env, args...)
			p.absent(strings.Join(args, " "), []byte(out))
			if args[0] == "serve" && err == nil {
				p.t.Errorf("serve works with %q", env[len(env)-1])
			}
		}
	}
	for _, args := range [][]string{{"keys", "issue", "--owner", "m", "--secret=" + "not-a-planted-one"}, {"serve", "--store.postgres.dsn", "x"}} {
		if _, err := p.run("", common, args...); err == nil {
			p.t.Errorf("%v works", args)
		}
	}
}

// pages looks at everything that the two processes serve.
func (p *planted) pages(s *cluster.Sidecar, r *cluster.Relay, tcp, token string) {
	p.t.Helper()
	for _, address := range []string{s.Admin, r.Admin} {
		for _, path := range []string{"/metrics", "/statusz", "/readyz?verbose", "/livez", "/startupz", "/debug/pprof/", "/debug/vars", "/"} {
			for _, accept := range []string{"text/html", "application/json"} {
				req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+address+path, nil)
				if err != nil {
					p.t.Fatal(err)
				}
				req.Header.Set("Accept", accept)
				body, err := do(http.DefaultClient, req)
				if err != nil {
					p.t.Fatal(err)
				}
				p.absent(path, body)
			}
		}
	}
	for _, path := range []string{"/v1/status", "/openapi.yaml"} {
		req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+tcp+path, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		body, err := do(http.DefaultClient, req)
		if err != nil {
			p.t.Fatal(err)
		}
		p.absent(path, body)
	}
}

// processes looks at what every user of the machine sees of a process, and at what
// its own user sees.
func (p *planted) processes(s *cluster.Sidecar, r *cluster.Relay) {
	p.t.Helper()
	for _, pid := range []int{s.Pid(), r.Pid()} {
		for _, name := range []string{"cmdline", "comm", "status", "environ"} {
			text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
			if err != nil {
				p.t.Fatal(err)
			}
			p.absent("/proc/PID/"+name, text)
		}
	}
	sessions, err := world.PG.Psql(cluster.Database, "SELECT * FROM pg_stat_activity; SELECT * FROM pg_prepared_statements")
	if err != nil {
		p.t.Fatal(err)
	}
	p.absent("pg_stat_activity", []byte(sessions))
	connections, err := world.MQ.Ctl("list_connections", "name", "user", "client_properties")
	if err != nil {
		p.t.Fatal(err)
	}
	p.absent("rabbitmqctl list_connections", []byte(connections))
}

// servers looks at what Postgres and RabbitMQ keep.
func (p *planted) servers(postgresSaid string) {
	p.t.Helper()
	dump, err := world.PG.Dump(cluster.Database)
	if err != nil {
		p.t.Fatal(err)
	}
	if !strings.Contains(dump, "sha256:") {
		p.t.Error("the dump holds no secret key's hash")
	}
	p.absent("the dump of the database", []byte(dump))
	postgres, rabbit := serverLogs(p.t)
	postgres = strings.TrimPrefix(postgres, postgresSaid)
	if !strings.Contains(postgres, "INSERT INTO keysidecar.public_keys") {
		p.t.Error("Postgres did not log statements")
	}
	p.absent("the log of Postgres", []byte(postgres))
	p.absent("the log of RabbitMQ", []byte(rabbit))
	err = filepath.WalkDir(world.MQ.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			p.absent(strings.TrimPrefix(path, world.MQ.Dir()), content)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func clientOf(s *cluster.Sidecar) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.Socket)
		},
	}}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	addr, release, err := testenv.ReserveAddress()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = release() })
	return addr
}
