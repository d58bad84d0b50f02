package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/client"
	"github.com/keysidecar/keysidecar/internal/app"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	code := m.Run()
	// The library that serves keeps the Date field's text current for ever.
	err := goleak.Find(goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
	if code == 0 && err != nil {
		println(err.Error())
		return 1
	}
	return code
}

// testKey is a key as a key file has it.
type testKey struct {
	KeyID      string         `json:"key_id"`
	OwnerID    string         `json:"owner_id"`
	Algorithm  string         `json:"algorithm"`
	PublicKey  []byte         `json:"public_key,omitempty"`
	Scopes     []string       `json:"scopes,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
	NotBefore  *time.Time     `json:"not_before,omitempty"`
	ExpiresAt  *time.Time     `json:"expires_at,omitempty"`
	RevokedAt  *time.Time     `json:"revoked_at,omitempty"`
}

type testOwner struct {
	OwnerID     string     `json:"owner_id"`
	SuspendedAt *time.Time `json:"suspended_at,omitempty"`
}

// keyFile is what a sidecar knows.
type keyFile struct {
	Owners []testOwner `json:"owners"`
	Keys   []testKey   `json:"keys"`
}

// secret is a secret key, and secretID what it hashes to.
const (
	secret   = "ks_demo_secret"
	secretID = "sha256:-qRsI-Q5LtN2DX40nBMa__vkCl-dzf77DzYfBJi_zCk"
	oddID    = "...~+=:-_"
)

func sampleKeys() keyFile {
	past, future := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	return keyFile{
		Owners: []testOwner{{OwnerID: "m_1"}, {OwnerID: "m_closed", SuspendedAt: &past}},
		Keys: []testKey{
			{KeyID: "pk_live", OwnerID: "m_1", Algorithm: "ed25519", PublicKey: ed25519Key, Scopes: []string{"pay", "refund"}, Attributes: map[string]any{"env": "live"}, ExpiresAt: &future},
			{KeyID: oddID, OwnerID: "Ünï \"q\" <b>", Algorithm: "opaque"},
			{KeyID: "pk_revoked", OwnerID: "m_1", Algorithm: "opaque", RevokedAt: &past},
			{KeyID: "pk_expired", OwnerID: "m_1", Algorithm: "opaque", ExpiresAt: &past},
			{KeyID: "pk_future", OwnerID: "m_1", Algorithm: "opaque", NotBefore: &future},
			{KeyID: "pk_suspended", OwnerID: "m_closed", Algorithm: "opaque"},
			{KeyID: secretID, OwnerID: "m_1", Algorithm: "opaque", Scopes: []string{"read"}},
		},
	}
}

// ed25519Key is the public key of RFC 8032, 7.1, test 1, as SPKI.
var ed25519Key = append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00},
	0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
	0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a)

func revoked(f keyFile, id string) keyFile {
	now := time.Now()
	for i := range f.Keys {
		if f.Keys[i].KeyID == id {
			f.Keys[i].RevokedAt = &now
		}
	}
	return f
}

// target is a sidecar that the suite asks.
type target struct {
	address string
	options client.Options
	// change replaces the keys; silence takes them away, so that nobody can tell.
	change  func(keyFile)
	silence func()
}

func (s *target) client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(s.address, s.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// shortDir is a directory whose name fits into a socket address.
func shortDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "ks")
	if err != nil {
		panic(err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }
}

// realSidecar runs the daemon on a key file until stop, over both transports.
func realSidecar(change ...func(*config.Config)) (c *config.Config, file string, stop func(), err error) {
	dir, remove := shortDir()
	c = config.Default()
	c.Instance = "test"
	file = filepath.Join(dir, "keys.json")
	c.Store.Kind, c.Store.File.Path = config.StoreFile, file
	c.Listen.Socket.Path, c.Listen.Admin.Address = filepath.Join(dir, "k.sock"), ""
	c.Freshness.MaxStaleness, c.Freshness.FenceInterval = 800*time.Millisecond, 100*time.Millisecond
	for _, f := range change {
		f(c)
	}
	writeKeys(file, sampleKeys())
	if err := c.Validate(config.ForSidecar); err != nil {
		remove()
		return nil, "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- app.Serve(ctx, c, app.Build{Version: "test"}, zap.NewNop()) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
		remove()
	}
	if err := awaitSidecar("unix://" + c.Listen.Socket.Path); err != nil {
		stop()
		return nil, "", nil, err
	}
	return c, file, stop, nil
}

// awaitSidecar waits until the sidecar tells.
func awaitSidecar(address string) error {
	c, err := client.New(address, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		if _, err = c.Lookup(ctx, "pk_none"); errors.Is(err, client.ErrUnknownKey) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the sidecar does not serve: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// writeKeys puts a key file in place as the rules for that want it.
func writeKeys(path string, f keyFile) {
	text, err := json.Marshal(f)
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		panic(err)
	}
}

func startReal(t testing.TB, overTCP bool) *target {
	t.Helper()
	s := &target{}
	c, file, stop, err := realSidecar(func(c *config.Config) {
		c.Authz.Credential = config.CredentialSecret
		c.Authz.Scopes = []string{"read"}
		if !overTCP {
			return
		}
		address, release, err := testenv.ReserveAddress()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = release() })
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("t0ken\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Listen.TCP.Address, c.Listen.TCP.TokenFile = address, token
		s.address, s.options.Token = "http://"+address, client.TokenFile(token)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if !overTCP {
		s.address = "unix://" + c.Listen.Socket.Path
	}
	s.change = func(f keyFile) { writeKeys(file, f) }
	s.silence = func() { _ = os.Remove(file) }
	return s
}

// serveUnix serves HTTP on a socket of its own until the test ends.
func serveUnix(t testing.TB, h http.Handler) (address string) {
	t.Helper()
	dir, remove := shortDir()
	l, err := net.Listen("unix", filepath.Join(dir, "f.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		serving.Wait()
		remove()
	})
	return "unix://" + l.Addr().String()
}

// eventually waits for a condition that others bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
