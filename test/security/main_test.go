// Package security tests what keysidecar promises against whoever is not trusted,
// on a real Postgres and a real RabbitMQ with TLS, with the roles and permissions
// that are shipped: connections that must not come about, certificates and passwords
// that change while everything runs, rights that must not be enough, and secrets
// that must not turn up anywhere.
//
// The tests share the servers. Those that change what all see (the servers'
// certificates, passwords) run one after another and put it back.
package security

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// The logins that the tests use: in Postgres members of the shipped group roles, in
// RabbitMQ the users of the shipped definitions. certLogin has no password, and
// proves who it is by a client certificate.
const (
	sidecarLogin = "shop_sidecar"
	relayLogin   = "shop_relay"
	appLogin     = "shop_app"
	certLogin    = "shop_cert"

	sidecarUser = "keysidecar-sidecar"
	relayUser   = "keysidecar-relay"
	vhost       = "keysidecar"
)

// world is what the tests share.
var world struct {
	*cluster.Cluster
	dir string // for files of clients
	// servers issues the servers' certificates, clients those of clients; foreign is
	// trusted by nobody.
	servers, clients, foreign *testenv.Authority
	// passwords by login and user.
	passwords map[string]string
	client    testenv.Pair // of the broker's users
}

func TestMain(m *testing.M) {
	os.Exit(cluster.Main(m, 5*time.Minute, start, func() *cluster.Cluster { return world.Cluster }, nil))
}

// start starts the servers with TLS and gives them the shipped roles, users and
// permissions.
func start(ctx context.Context, dir string) error {
	world.dir = dir
	var err error
	for authority, name := range map[**testenv.Authority]string{&world.servers: "servers", &world.clients: "clients", &world.foreign: "foreign"} {
		if *authority, err = testenv.NewAuthority(name); err != nil {
			return err
		}
	}
	server, err := world.servers.Server(time.Hour, "127.0.0.1")
	if err != nil {
		return err
	}
	if world.client, err = world.clients.Client(time.Hour, "sidecar"); err != nil {
		return err
	}
	var (
		bin                  string
		pg                   *testenv.Postgres
		mq                   *testenv.RabbitMQ
		binErr, pgErr, mqErr error
		starting             sync.WaitGroup
	)
	starting.Go(func() { bin, binErr = cluster.Build(ctx, dir, true) })
	starting.Go(func() { pg, pgErr = testenv.StartPostgresMain() })
	starting.Go(func() {
		mq, mqErr = testenv.StartRabbitMQMain(testenv.WithRabbitMQTLS(server.Certificate, server.Key),
			testenv.WithRabbitMQClientCertificates(world.clients.PEM))
	})
	starting.Wait()
	private := &cluster.Private{PG: pg, MQ: mq}
	if err := errors.Join(binErr, pgErr, mqErr); err != nil {
		return errors.Join(err, private.Close())
	}
	if err := pg.CreateDatabase(cluster.Database, ""); err != nil {
		return errors.Join(err, private.Close())
	}
	if world.Cluster, err = cluster.StartOn(ctx, bin, private); err != nil {
		return err
	}
	world.PG, world.MQ = pg, mq
	return errors.Join(preparePostgres(ctx, server), prepareBroker())
}

func preparePostgres(ctx context.Context, server testenv.Pair) error {
	world.passwords = make(map[string]string)
	for login, group := range map[string]string{sidecarLogin: "keysidecar_sidecar", certLogin: "keysidecar_sidecar", relayLogin: "keysidecar_relay", appLogin: "keysidecar_app"} {
		world.passwords[login] = "pg-p4ss-" + login
		if _, err := world.Exec(ctx, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' IN ROLE %s", login, world.passwords[login], group)); err != nil {
			return err
		}
	}
	return errors.Join(world.PG.UseTLS(server, world.clients.PEM), world.PG.UseAuthentication(
		"hostssl all "+certLogin+" 127.0.0.1/32 cert",
		"hostssl all all 127.0.0.1/32 scram-sha-256"))
}

func prepareBroker() error {
	// The broker's tool runs as another user, so it gets a copy that it can read.
	definitions, err := os.ReadFile("../../deploy/rabbitmq/definitions.json")
	if err != nil {
		return err
	}
	readable := filepath.Join(world.MQ.Dir(), "definitions.json")
	if err := os.WriteFile(readable, definitions, 0o644); err != nil {
		return err
	}
	if _, err := world.MQ.Ctl("import_definitions", readable); err != nil {
		return err
	}
	for _, user := range []string{relayUser, sidecarUser} {
		world.passwords[user] = "mq-p4ss-" + user
		if err := setBrokerPassword(user, world.passwords[user]); err != nil {
			return err
		}
	}
	return nil
}

// setBrokerPassword is rabbitmqctl change_password.
func setBrokerPassword(user, password string) error {
	_, err := world.MQ.Eval(fmt.Sprintf(`ok = rabbit_auth_backend_internal:change_password(<<%q>>, <<%q>>, <<"test">>)`, user, password))
	return err
}

// file writes a file of the test's own and returns its path.
func file(t *testing.T, content string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.pem")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// replace writes a file anew in one step, as Kubernetes does with a secret's.
func replace(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// dsn is a connection string with sslmode=verify-full, unless params say another.
func dsn(login, password string, params ...string) string {
	q := url.Values{"sslmode": {"verify-full"}}
	host := world.PG.Addr()
	for i := 0; i+1 < len(params); i += 2 {
		if params[i] == "host" {
			host = strings.Replace(host, "127.0.0.1", params[i+1], 1)
			continue
		}
		q.Set(params[i], params[i+1])
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(login, password), Host: host, Path: "/" + cluster.Database, RawQuery: q.Encode()}
	return u.String()
}

// brokerURL is the URL of the TLS listener.
func brokerURL(user, password, host string) string {
	u := url.URL{Scheme: "amqps", User: url.UserPassword(user, password), Host: strings.Replace(world.MQ.TLSAddr(), "127.0.0.1", host, 1), Path: "/" + vhost}
	return u.String()
}

// goodPostgres and goodBroker are settings with which a process is let in.
func goodPostgres(t *testing.T, login string) []string {
	t.Helper()
	return []string{"KEYSIDECAR_STORE_POSTGRES_DSN=" + dsn(login, world.passwords[login], "sslrootcert", file(t, string(world.servers.PEM)))}
}

func goodBroker(t *testing.T, user string) []string {
	t.Helper()
	return []string{
		"KEYSIDECAR_AMQP_URL=" + brokerURL(user, world.passwords[user], "127.0.0.1"),
		"KEYSIDECAR_AMQP_CA_FILE=" + file(t, string(world.servers.PEM)),
		"KEYSIDECAR_AMQP_CERT_FILE=" + file(t, string(world.client.Certificate)),
		"KEYSIDECAR_AMQP_KEY_FILE=" + file(t, string(world.client.Key)),
	}
}

// noRaceSleep takes away the second for which a program built with the race
// detector sleeps at its end.
const noRaceSleep = "GORACE=atexit_sleep_ms=0"

// sidecar starts a sidecar that ends with the test.
func sidecar(t *testing.T, env ...string) *cluster.Sidecar {
	t.Helper()
	s, err := world.Sidecar(instanceName(t, "sidecar"), append([]string{noRaceSleep, "KEYSIDECAR_STARTUP_REQUIRE=none"}, env...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s.Process) })
	return s
}

func relay(t *testing.T, env ...string) *cluster.Relay {
	t.Helper()
	r, err := world.Relay(instanceName(t, "relay"), append([]string{noRaceSleep}, env...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, r.Process) })
	return r
}

func stop(t *testing.T, p *cluster.Process) {
	if !p.Running() {
		return
	}
	if _, err := p.Stop(); err != nil {
		t.Errorf("%s: %v", p.Name, err)
	}
}

var instances struct {
	sync.Mutex
	n int
}

func instanceName(t *testing.T, kind string) string {
	instances.Lock()
	defer instances.Unlock()
	instances.n++
	name, _, _ := strings.Cut(t.Name(), "/")
	return fmt.Sprintf("%s-%s-%d", kind, strings.TrimPrefix(name, "Test"), instances.n)
}

// state is the part of /statusz that the tests look at.
type state struct {
	Keystore struct {
		Fresh     bool    `json:"fresh"`
		LastError *string `json:"last_fence_error"`
	} `json:"keystore"`
	Components struct {
		Broker struct {
			Connected bool   `json:"connected"`
			Queue     string `json:"queue"`
			LastError string `json:"last_error"`
		} `json:"broker"`
		Relay struct {
			Leader        bool   `json:"leader"`
			Connected     bool   `json:"connected"`
			LastError     string `json:"last_error"`
			DatabaseError string `json:"database_error"`
		} `json:"relay"`
	} `json:"components"`
}

func (s state) fenceError() string {
	if s.Keystore.LastError == nil {
		return ""
	}
	return *s.Keystore.LastError
}

func status(ctx context.Context, admin string) (s state, err error) {
	body, err := get(ctx, "http://"+admin+"/statusz")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(body, &s)
}

// get returns the body of an answer, whatever its status.
func get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	return do(http.DefaultClient, req)
}

// awaitStatus polls until the process's state is as wanted.
func awaitStatus(t *testing.T, admin, what string, want func(state) bool) {
	t.Helper()
	var last state
	var lastErr error
	eventually(t, what, func() bool {
		last, lastErr = status(t.Context(), admin)
		return lastErr == nil && want(last)
	}, func() string { return fmt.Sprintf("last: %+v, fence error %q, %v", last, last.fenceError(), lastErr) })
}

// eventually polls.
func eventually(t *testing.T, what string, done func() bool, explain ...func() string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("never happened: %s %v", what, func() (s []string) {
				for _, e := range explain {
					s = append(s, e())
				}
				return s
			}())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ready waits until a sidecar is fresh and hears the broker.
func ready(t *testing.T, sidecars ...*cluster.Sidecar) {
	t.Helper()
	for _, s := range sidecars {
		awaitStatus(t, s.Admin, s.Name+" ready", func(s state) bool { return s.Keystore.Fresh && s.Components.Broker.Connected })
	}
}

func leading(t *testing.T, r *cluster.Relay) {
	t.Helper()
	awaitStatus(t, r.Admin, r.Name+" leads", func(s state) bool { return s.Components.Relay.Leader && s.Components.Relay.Connected })
}

// session is a connection to Postgres as a login, over TLS.
func session(t *testing.T, login string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn(login, world.passwords[login], "sslrootcert", file(t, string(world.servers.PEM))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// issue makes an active key as an administrator.
func issue(t *testing.T, keyID string) {
	t.Helper()
	for _, sql := range []string{
		"INSERT INTO keysidecar.owners (owner_id) VALUES ('m_1') ON CONFLICT DO NOTHING",
		"INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('" + keyID + "', 'm_1', 'opaque') ON CONFLICT DO NOTHING",
	} {
		if _, err := world.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// until waits for an answer with the code.
func until(t *testing.T, s *cluster.Sidecar, keyID, code string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := s.Until(ctx, keyID, cluster.Code(code)); err != nil {
		t.Fatal(err)
	}
}

// program runs the program once, with exactly the environment given.
func program(ctx context.Context, stdin string, env []string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, world.Bin, args...)
	cmd.Env = append([]string{noRaceSleep, "PATH=" + os.Getenv("PATH"), "HOME=" + world.dir}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}
