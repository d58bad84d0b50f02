package rabbit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

var (
	broker *testenv.RabbitMQ
	roots  *x509.CertPool // trusts the broker's certificate, which is for 127.0.0.1 and broker.test
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	cert, key, err := certificate()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	if broker, err = testenv.StartRabbitMQMain(testenv.WithRabbitMQTLS(cert, key)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	result := m.Run()
	if err := broker.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := goleak.Find(); err != nil && result == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return result
}

func certificate() (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"broker.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}

func list(urls ...string) func() ([]string, error) {
	return func() ([]string, error) { return urls, nil }
}

// open dials one broker and closes the session at the end.
func open(t *testing.T, opts Options) *Session {
	t.Helper()
	s, err := NewDialer(opts).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// within fails the test unless c is closed in time, and says how long it took.
func within(t *testing.T, limit time.Duration, c <-chan struct{}, what string) time.Duration {
	t.Helper()
	begin := time.Now()
	select {
	case <-c:
	case <-time.After(limit):
		t.Fatalf("%s: not within %v", what, limit)
	}
	return time.Since(begin)
}

// begun runs do in the background; the channel is closed when it returns.
func begun(do func()) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	return done
}

func trusting(name string) func() (*tls.Config, error) {
	return func() (*tls.Config, error) {
		return &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}, nil
	}
}
