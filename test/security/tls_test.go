package security

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

func do(c *http.Client, req *http.Request) ([]byte, error) {
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	return io.ReadAll(res.Body)
}

// clientPair issues a client certificate and returns the paths of its two files.
func clientPair(t *testing.T, by *testenv.Authority, until time.Duration, name string) (certificate, key string) {
	t.Helper()
	pair, err := by.Client(until, name)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, string(pair.Certificate)), file(t, string(pair.Key))
}

func TestPostgresIsOnlyTrustedByItsCertificate(t *testing.T) {
	ca, foreign := file(t, string(world.servers.PEM)), file(t, string(world.foreign.PEM))
	ownCert, ownKey := clientPair(t, world.clients, time.Hour, certLogin)
	othersCert, othersKey := clientPair(t, world.clients, time.Hour, "somebody_else")
	foreignCert, foreignKey := clientPair(t, world.foreign, time.Hour, certLogin)
	expiredCert, expiredKey := clientPair(t, world.clients, -time.Minute, certLogin)
	password := world.passwords[sidecarLogin]
	issue(t, "pk_tls_postgres")
	for name, test := range map[string]struct {
		dsn  string
		want string // the category of the error; empty: let in
	}{
		"right":                         {dsn(sidecarLogin, password, "sslrootcert", ca), ""},
		"client certificate":            {dsn(certLogin, "", "sslrootcert", ca, "sslcert", ownCert, "sslkey", ownKey), ""},
		"wrong authority":               {dsn(sidecarLogin, password, "sslrootcert", foreign), "tls"},
		"the system's authorities":      {dsn(sidecarLogin, password), "tls"},
		"wrong host name":               {dsn(sidecarLogin, password, "sslrootcert", ca, "host", "localhost"), "tls"},
		"no TLS":                        {dsn(sidecarLogin, password, "sslmode", "disable"), "auth"},
		"wrong password":                {dsn(sidecarLogin, "wrong", "sslrootcert", ca), "auth"},
		"no client certificate":         {dsn(certLogin, world.passwords[certLogin], "sslrootcert", ca), "auth"},
		"somebody else's certificate":   {dsn(certLogin, "", "sslrootcert", ca, "sslcert", othersCert, "sslkey", othersKey), "auth"},
		"foreign client certificate":    {dsn(certLogin, "", "sslrootcert", ca, "sslcert", foreignCert, "sslkey", foreignKey), "auth"}, // which is not sent: the server names whom it trusts
		"client certificate is expired": {dsn(certLogin, "", "sslrootcert", ca, "sslcert", expiredCert, "sslkey", expiredKey), "tls"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sidecar(t, "KEYSIDECAR_STORE_POSTGRES_DSN="+test.dsn, "KEYSIDECAR_AMQP_URL=")
			if test.want == "" {
				until(t, s, "pk_tls_postgres", "active")
				return
			}
			awaitStatus(t, s.Admin, test.want, func(s state) bool { return s.fenceError() == test.want })
			until(t, s, "pk_tls_postgres", "unavailable")
		})
	}
}

// Whatever is wrong with the broker, the sidecar says so and goes on with fences.
func TestTheBrokerIsOnlyTrustedByItsCertificate(t *testing.T) {
	ca, foreign := file(t, string(world.servers.PEM)), file(t, string(world.foreign.PEM))
	cert, key := file(t, string(world.client.Certificate)), file(t, string(world.client.Key))
	foreignCert, foreignKey := clientPair(t, world.foreign, time.Hour, "sidecar")
	expiredCert, expiredKey := clientPair(t, world.clients, -time.Minute, "sidecar")
	password := world.passwords[sidecarUser]
	right := brokerURL(sidecarUser, password, "127.0.0.1")
	issue(t, "pk_tls_broker")
	for name, test := range map[string]struct{ url, ca, cert, key, want string }{
		"right":                         {right, ca, cert, key, ""},
		"wrong authority":               {right, foreign, cert, key, "tls"},
		"the system's authorities":      {right, "", cert, key, "tls"},
		"wrong host name":               {brokerURL(sidecarUser, password, "localhost"), ca, cert, key, "tls"},
		"wrong password":                {brokerURL(sidecarUser, "wrong", "127.0.0.1"), ca, cert, key, "auth"},
		"no client certificate":         {right, ca, "", "", "tls"},
		"foreign client certificate":    {right, ca, foreignCert, foreignKey, "tls"},
		"client certificate is expired": {right, ca, expiredCert, expiredKey, "tls"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sidecar(t, append(goodPostgres(t, sidecarLogin), "KEYSIDECAR_AMQP_URL="+test.url,
				"KEYSIDECAR_AMQP_CA_FILE="+test.ca, "KEYSIDECAR_AMQP_CERT_FILE="+test.cert, "KEYSIDECAR_AMQP_KEY_FILE="+test.key)...)
			awaitStatus(t, s.Admin, test.want, func(s state) bool {
				b := s.Components.Broker
				return b.Connected == (test.want == "") && b.LastError == test.want
			})
			until(t, s, "pk_tls_broker", "active")
		})
	}
}
