package server

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// pieces is a connection on which a client's bytes arrive in the pieces given.
type pieces struct {
	scriptedConn

	parts [][]byte
	out   bytes.Buffer
}

func (c *pieces) Read(p []byte) (int, error) {
	if len(c.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.parts[0])
	if c.parts[0] = c.parts[0][n:]; len(c.parts[0]) == 0 {
		c.parts = c.parts[1:]
	}
	return n, nil
}

func (c *pieces) Write(p []byte) (int, error) { return c.out.Write(p) }

// exchangeIn returns everything that was answered to the pieces, and whether the
// quick way answered any of it.
func exchangeIn(t testing.TB, keys Keys, parts ...string) (answer []byte, quick bool) {
	t.Helper()
	d, err := NewData(DataOptions{Keys: keys, Registerer: prometheus.NewRegistry(), Logger: zap.NewNop(), Socket: Socket{Path: "unused"}})
	if err != nil {
		t.Fatal(err)
	}
	d.listeners = []*listener{{id: listenerUnix, data: d}}
	s := &pieces{}
	for _, part := range parts {
		s.parts = append(s.parts, []byte(part))
	}
	c := &conn{Conn: s, listener: d.listeners[0]}
	c.framer.limits = frameLimits{header: maxHeader, body: bodyLimit}
	_ = d.http.ServeConn(c) // refused requests end it with an error
	return s.out.Bytes(), c.wire != nil
}

var unequal = regexp.MustCompile(`"age_ms":\d+`)

// readAnswers parses what was answered, without what may differ.
func readAnswers(t testing.TB, method string, raw []byte) (list []string) {
	t.Helper()
	in := bufio.NewReader(bytes.NewReader(raw))
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			if len(list) == 0 || in.Buffered() > 0 {
				t.Fatalf("%v: %q", err, raw)
			}
			return list
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		at, err := http.ParseTime(res.Header.Get("Date"))
		if err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("Date %q: %v", res.Header.Get("Date"), err)
		}
		res.Header.Del("Date")
		var b strings.Builder
		b.WriteString(res.Proto + " " + res.Status + "\n")
		if err := res.Header.Write(&b); err != nil {
			t.Fatal(err)
		}
		b.Write(unequal.ReplaceAll(body, []byte(`"age_ms":0`)))
		list = append(list, b.String())
	}
}

func getOf(target string, fields ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n" + fieldLines(fields) + "\r\n"
}

func fieldLines(fields []string) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	return b.String()
}

// quickCases are requests, and whether the quick way is to answer them.
var quickCases = map[string]struct {
	request string
	quick   bool
}{
	"active":                    {getActive, true},
	"unknown key":               {getOf("/v1/keys/nobody"), true},
	"escaped":                   {getOf("/v1/keys/pk%5flive_1"), true},
	"bad key":                   {getOf("/v1/keys/..%2Fstatus"), true},
	"bad escape":                {getOf("/v1/keys/a%2"), true},
	"empty key":                 {getOf("/v1/keys/"), true},
	"fresh enough":              {getOf("/v1/keys/pk_live_1", "Cache-Control: max-age=60"), true},
	"from memory or not at all": {getOf("/v1/keys/pk_live_1", "Cache-Control: only-if-cached"), true},
	"any form":                  {getOf("/v1/keys/pk_live_1", "Accept: */*"), true},
	"json":                      {getOf("/v1/keys/pk_live_1", "Accept: application/json"), true},
	"verify":                    {postVerify, true},
	"verify an odd signature":   {postOf("/v1/verify", `{"key_id":"pk_live_1","algorithm":"ed25519","message":"AA==","signature":"AA=="}`), true},
	"verify half a signature":   {postOf("/v1/verify", `{"key_id":"pk_live_1","algorithm":"ed25519"}`), true},
	"verify another's":          {postOf("/v1/verify", `{"key_id":"pk_live_1","owner_id":"m_2"}`), true},
	"verify, unknown member":    {postOf("/v1/verify", `{"key_id":"pk_live_1","ownerId":"m_1"}`), true},
	"verify, no JSON":           {postOf("/v1/verify", `{"key_id"`), true},
	"batch":                     {postBatch(20), true},
	"long batch":                {postBatch(60), true},

	"batch larger than the buffer": {postBatch(400), false},
	"pem":                          {getOf("/v1/keys/pk_live_1", "Accept: application/x-pem-file"), false},
	"nothing acceptable":           {getOf("/v1/keys/pk_live_1", "Accept: text/html"), false},
	"bad bound":                    {getOf("/v1/keys/pk_live_1", "Cache-Control: max-age=soon"), false},
	"query":                        {getOf("/v1/keys/pk_live_1?x=1"), false},
	"no such route":                {getOf("/v1/keyz/pk_live_1"), false},
	"status":                       {getOf("/v1/status"), false},
	"last request":                 {getOf("/v1/keys/pk_live_1", "Connection: close"), false},
	"head":                         {strings.Replace(getActive, "GET", "HEAD", 1), false},
	"delete":                       {strings.Replace(getActive, "GET", "DELETE", 1), false},
	"old version":                  {strings.Replace(getActive, "HTTP/1.1", "HTTP/1.0", 1), false},
	"empty line before":            {"\r\n" + getActive, false},
	"two at once":                  {getActive + getOf("/v1/keys/nobody"), false},
	"get with a body":              {strings.Replace(getActive, "\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi", 1), false},
	"get with an empty body":       {strings.Replace(getActive, "\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n", 1), true},
	"chunked":                      {strings.Replace(postOf("/v1/verify", ""), "Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n17\r\n{\"key_id\":\"pk_live_1\"} \r\n0\r\n\r\n", 1), false},
	"verify, no body":              {postOf("/v1/verify", ""), true},
	"verify, as text":              {strings.Replace(postVerify, "application/json", "text/plain", 1), false},
	"verify, compressed":           {strings.Replace(postVerify, "Content-Type", "Content-Encoding: gzip\r\nContent-Type", 1), false},
	"verify, type twice":           {strings.Replace(postVerify, "Content-Type", "Content-Type: text/plain\r\nContent-Type", 1), false},
	"expectation":                  {strings.Replace(postVerify, "Content-Type", "Expect: 100-continue\r\nContent-Type", 1), false},
	"not HTTP":                     {"hello\r\n\r\n", false},
}

// The quick way is an optimisation: nobody must be able to tell it from the other
// but by the time it takes.
func TestTheQuickWayAnswersOtherwise(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys(t)
	for name, tt := range quickCases {
		t.Run(name, func(t *testing.T) {
			method, _, _ := strings.Cut(strings.TrimSpace(tt.request), " ")
			whole, quick := exchangeIn(t, keys, tt.request)
			if quick != tt.quick {
				t.Errorf("answered the quick way: %v", quick)
			}
			// One byte first: it cannot be answered before the rest has come.
			split, slow := exchangeIn(t, keys, tt.request[:1], tt.request[1:])
			if slow {
				t.Fatal("a request in two pieces was answered the quick way")
			}
			if name == "expectation" { // 100 Continue is of use to those only who wait for it
				split = bytes.TrimPrefix(split, []byte("HTTP/1.1 100 Continue\r\n\r\n"))
				whole = bytes.TrimPrefix(whole, []byte("HTTP/1.1 100 Continue\r\n\r\n"))
			}
			a, b := readAnswers(t, method, whole), readAnswers(t, method, split)
			if strings.Join(a, "\n--\n") != strings.Join(b, "\n--\n") {
				t.Errorf("in one piece\n%s\nin two\n%s", a, b)
			}
		})
	}
}

// Quick and other requests follow one another on one connection.
func TestTheTwoWaysShareAConnection(t *testing.T) {
	t.Parallel()
	keys := newFixedKeys(t)
	var parts []string
	for i := range 50 {
		switch i % 4 {
		case 0, 1:
			parts = append(parts, getActive)
		case 2:
			parts = append(parts, postVerify[:40], postVerify[40:])
		case 3:
			parts = append(parts, getActive+postVerify+getActive[:10], getActive[10:])
		}
	}
	raw, quick := exchangeIn(t, keys, parts...)
	answers := readAnswers(t, "GET", raw)
	if want := 13 + 13 + 12 + 3*12; !quick || len(answers) != want {
		t.Fatalf("%d answers, want %d", len(answers), want)
	}
	for i, a := range answers {
		if !strings.HasPrefix(a, "HTTP/1.1 200 OK\n") || !strings.Contains(a, `"key_id":"pk_live_1"`) {
			t.Errorf("answer %d: %s", i, a)
		}
	}
}

type panickingKeys struct{ *fixedKeys }

func (panickingKeys) Lookup(context.Context, string, keystore.Bounds) (keystore.Answer, error) {
	panic("a bug")
}

func TestAPanicInTheQuickWayIsA500(t *testing.T) {
	t.Parallel()
	raw, quick := exchangeIn(t, panickingKeys{newFixedKeys(t)}, getActive, getActive)
	answers := readAnswers(t, "GET", raw)
	if !quick || len(answers) != 2 || !strings.HasPrefix(answers[1], "HTTP/1.1 500 ") {
		t.Errorf("%v %s", quick, answers)
	}
}
