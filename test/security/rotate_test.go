package security

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// credentials are the files that a process reads, as an operator replaces them.
type credentials struct {
	dsn, url      string // connection strings
	ca, cert, key string
}

func newCredentials(t *testing.T, login, user string) credentials {
	t.Helper()
	c := credentials{ca: file(t, string(world.servers.PEM)), cert: file(t, string(world.client.Certificate)), key: file(t, string(world.client.Key))}
	c.dsn, c.url = file(t, ""), file(t, "")
	c.passwords(t, login, user)
	return c
}

// passwords writes the connection strings with the present passwords.
func (c credentials) passwords(t *testing.T, login, user string) {
	t.Helper()
	replace(t, c.dsn, dsn(login, world.passwords[login], "sslrootcert", c.ca, "sslcert", c.cert, "sslkey", c.key))
	replace(t, c.url, brokerURL(user, world.passwords[user], "127.0.0.1"))
}

func (c credentials) env() []string {
	return []string{
		"KEYSIDECAR_STORE_POSTGRES_DSN=", "KEYSIDECAR_STORE_POSTGRES_DSN_FILE=" + c.dsn,
		"KEYSIDECAR_AMQP_URL=", "KEYSIDECAR_AMQP_URL_FILE=" + c.url,
		"KEYSIDECAR_AMQP_CA_FILE=" + c.ca, "KEYSIDECAR_AMQP_CERT_FILE=" + c.cert, "KEYSIDECAR_AMQP_KEY_FILE=" + c.key,
	}
}

// fleet is a relay and two sidecars that live through rotations, with one look-up
// of a key after the other.
type fleet struct {
	t        *testing.T
	relay    *cluster.Relay
	sidecars []*cluster.Sidecar
	files    map[string]credentials // by login

	mu      sync.Mutex
	refused []string // answers other than "active" for the key that stays
	asked   int
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t, files: map[string]credentials{
		relayLogin: newCredentials(t, relayLogin, relayUser), sidecarLogin: newCredentials(t, sidecarLogin, sidecarUser),
	}}
	f.relay = relay(t, f.files[relayLogin].env()...)
	for range 2 {
		f.sidecars = append(f.sidecars, sidecar(t, f.files[sidecarLogin].env()...))
	}
	issue(t, "pk_rotation")
	leading(t, f.relay)
	ready(t, f.sidecars...)
	for _, s := range f.sidecars {
		until(t, s, "pk_rotation", "active")
	}
	return f
}

// ask asks for the key that stays until ctx ends.
func (f *fleet) ask(ctx context.Context) {
	for ctx.Err() == nil {
		for _, s := range f.sidecars {
			v, err := s.Get(ctx, "pk_rotation")
			f.mu.Lock()
			f.asked++
			if ctx.Err() == nil && (err != nil || !v.Valid) {
				f.refused = append(f.refused, fmt.Sprintf("%s: %s %v", s.Name, v.Code, err))
			}
			f.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// write replaces one of the files of every process.
func (f *fleet) write(name func(credentials) string, content []byte) {
	f.t.Helper()
	for _, c := range f.files {
		replace(f.t, name(c), string(content))
	}
}

// reconnect ends every connection, and waits until all are there again.
func (f *fleet) reconnect() {
	f.t.Helper()
	atPostgres, atBroker := f.sessions(), brokerSessions(f.t)
	disconnect(f.t)
	eventually(f.t, "every connection is a new one", func() bool {
		return renewed(atPostgres, f.sessions()) && renewed(atBroker, brokerSessions(f.t))
	})
	f.works()
}

// renewed: those of each of the three processes are there, and all are new.
func renewed(before, now map[string]string) bool {
	for id := range before {
		if _, old := now[id]; old {
			return false
		}
	}
	return len(now) >= 3
}

func disconnect(t *testing.T) {
	t.Helper()
	if err := world.PG.Disconnect(sidecarLogin, relayLogin); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{sidecarUser, relayUser} {
		if err := world.MQ.Disconnect(user); err != nil {
			t.Fatal(err)
		}
	}
}

// works: every part is connected, and a revocation arrives.
func (f *fleet) works() {
	f.t.Helper()
	leading(f.t, f.relay)
	ready(f.t, f.sidecars...)
	keyID := strings.ToLower(fmt.Sprintf("pk_rotation_%d", time.Now().UnixNano()))
	issue(f.t, keyID)
	for _, s := range f.sidecars {
		until(f.t, s, keyID, "active")
	}
	if _, err := world.Exec(f.t.Context(), "SELECT keysidecar.revoke_key($1)", keyID); err != nil {
		f.t.Fatal(err)
	}
	for _, s := range f.sidecars {
		until(f.t, s, keyID, "revoked")
	}
}

// brokerSessions returns the broker's connections.
func brokerSessions(t *testing.T) map[string]string {
	t.Helper()
	text, err := world.MQ.Eval("[pid_to_list(P) || P <- rabbit_networking:connections()]")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, id := range regexp.MustCompile(`<[0-9.]+>`).FindAllString(text, -1) {
		found[id] = ""
	}
	return found
}

// sessions returns the serial number of the client certificate of each connection
// to Postgres that is to last, by process id.
func (f *fleet) sessions() map[string]string {
	f.t.Helper()
	rows, err := world.SQL.Query(f.t.Context(), `SELECT pid::text, coalesce(client_serial::text, '') FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
		WHERE usename = $1 AND application_name LIKE 'keysidecar sidecar%' OR usename = $2 AND application_name = 'keysidecar-relay'`, sidecarLogin, relayLogin)
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	found := make(map[string]string)
	for rows.Next() {
		var pid, serial string
		if err := rows.Scan(&pid, &serial); err != nil {
			f.t.Fatal(err)
		}
		found[pid] = serial
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
	return found
}

func serverPair(t *testing.T, by *testenv.Authority, until time.Duration) testenv.Pair {
	t.Helper()
	pair, err := by.Server(until, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func useTLS(t *testing.T, server testenv.Pair, clients ...[]byte) {
	t.Helper()
	var all []byte
	for _, c := range clients {
		all = append(all, c...)
	}
	if err := world.PG.UseTLS(server, all); err != nil {
		t.Fatal(err)
	}
	if err := world.MQ.UseTLS(server, all); err != nil {
		t.Fatal(err)
	}
}

func serial(t *testing.T, pair testenv.Pair) string {
	t.Helper()
	block, _ := pem.Decode(pair.Certificate)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c.SerialNumber.String()
}

func authority(t *testing.T, name string) *testenv.Authority {
	t.Helper()
	a, err := testenv.NewAuthority(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Everything that connections rest on is replaced while the processes run: the
// servers' certificates and their authority, the clients' and theirs, and the
// passwords. Nobody is restarted, and no look-up fails.
func TestRotationNeedsARestartOrFailsLookUps(t *testing.T) {
	f := newFleet(t)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() { f.ask(ctx) })
	defer asking.Wait()
	defer cancel()
	server := serverPair(t, world.servers, time.Hour)
	t.Cleanup(func() { useTLS(t, server, world.clients.PEM) })

	// The servers' authority: the processes trust old and new, then the servers
	// change, then the old one goes. Connections that exist stay.
	before := f.sessions()
	newServers := authority(t, "new servers")
	f.write(func(c credentials) string { return c.ca }, append(append([]byte(nil), world.servers.PEM...), newServers.PEM...))
	renewedServer := serverPair(t, newServers, time.Hour)
	useTLS(t, renewedServer, world.clients.PEM)
	f.works()
	for pid := range f.sessions() {
		delete(before, pid)
	}
	if len(before) > 0 {
		t.Errorf("%d connections did not outlive the change of certificates", len(before))
	}
	f.reconnect()
	f.write(func(c credentials) string { return c.ca }, newServers.PEM)
	f.reconnect()

	// The clients' authority, the same way round: the servers trust both first.
	newClients := authority(t, "new clients")
	useTLS(t, renewedServer, world.clients.PEM, newClients.PEM)
	pair, err := newClients.Client(time.Hour, "sidecar")
	if err != nil {
		t.Fatal(err)
	}
	f.write(func(c credentials) string { return c.cert }, pair.Certificate)
	f.write(func(c credentials) string { return c.key }, pair.Key)
	f.reconnect()
	useTLS(t, renewedServer, newClients.PEM)
	f.reconnect()
	for pid, shown := range f.sessions() {
		if shown != serial(t, pair) {
			t.Errorf("connection %s shows the certificate %s, want %s", pid, shown, serial(t, pair))
		}
	}

	// Passwords: connections that exist do not mind.
	old := map[string]string{}
	for name, password := range world.passwords {
		old[name] = password
	}
	t.Cleanup(func() { changePasswords(t, old) })
	changePasswords(t, map[string]string{sidecarLogin: "n3w-1", relayLogin: "n3w-2", sidecarUser: "n3w-3", relayUser: "n3w-4"})
	f.works()
	f.files[sidecarLogin].passwords(t, sidecarLogin, sidecarUser)
	f.files[relayLogin].passwords(t, relayLogin, relayUser)
	f.reconnect()

	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.refused) > 0 || f.asked < 100 {
		t.Errorf("%d of %d look-ups failed, such as %v", len(f.refused), f.asked, f.refused[:min(3, len(f.refused))])
	}
}

func changePasswords(t *testing.T, passwords map[string]string) {
	t.Helper()
	for _, login := range []string{sidecarLogin, relayLogin} {
		world.passwords[login] = passwords[login]
		if _, err := world.Exec(context.Background(), fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", login, passwords[login])); err != nil {
			t.Fatal(err)
		}
	}
	for _, user := range []string{sidecarUser, relayUser} {
		world.passwords[user] = passwords[user]
		if err := setBrokerPassword(user, passwords[user]); err != nil {
			t.Fatal(err)
		}
	}
}

// A certificate that was let expire, as happens: connections that exist stay, new
// ones do not come about, nothing is answered from memory beyond the bound, and
// once it is renewed everybody is back without a restart.
func TestExpiredServerCertificateIsOvercomeByARestartOnly(t *testing.T) {
	f := newFleet(t)
	good := serverPair(t, world.servers, time.Hour)
	t.Cleanup(func() { useTLS(t, good, world.clients.PEM) })
	useTLS(t, serverPair(t, world.servers, -time.Minute), world.clients.PEM)
	f.works()
	disconnect(t)
	for _, s := range f.sidecars {
		awaitStatus(t, s.Admin, "tls", func(s state) bool {
			return !s.Keystore.Fresh && s.fenceError() == "tls" && s.Components.Broker.LastError == "tls"
		})
		until(t, s, "pk_rotation", "unavailable")
	}
	awaitStatus(t, f.relay.Admin, "tls", func(s state) bool { return s.Components.Relay.DatabaseError == "tls" })
	useTLS(t, good, world.clients.PEM)
	f.works()
	for _, s := range f.sidecars {
		if v, err := s.Get(t.Context(), "pk_rotation"); err != nil || v.Status != http.StatusOK {
			t.Errorf("%s: %+v, %v", s.Name, v, err)
		}
	}
}
