package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The library keeps the Date field's text current for ever.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	)
}

// service is a data plane under test.
type service struct {
	t    testing.TB
	data *Data
	keys *fakeKeys
	reg  *prometheus.Registry
	path string
	logs *observer.ObservedLogs
	// contract is what answers are held against.
	contract *contractChecker

	stop func() error // ends Run and returns what it returned; may be called twice
	// client talks over the socket, tcp over the loopback address.
	client, tcp *http.Client
}

// start runs a data plane on a socket and a loopback port until the test ends.
func start(t testing.TB, change ...func(*DataOptions)) *service {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	s := &service{t: t, keys: newFakeKeys(t), reg: prometheus.NewRegistry(), logs: logs, contract: contract}
	s.path = filepath.Join(shortDir(t), "s.sock")
	opts := DataOptions{
		Keys: s.keys, Receipts: &fakeReceipts{keys: s.keys}, Registerer: s.reg, Logger: zap.New(core),
		Socket: Socket{Path: s.path}, TCP: TCP{Address: "127.0.0.1:0"},
		Instance: "test-1", Version: "1.2.3",
		enough: 1, // so that the event loop has even a lone connection, and hands on what it must
	}
	for _, c := range change {
		c(&opts)
	}
	var err error
	if s.data, err = NewData(opts); err != nil {
		t.Fatal(err)
	}
	if err := s.data.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.data.Run(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	s.client = &http.Client{Timeout: 10 * time.Second, CheckRedirect: noRedirect, Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.path)
		},
	}}
	s.tcp = &http.Client{Timeout: 10 * time.Second, CheckRedirect: noRedirect, Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 64, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		s.tcp.CloseIdleConnections()
		if err := s.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		s.checkLogs()
	})
	return s
}

func noRedirect(*http.Request, []*http.Request) error { return errors.New("redirected") }

// shortDir is a directory whose name fits into a socket address.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "ks")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// checkLogs fails if the log holds anything that must not be in it.
func (s *service) checkLogs() {
	for _, e := range s.logs.All() {
		text, err := json.Marshal(e.ContextMap())
		if err != nil {
			s.t.Error(err)
		}
		for _, secret := range []string{"sk_secret", "hunter2", "s3cret-token"} {
			if strings.Contains(string(text)+e.Message, secret) {
				s.t.Errorf("the log holds %q: %s %s", secret, e.Message, text)
			}
		}
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	// closed: the server said that it closes the connection.
	closed bool
}

func (a *answer) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("the body is not a JSON object: %v: %q", err, a.body)
	}
	return m
}

// code is the code of a problem or a verdict, "" if it has none.
func (a *answer) code() string {
	var m struct{ Code string }
	_ = json.Unmarshal(a.body, &m)
	return m.Code
}

type requestOption func(*http.Request)

func header(name, value string) requestOption {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

func noContentType(r *http.Request) { r.Header.Del("Content-Type") }

// do sends one request over the socket with a real client. target is sent as it
// stands. The answer is held against the contract.
func (s *service) do(method, target, body string, opts ...requestOption) *answer {
	s.t.Helper()
	return s.doWith(s.client, "localhost", method, target, body, opts...)
}

// doTCP is do over the loopback address.
func (s *service) doTCP(method, target, body string, opts ...requestOption) *answer {
	s.t.Helper()
	return s.doWith(s.tcp, s.data.TCPAddr().String(), method, target, body, opts...)
}

func (s *service) doWith(c *http.Client, host, method, target, body string, opts ...requestOption) *answer {
	s.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+host+"/", reader)
	if err != nil {
		s.t.Fatal(err)
	}
	req.URL.Opaque = target
	if strings.HasPrefix(target, "//") {
		req.URL.Opaque = "//" + host + target // the client cuts this off again
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, o := range opts {
		o(req)
	}
	res, err := c.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	a := &answer{status: res.StatusCode, header: res.Header, body: b, closed: res.Close}
	s.check(method, target, a)
	return a
}

// check holds an answer against the contract. Routes that are not configured are
// no operations of it.
func (s *service) check(method, target string, a *answer) {
	s.t.Helper()
	if s.data.gateway == nil && (gatewayTarget([]byte(target)) || target == "/v1/introspect") {
		target = ""
	}
	s.contract.check(s.t, method, target, a)
}

// dial opens a connection to the socket that ends with the test.
func (s *service) dial() net.Conn {
	s.t.Helper()
	return s.dialTo("unix", s.path)
}

func (s *service) dialTo(network, address string) net.Conn {
	s.t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// raw sends bytes over a new connection and reads every answer until the server
// closes it, or has answered want requests.
func (s *service) raw(sent string, want int) []*answer {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	return s.exchange(c, sent, want)
}

func (s *service) exchange(c net.Conn, sent string, want int) []*answer {
	s.t.Helper()
	if _, err := io.WriteString(c, sent); err != nil && want == 0 {
		s.t.Fatal(err)
	}
	return s.answers(bufio.NewReader(c), requestsIn(sent), want)
}

// answers reads answers to requests with the given methods and targets.
func (s *service) answers(r *bufio.Reader, requests [][2]string, want int) (got []*answer) {
	s.t.Helper()
	for len(got) < want {
		method, target := http.MethodGet, ""
		if len(got) < len(requests) {
			method, target = requests[len(got)][0], requests[len(got)][1]
		}
		a, err := readAnswer(r, method)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.t.Fatalf("after %d answers: %v", len(got), err)
			}
			return got
		}
		if a.status != http.StatusContinue {
			s.check(method, target, a)
		}
		got = append(got, a)
		if a.closed {
			if _, err := r.ReadByte(); err == nil {
				s.t.Fatal("bytes follow an answer that closes the connection")
			}
			return got
		}
	}
	return got
}

// requestsIn finds the methods and targets of pipelined requests, so that a
// HEAD's missing body is not waited for and each answer is held against its own
// operation.
func requestsIn(sent string) (requests [][2]string) {
	for line := range strings.Lines(sent) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[2], "HTTP/") {
			requests = append(requests, [2]string{f[0], f[1]})
		}
	}
	return requests
}

func readAnswer(r *bufio.Reader, method string) (*answer, error) {
	if _, err := r.Peek(1); err != nil {
		return nil, io.EOF // closed, perhaps by reset
	}
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("read an answer: %w", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read an answer's body: %w", err)
	}
	return &answer{status: res.StatusCode, header: res.Header, body: body, closed: res.Close}, nil
}

// metric returns the value of one series, 0 if there is none.
func (s *service) metric(name string, labels ...string) float64 {
	s.t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if hasLabels(m, labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func hasLabels(m *dto.Metric, labels []string) bool {
	for i := 0; i+1 < len(labels); i += 2 {
		if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
			return l.GetName() == labels[i] && l.GetValue() == labels[i+1]
		}) {
			return false
		}
	}
	return true
}

// eventually waits for a condition that other goroutines bring about.
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

// mustServe checks that the daemon still tells right from wrong.
func (s *service) mustServe() {
	s.t.Helper()
	if a := s.do("GET", "/v1/keys/pk_live_1", ""); a.status != 200 || a.json(s.t)["valid"] != true || a.json(s.t)["key_id"] != "pk_live_1" {
		s.t.Fatalf("a good key is answered %d %s", a.status, a.body)
	}
	if a := s.do("GET", "/v1/keys/pk_revoked", ""); a.status != 410 || a.json(s.t)["valid"] != false {
		s.t.Fatalf("a revoked key is answered %d %s", a.status, a.body)
	}
	if bytes.Contains(s.do("GET", "/v1/keys/pk_none", "").body, []byte("public_key")) {
		s.t.Fatal("an unknown key has a public key")
	}
}
