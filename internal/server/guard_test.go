package server

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// A page in a browser on this machine, and a name that resolves to 127.0.0.1,
// must not be able to ask.
func TestTheLoopbackListenerIsNotForBrowsers(t *testing.T) {
	t.Parallel()
	s := start(t)
	host := func(h string) requestOption { return func(r *http.Request) { r.Host = h } }
	for _, h := range []string{"localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9475", "[::1]", "[::1]:9475", "localhost:"} {
		if a := s.doTCP("GET", "/v1/keys/pk_live_1", "", host(h)); a.status != 200 {
			t.Errorf("Host %q: %d %s", h, a.status, a.body)
		}
	}
	for _, h := range []string{"evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0", "127.0.0.2", "[::2]", "127.1", "2130706433", "localhost."} {
		a := s.raw2("tcp", "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: "+h+"\r\n\r\n")
		if a.status != 421 || a.code() != "host_not_allowed" {
			t.Errorf("Host %q: %d %s", h, a.status, a.body)
		}
	}
	for _, h := range []string{"localhost:80:80", "localhost:x", "::1", "user@localhost", "localhost/", "local host"} {
		if a := s.raw2("tcp", "GET /v1/keys/pk_live_1 HTTP/1.1\r\nHost: "+h+"\r\n\r\n"); a.status != 400 && a.status != 421 {
			t.Errorf("Host %q: %d %s", h, a.status, a.body)
		}
	}
	refused := s.metric("keysidecar_http_bad_requests_total", "reason", "host_not_allowed")
	if a := s.raw2("tcp", "GET /v1/keys/pk_live_1 HTTP/1.0\r\n\r\n"); a.status != 421 {
		t.Errorf("no Host: %d", a.status)
	}
	for _, o := range []requestOption{
		header("Origin", "http://localhost"), header("Origin", "null"), header("Origin", ""), header("Sec-Fetch-Site", "cross-site"),
		header("Sec-Fetch-Site", "same-site"), header("Sec-Fetch-Site", "same-origin"), header("Sec-Fetch-Site", "x"),
	} {
		for _, ask := range [][3]string{{"GET", "/v1/keys/pk_live_1", ""}, {"POST", "/v1/verify", `{"key_id":"pk_live_1"}`}, {"OPTIONS", "/v1/verify", ""}, {"GET", "/nothing", ""}} {
			a := s.doTCP(ask[0], ask[1], ask[2], o)
			if a.status != 403 || a.code() != "browser_not_allowed" || a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: %d %s", ask[0], ask[1], a.status, a.body)
			}
		}
		// A gateway in front of the socket passes on what browsers send.
		if a := s.do("GET", "/v1/keys/pk_live_1", "", o, host("shop.example")); a.status != 200 {
			t.Errorf("on the socket: %d %s", a.status, a.body)
		}
	}
	if a := s.doTCP("GET", "/v1/keys/pk_live_1", "", header("Sec-Fetch-Site", "none")); a.status != 200 {
		t.Errorf("typed by a person: %d", a.status)
	}
	if s.metric("keysidecar_http_bad_requests_total", "reason", "host_not_allowed") != refused+1 || s.metric("keysidecar_http_bad_requests_total", "reason", "browser_not_allowed") != 28 {
		t.Error("refusals are not counted")
	}
	s.mustServe()
}

// raw2 sends one raw request and returns its one answer.
func (s *service) raw2(network, sent string) *answer {
	s.t.Helper()
	address := s.path
	if network == "tcp" {
		address = s.data.TCPAddr().String()
	}
	c := s.dialTo(network, address)
	defer c.Close()
	got := s.exchange(c, sent, 1)
	if len(got) != 1 {
		s.t.Fatalf("%q: no answer", sent)
	}
	return got[0]
}

func TestTheToken(t *testing.T) {
	t.Parallel()
	var token atomic.Value
	token.Store("s3cret-token\n")
	var broken atomic.Bool
	s := start(t, func(o *DataOptions) {
		o.TCP.Token = func() (string, error) {
			if broken.Load() {
				return "", errors.New("no such file")
			}
			return token.Load().(string), nil
		}
	})
	ask := func(o ...requestOption) *answer {
		t.Helper()
		return s.doTCP("GET", "/v1/keys/pk_live_1", "", o...)
	}
	for _, v := range []string{"Bearer s3cret-token", "bearer s3cret-token", "BEARER   s3cret-token "} {
		if a := ask(header("Authorization", v)); a.status != 200 {
			t.Errorf("%q: %d %s", v, a.status, a.body)
		}
	}
	for _, v := range []string{"", "Bearer", "Bearer ", "s3cret-token", "Basic s3cret-token", "Bearer s3cret-toke", "Bearer s3cret-token2", "Bearer s3cret-token s3cret-token", "Bearer x"} {
		a := ask(header("Authorization", v))
		if a.status != 401 || a.code() != "unauthorized" || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") {
			t.Errorf("%q: %d %s", v, a.status, a.body)
		}
	}
	if a := ask(); a.status != 401 {
		t.Errorf("no Authorization: %d", a.status)
	}
	if a := ask(header("Authorization", "Bearer s3cret-token"), header("Authorization", "Bearer x")); a.status != 401 {
		t.Errorf("two Authorizations: %d", a.status)
	}
	// The socket's directory is its token.
	if a := s.do("GET", "/v1/keys/pk_live_1", ""); a.status != 200 {
		t.Errorf("on the socket: %d", a.status)
	}

	// A changed token counts from its first use, or a tick later; the old one no more.
	token.Store("another")
	eventually(t, "the new token counts", func() bool { return ask(header("Authorization", "Bearer another")).status == 200 })
	if a := ask(header("Authorization", "Bearer s3cret-token")); a.status != 401 {
		t.Errorf("the old token: %d", a.status)
	}
	// While a file is being replaced the last good token stays.
	token.Store("")
	if a := ask(header("Authorization", "Bearer another")); a.status != 200 {
		t.Errorf("while the file is empty: %d", a.status)
	}
	broken.Store(true)
	if a := ask(header("Authorization", "Bearer x")); a.status != 401 {
		t.Errorf("while the file is away: %d", a.status)
	}
	if a := ask(header("Authorization", "Bearer another")); a.status != 200 {
		t.Errorf("while the file is away: %d", a.status)
	}
}

func TestTheTokenMustBeThereAtStart(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]func() (string, error){
		"unreadable": func() (string, error) { return "", errors.New("no such file") },
		"empty":      func() (string, error) { return " \n", nil },
	} {
		d, err := NewData(DataOptions{Keys: newFakeKeys(t), Registerer: prometheus.NewRegistry(), TCP: TCP{Address: "127.0.0.1:0", Token: token}})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Listen(); err == nil {
			t.Errorf("%s: Listen succeeded", name)
		}
	}
}

// The data plane has no authentication of its own worth the name: binding it to
// the pod's address would offer it to the network.
func TestOnlyLoopbackAddressesAreBound(t *testing.T) {
	t.Parallel()
	for _, address := range []string{":9475", "0.0.0.0:0", "[::]:0", "10.1.2.3:0", "example.com:0", "127.0.0.1", "127.0.0.1:x", "*:0"} {
		l, err := listenLoopback(address)
		if err == nil {
			t.Errorf("%s was bound", address)
			_ = l.Close()
			continue
		}
		if !strings.Contains(err.Error(), address) {
			t.Errorf("%s: the error does not name it: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:0", "127.8.7.6:0", "localhost:0"} {
		l, err := listenLoopback(address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		_ = l.Close()
	}
}
