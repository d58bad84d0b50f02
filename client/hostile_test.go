package client_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/client"
)

// script serves each connection by a function of its number, and counts the requests.
type script struct {
	address string

	mu       sync.Mutex
	conns    int
	requests int
}

// scripted runs a server whose n-th connection (from 0) is handled by serve; read reads
// one request off it.
func scripted(t testing.TB, serve func(n int, c net.Conn, read func() bool)) *script {
	t.Helper()
	dir, remove := shortDir()
	l, err := net.Listen("unix", filepath.Join(dir, "f.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &script{address: "unix://" + l.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			n := s.conns
			s.conns++
			s.mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				b := bufio.NewReader(c)
				serve(n, c, func() bool { return s.readRequest(b) })
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
		remove()
	})
	return s
}

func (s *script) readRequest(b *bufio.Reader) bool {
	r, err := http.ReadRequest(b)
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	return true
}

func (s *script) counts() (conns, requests int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns, s.requests
}

func (s *script) client(t testing.TB, o client.Options) *client.Client {
	return (&target{address: s.address, options: o}).client(t)
}

func httpAnswer(status int, contentType, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", status, contentType, len(body), body)
}

const (
	jsonType    = "application/json"
	problemType = "application/problem+json"
	good        = `{"valid":true,"code":"active","key_id":"pk_live","owner_id":"m_1","algorithm":"opaque","public_key":null,"scopes":[],"not_before":null,"expires_at":null,"attributes":{},"as_of":{"history":"f","seq":1,"age_ms":1},"source":"cache"}`
	bad         = `{"valid":false,"code":"revoked","key_id":"pk_live","as_of":null,"source":"cache"}`
)

func problem(status int, code string) string {
	return httpAnswer(status, problemType, fmt.Sprintf(`{"type":"about:blank","title":"x","status":%d,"code":%q,"detail":"d"}`, status, code))
}

// What is not beyond doubt is neither a key nor a refusal.
func TestHostileAnswerIsBelieved(t *testing.T) {
	t.Parallel()
	edit := strings.NewReplacer
	for name, answer := range map[string]string{
		"nothing":               "",
		"no HTTP":               "hello\r\n\r\n",
		"half a head":           "HTTP/1.1 200 OK\r\nContent-",
		"HTML":                  httpAnswer(200, "text/html", "<html>valid</html>"),
		"another type":          httpAnswer(200, "text/plain", good),
		"no type":               "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"garbage":               httpAnswer(200, jsonType, "{\"valid\":true"),
		"empty":                 httpAnswer(200, jsonType, ""),
		"an empty object":       httpAnswer(200, jsonType, "{}"),
		"null":                  httpAnswer(200, jsonType, "null"),
		"true":                  httpAnswer(200, jsonType, "true"),
		"an array":              httpAnswer(200, jsonType, "["+good+"]"),
		"two values":            httpAnswer(200, jsonType, good+good),
		"valid as text":         httpAnswer(200, jsonType, edit(`true`, `"true"`).Replace(good)),
		"no code":               httpAnswer(200, jsonType, edit(`"code":"active",`, ``).Replace(good)),
		"no owner":              httpAnswer(200, jsonType, edit(`"owner_id":"m_1",`, ``).Replace(good)),
		"bad base64":            httpAnswer(200, jsonType, edit(`"public_key":null`, `"public_key":"%"`).Replace(good)),
		"bad time":              httpAnswer(200, jsonType, edit(`"expires_at":null`, `"expires_at":"soon"`).Replace(good)),
		"another key":           httpAnswer(200, jsonType, edit(`pk_live`, `pk_live2`).Replace(good)),
		"another case":          httpAnswer(200, jsonType, edit(`pk_live`, `PK_LIVE`).Replace(good)),
		"no key":                httpAnswer(200, jsonType, edit(`"key_id":"pk_live",`, ``).Replace(good)),
		"another key refused":   httpAnswer(410, jsonType, edit(`pk_live`, `pk_other`).Replace(bad)),
		"valid and revoked":     httpAnswer(200, jsonType, edit(`active`, `revoked`).Replace(good)),
		"invalid and active":    httpAnswer(403, jsonType, edit(`revoked`, `active`).Replace(bad)),
		"valid with 403":        httpAnswer(403, jsonType, good),
		"valid with 503":        httpAnswer(503, jsonType, good),
		"valid with 206":        httpAnswer(206, jsonType, good),
		"valid with 302":        "HTTP/1.1 302 Found\r\nLocation: /v1/keys/pk_other\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(good)) + "\r\n\r\n" + good,
		"refused with 200":      httpAnswer(200, jsonType, bad),
		"refused with 500":      httpAnswer(500, jsonType, bad),
		"upgrade":               "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"nothing changed":       "HTTP/1.1 304 Not Modified\r\n\r\n",
		"breaks off":            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n" + good,
		"chunks break off":      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n", len(good), good),
		"more than it can hold": httpAnswer(200, jsonType, good+strings.Repeat(" ", 300<<10)),
		"says it is huge":       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n" + good + strings.Repeat(" ", 300<<10),
		"a huge head":           "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"compressed":            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
		"another server's 404":  httpAnswer(404, "text/html", "not found"),
		"no such route":         problem(404, "no_such_route"),
		"a wrong token":         problem(401, "unauthorized"),
		"a browser":             problem(403, "browser_not_allowed"),
		"too many":              problem(503, "too_many_connections"),
		"a fault":               problem(500, "internal"),
		"a lying problem":       edit("HTTP/1.1 503", "HTTP/1.1 400").Replace(problem(503, "unavailable")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scripted(t, func(_ int, c net.Conn, read func() bool) {
				if read() {
					_, _ = io.WriteString(c, answer)
				}
			})
			c := s.client(t, client.Options{Timeout: 5 * time.Second})
			n := 0
			for way, ask := range askers(c) {
				k, err := ask(t.Context(), "pk_live")
				mustBe(t, way, k, err, client.ErrUnavailable)
				n++
				if _, requests := s.counts(); requests != n {
					t.Errorf("%s: %d requests after %d questions", way, requests, n)
				}
			}
		})
	}
}

// The checks above must be able to fail.
func TestGoodAnswerIsNotBelieved(t *testing.T) {
	t.Parallel()
	s := scripted(t, func(n int, c net.Conn, read func() bool) {
		read()
		_, _ = io.WriteString(c, []string{httpAnswer(200, jsonType, good), httpAnswer(410, jsonType+"; charset=utf-8", bad), problem(400, "unknown_member")}[n])
	})
	c := s.client(t, client.Options{})
	if k, err := c.Lookup(t.Context(), "pk_live"); err != nil || k.ID != "pk_live" {
		t.Errorf("%v", err)
	}
	if _, err := c.Lookup(t.Context(), "pk_live"); !errors.Is(err, client.ErrRevoked) {
		t.Errorf("%v", err)
	}
	k, err := c.Verify(t.Context(), client.Question{KeyID: "pk_live"})
	mustBe(t, "a mistake", k, err, client.ErrBadQuestion)
}

// A sidecar of another kind may ignore what it does not know.
func TestAnswerToLessThanWasAskedIsBelieved(t *testing.T) {
	t.Parallel()
	s := scripted(t, func(_ int, c net.Conn, read func() bool) {
		read()
		_, _ = io.WriteString(c, httpAnswer(200, jsonType, good))
	})
	c := s.client(t, client.Options{})
	for _, q := range []client.Question{{KeyID: "pk_live", OwnerID: "m_2"}, {KeyID: "pk_live", Scopes: []string{"pay"}}, {Secret: "s"}} {
		k, err := c.Verify(t.Context(), q)
		mustBe(t, fmt.Sprintf("%+v", q), k, err, client.ErrUnavailable)
	}
}

func TestHostileBatchIsBelieved(t *testing.T) {
	t.Parallel()
	other := strings.ReplaceAll(good, "pk_live", "pk_other")
	for name, tt := range map[string]struct {
		verdicts string
		whole    bool // nothing of the batch can be told
	}{
		"too few":  {good, true},
		"too many": {good + "," + other + "," + other, true},
		"none":     {"", true},
		"swapped":  {other + "," + good, false},
		"the same": {other + "," + other, false},
		"null":     {"null,null", false},
		"empty":    {"{},{}", false},
		"numbers":  {"1,2", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scripted(t, func(_ int, c net.Conn, read func() bool) {
				read()
				_, _ = io.WriteString(c, httpAnswer(200, jsonType, `{"verdicts":[`+tt.verdicts+`]}`))
			})
			results, err := s.client(t, client.Options{}).VerifyBatch(t.Context(), []client.Question{{KeyID: "pk_live"}, {KeyID: "pk_other"}})
			if tt.whole {
				mustBe(t, "the batch", nil, err, client.ErrUnavailable)
				if results != nil {
					t.Error("there are results")
				}
				return
			}
			if err != nil || len(results) != 2 {
				t.Fatalf("%v %v", results, err)
			}
			k, err := results[0].Key()
			mustBe(t, "the first", k, err, client.ErrUnavailable)
		})
	}
}

func TestZeroValueIsTakenForValid(t *testing.T) {
	t.Parallel()
	k, err := client.Result{}.Key()
	mustBe(t, "a result", k, err, client.ErrUnavailable)
	if k, ok := client.KeyFromContext(t.Context()); ok || k != nil {
		t.Error("a context without a key has one")
	}
	for _, err := range []error{&client.RefusedError{}, &client.UnavailableError{}, &client.QuestionError{}, &client.PendingError{}} {
		if err.Error() == "" || errors.Is(err, client.ErrRevoked) || errors.Is(err, client.ErrUnknownKey) {
			t.Errorf("%T: %v", err, err)
		}
	}
}

var hostileIDs = []string{
	"", ".", "..", "../status", "good?x", "good#x", "a/b", "a%2Fb", "..%2Fstatus", "a b", "a\r\nHost: x", "a\x00", "ünï", "\xff", "a\\b", "a;b", "a@b", "sk_live!", strings.Repeat("x", 257), strings.Repeat("x", 300),
}

// Nothing listens there: an id that reached the network would be "cannot tell".
func TestHostileIDIsSent(t *testing.T) {
	t.Parallel()
	c := (&target{address: "unix:///nonexistent/s.sock"}).client(t)
	for _, id := range hostileIDs {
		for way, ask := range askers(c) {
			k, err := ask(t.Context(), id)
			mustBe(t, way, k, err, client.ErrRefused)
			if !errors.Is(err, client.ErrMalformedKey) || errors.Is(err, client.ErrUnknownKey) || errors.Is(err, client.ErrRevoked) {
				t.Errorf("%s %q: %v", way, id, err)
			}
			if len(id) > 3 && strings.Contains(fmt.Sprintf("%+v", err), id) {
				t.Errorf("%s: the error repeats %q", way, id)
			}
		}
		if _, err := c.Wait(t.Context(), id, time.Second); !errors.Is(err, client.ErrMalformedKey) {
			t.Errorf("Wait %q: %v", id, err)
		}
	}
	k, err := c.Verify(t.Context(), client.Question{KeyID: strings.Repeat("x", 256)})
	mustBe(t, "the longest id", k, err, client.ErrUnavailable)
}

func TestWrongQuestionIsSent(t *testing.T) {
	t.Parallel()
	c := (&target{address: "unix:///nonexistent/s.sock"}).client(t)
	for name, q := range map[string]client.Question{
		"two keys":                {KeyID: "a", Secret: "b"},
		"no scopes":               {KeyID: "a", Scopes: []string{}},
		"an empty scope":          {KeyID: "a", Scopes: []string{"pay", ""}},
		"a scope too long":        {KeyID: "a", Scopes: []string{strings.Repeat("x", 257)}},
		"a scope that is no text": {KeyID: "a", Scopes: []string{"p\xffy"}},
		"too many scopes":         {KeyID: "a", Scopes: strings.Fields(strings.Repeat("x ", 65))},
		"an owner too long":       {KeyID: "a", OwnerID: strings.Repeat("x", 257)},
		"an owner that is none":   {KeyID: "a", OwnerID: "m\n1"},
		"an owner in bytes":       {KeyID: "a", OwnerID: "m\xff"},
		"no attributes":           {KeyID: "a", Attributes: map[string]any{}},
		"a null attribute":        {KeyID: "a", Attributes: map[string]any{"a": nil}},
		"an attribute's object":   {KeyID: "a", Attributes: map[string]any{"a": map[string]any{}}},
		"an attribute's bytes":    {KeyID: "a", Attributes: map[string]any{"a": "\xff"}},
		"too much":                {KeyID: "a", Attributes: map[string]any{"a": strings.Repeat("x", 64<<10)}},
	} {
		k, err := c.Verify(t.Context(), q)
		mustBe(t, name, k, err, client.ErrBadQuestion)
	}
	for name, s := range map[string]client.Secret{"too long": client.Secret(strings.Repeat("x", 4097)), "no text": "\xff\xfe"} {
		k, err := c.Verify(t.Context(), client.Question{Secret: s})
		mustBe(t, name, k, err, client.ErrRefused)
	}
	if _, err := c.Wait(t.Context(), "a", -1); !errors.Is(err, client.ErrBadQuestion) {
		t.Errorf("a negative wait: %v", err)
	}
}

func TestSecretIsPrinted(t *testing.T) {
	t.Parallel()
	q := client.Question{Secret: "hunter2", OwnerID: "m_1"}
	asJSON, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{string(asJSON), q.Secret.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, q), fmt.Sprintf(verb, &q), fmt.Sprintf(verb, q.Secret))
	}
	for _, text := range texts {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "68756e74657232") || !strings.Contains(text, "[redacted]") && strings.Contains(text, "m_1") {
			t.Errorf("%s", text)
		}
	}
}

func TestWrongAddressIsTaken(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"", "/run/keysidecar.sock", "unix:", "unix://", "unix://run/keysidecar.sock", "unix:///" + strings.Repeat("x", 107), "unix:///a\x00b",
		"http://", "http://127.0.0.1", "http://10.0.0.1:9475", "http://example.com:9475", "https://127.0.0.1:9475", "http://127.0.0.1:9475/v1",
		"http://u:hunter2@127.0.0.1:9475", "http://127.0.0.1:9475?x", "http://127.0.0.1:9475#x", "http://0.0.0.0:9475", "127.0.0.1:9475",
	} {
		if c, err := client.New(address, client.Options{}); err == nil || c != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"unix:///run/k.sock", "unix:run/k.sock", "http://127.0.0.1:9475", "http://localhost:9475/", "http://[::1]:9475"} {
		if _, err := client.New(address, client.Options{}); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := client.New("unix:a", client.Options{Timeout: -1}); err == nil {
		t.Error("a negative timeout")
	}
}

func TestTokenThatCannotBeReadIsLeftOut(t *testing.T) {
	t.Parallel()
	s := startFake(t) // which wants none
	s.options.Token = client.TokenFile(filepath.Join(t.TempDir(), "none"))
	k, err := s.client(t).Lookup(t.Context(), "pk_live")
	mustBe(t, "no token", k, err, client.ErrUnavailable)
}

func TestCallOutlivesItsContext(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"no answer":   "",
		"half a head": "HTTP/1.1 200 OK\r\n",
		"half a body": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			s := scripted(t, func(_ int, c net.Conn, read func() bool) {
				read()
				_, _ = io.WriteString(c, sent)
				<-release
			})
			t.Cleanup(func() { close(release) })
			c := s.client(t, client.Options{Timeout: 30 * time.Millisecond})
			k, err := c.Verify(t.Context(), client.Question{KeyID: "pk_live"})
			mustBe(t, "its own timeout", k, err, client.ErrUnavailable)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			stop := time.AfterFunc(20*time.Millisecond, cancel)
			defer stop.Stop()
			c = s.client(t, client.Options{Timeout: time.Hour})
			k, err = c.Lookup(ctx, "pk_live")
			mustBe(t, "the caller's end", k, err, client.ErrUnavailable)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			if _, err := c.Wait(ctx, "pk_live", time.Hour); !errors.Is(err, client.ErrUnavailable) {
				t.Errorf("a wait that was given up: %v", err)
			}
		})
	}
}

// An answer without an end must not fill memory.
func TestEndlessAnswerFillsMemory(t *testing.T) {
	t.Parallel()
	s := scripted(t, func(_ int, c net.Conn, read func() bool) {
		read()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
		for block := strings.Repeat(" ", 64<<10); ; {
			if _, err := io.WriteString(c, block); err != nil {
				return
			}
		}
	})
	c := s.client(t, client.Options{Timeout: 5 * time.Second})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	k, err := c.Lookup(t.Context(), "pk_live")
	runtime.ReadMemStats(&after)
	mustBe(t, "an endless answer", k, err, client.ErrUnavailable)
	if errors.Is(err, context.DeadlineExceeded) || after.TotalAlloc-before.TotalAlloc > 64<<20 {
		t.Errorf("%v after %d bytes", err, after.TotalAlloc-before.TotalAlloc)
	}
}
