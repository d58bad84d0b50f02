package server

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

func TestVerifyDecides(t *testing.T) {
	t.Parallel()
	s := start(t)
	refused := 0.0
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{`{"key_id":"pk_live_1"}`, 200, "active"},
		{` { "key_id" : "pk_live_1" } ` + "\r\n\t", 200, "active"},
		{`{"key_id":"pk_live\u005f1"}`, 200, "active"},
		{`{"key_id":"pk_live_1","owner_id":"m_1"}`, 200, "active"},
		{`{"owner_id":"m_1","key_id":"pk_live_1"}`, 200, "active"},
		{`{"key_id":"pk_live_1","owner_id":"m_2"}`, 403, "owner_mismatch"},
		{`{"key_id":"pk_live_1","owner_id":"M_1"}`, 403, "owner_mismatch"},
		{`{"key_id":"pk_live_1","owner_id":"m_1 "}`, 403, "owner_mismatch"},
		{`{"key_id":"opaque~+=:-._1","owner_id":"\u00dcn\u00ef \"q\""}`, 200, "active"},
		{`{"key_id":"pk_live_1","scopes":["pay"]}`, 200, "active"},
		{`{"key_id":"pk_live_1","scopes":["refund","pay","pay"]}`, 200, "active"},
		{`{"key_id":"pk_live_1","scopes":["pay","admin"]}`, 403, "scope_missing"},
		{`{"key_id":"pk_live_1","scopes":["Pay"]}`, 403, "scope_missing"},
		{`{"key_id":"pk_live_1","scopes":["pa"]}`, 403, "scope_missing"},
		{`{"key_id":"pk_live_1","scopes":["pay:read"]}`, 403, "scope_missing"},
		{`{"key_id":"opaque~+=:-._1","scopes":["pay"]}`, 403, "scope_missing"},
		{`{"key_id":"pk_live_1","attributes":{"env":"live"}}`, 200, "active"},
		{`{"key_id":"pk_live_1","attributes":{"env":"live","tier":3.0,"beta":true}}`, 200, "active"},
		{`{"key_id":"pk_live_1","attributes":{"env":"test"}}`, 403, "attribute_mismatch"},
		{`{"key_id":"pk_live_1","attributes":{"tier":"3"}}`, 403, "attribute_mismatch"},
		{`{"key_id":"pk_live_1","attributes":{"beta":"true"}}`, 403, "attribute_mismatch"},
		{`{"key_id":"pk_live_1","attributes":{"other":1}}`, 403, "attribute_mismatch"},
		{`{"key_id":"opaque~+=:-._1","attributes":{"env":"live"}}`, 403, "attribute_mismatch"},
		// The first that fails decides.
		{`{"key_id":"pk_live_1","owner_id":"x","scopes":["x"],"attributes":{"x":1}}`, 403, "owner_mismatch"},
		{`{"key_id":"pk_live_1","owner_id":"m_1","scopes":["x"],"attributes":{"x":1}}`, 403, "scope_missing"},
		{`{"key_id":"pk_revoked","owner_id":"x","scopes":["x"]}`, 403, "revoked"},
		{`{"key_id":"pk_none","owner_id":"x"}`, 403, "unknown_key"},
	} {
		if tt.status == 403 {
			refused++
		}
		a := s.do("POST", "/v1/verify", tt.body)
		if a.status != tt.status || a.code() != tt.code || a.json(t)["valid"] != (tt.code == "active") {
			t.Errorf("%s: %d %s, want %d %s", tt.body, a.status, a.body, tt.status, tt.code)
		}
	}
	if got := s.metric("keysidecar_http_requests_total", "route", "verify", "code", "403", "listener", "unix"); got != refused {
		t.Errorf("403s counted: %v, want %v", got, refused)
	}
}

// A presented secret is known by its hash alone: nothing answers, logs or looks
// it up as it is.
func TestASecretIsHashedAtOnce(t *testing.T) {
	t.Parallel()
	for _, pepper := range []string{"", "pepper"} {
		s := start(t, func(o *DataOptions) { o.Pepper = []byte(pepper) })
		id := keystore.HashSecret([]byte(pepper), []byte("sk_secret"))
		for _, body := range []string{`{"key":"sk_secret"}`, `{"key":"sk\u005fsecret"}`} {
			a := s.do("POST", "/v1/verify", body)
			if a.status != 200 || a.json(t)["key_id"] != id || s.keys.lastCall().id != id {
				t.Errorf("%d %s", a.status, a.body)
			}
		}
		for _, body := range []string{
			`{"key":"sk_secret","owner_id":"nobody"}`,
			`{"key":"sk_secret","ownerId":"m_1"}`,
			`{"key":"sk_secret","key_id":"pk_live_1"}`,
			`{"key":"sk_secret","scopes":null}`,
			`{"key":"sk_secret"`,
			`{"key":["sk_secret"]}`,
			`{"key":"sk_secret` + strings.Repeat("x", 5000) + `"}`,
			`{"requests":[{"key":"sk_secret"}]}`,
		} {
			if a := s.do("POST", "/v1/verify", body); a.status == 200 || strings.Contains(string(a.body), "sk_secret") {
				t.Errorf("%s: %d %s", body, a.status, a.body)
			}
		}
		a := s.do("POST", "/v1/verify/batch", `{"requests":[{"key":"sk_secret"},{"key_id":"pk_live_1"},{"key":"sk_other"}]}`)
		if a.status != 200 || strings.Contains(string(a.body), "sk_") || !strings.Contains(string(a.body), id) {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

// The secret's bytes are wiped from the request's buffer, which lives on with
// the connection.
func TestASecretIsWiped(t *testing.T) {
	t.Parallel()
	body := []byte(`{"key":"sk_secret","scopes":["pay"]}`)
	var r bodyReader
	r.reset(body, nil)
	var q question
	if err := r.verify(&q); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(body), "sk_secret") {
		t.Errorf("%q", body)
	}
	if string(q.keyID) != keystore.HashSecret(nil, []byte("sk_secret")) || string(q.scopes[0]) != "pay" {
		t.Errorf("%+v", q)
	}
}

// badBodies are refused by name. A check that is silently skipped because its
// member was misspelt, null or empty would be worse than an error.
var badBodies = []struct {
	body   string
	code   string
	member string
	meant  string
}{
	{``, "malformed_json", "", ""},
	{`   `, "malformed_json", "", ""},
	{`null`, "malformed_json", "", ""},
	{`[]`, "malformed_json", "", ""},
	{`"x"`, "malformed_json", "", ""},
	{`{`, "malformed_json", "", ""},
	{`{"key_id"`, "malformed_json", "", ""},
	{`{"key_id":`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1"`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1",}`, "malformed_json", "", ""},
	{`{,"key_id":"pk_live_1"}`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1" "owner_id":"m_1"}`, "malformed_json", "", ""},
	{`{"key_id" "pk_live_1"}`, "malformed_json", "", ""},
	{`{key_id:"pk_live_1"}`, "malformed_json", "", ""},
	{`{'key_id':'pk_live_1'}`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1"} x`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1"}{"key_id":"pk_live_1"}`, "malformed_json", "", ""},
	{"\ufeff" + `{"key_id":"pk_live_1"}`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1"} // x`, "malformed_json", "", ""},
	{"{\"key_id\":\"pk_live\xff_1\"}", "malformed_json", "", ""},
	{"{\"owner_id\":\"m\xc3\x28\",\"key_id\":\"pk_live_1\"}", "malformed_json", "", ""},
	{"{\"key_id\":\"pk_live\n_1\"}", "malformed_json", "", ""},
	{"{\"key_id\":\"pk_live\x00_1\"}", "malformed_json", "", ""},
	{`{"owner_id":"\ud800","key_id":"pk_live_1"}`, "malformed_json", "", ""},
	{`{"owner_id":"\udc00\ud800","key_id":"pk_live_1"}`, "malformed_json", "", ""},
	{`{"owner_id":"\x41","key_id":"pk_live_1"}`, "malformed_json", "", ""},
	{`{"owner_id":"\u00zz","key_id":"pk_live_1"}`, "malformed_json", "", ""},
	{`{"owner_id":"\u00`, "malformed_json", "", ""},
	{`{"owner_id":"\`, "malformed_json", "", ""},
	{`{"key_id":nil}`, "bad_member", "key_id", ""},
	{`{"key_id":undefined}`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1","attributes":{"n":01}}`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1","attributes":{"n":1.}}`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1","attributes":{"n":-}}`, "malformed_json", "", ""},
	{`{"key_id":"pk_live_1","attributes":{"n":NaN}}`, "malformed_json", "", ""},
	{strings.Repeat(`{"key_id":`, 3000), "bad_member", "key_id", ""},
	{strings.Repeat(`[`, 60000), "malformed_json", "", ""},

	{`{}`, "missing_member", "key_id", ""},
	{`{"owner_id":"m_1"}`, "missing_member", "key_id", ""},
	{`{"key_id":"pk_live_1","key":"x"}`, "bad_member", "key", ""},

	{`{"key_id":"pk_live_1","ownerId":"m_1"}`, "unknown_member", "ownerId", "owner_id"},
	{`{"key_id":"pk_live_1","OWNER_ID":"m_1"}`, "unknown_member", "OWNER_ID", "owner_id"},
	{`{"key_id":"pk_live_1","owner":"m_1"}`, "unknown_member", "owner", "owner_id"},
	{`{"key_id":"pk_live_1","scope":["pay"]}`, "unknown_member", "scope", "scopes"},
	{`{"key_id":"pk_live_1","attribute":{}}`, "unknown_member", "attribute", "attributes"},
	{`{"keyId":"pk_live_1"}`, "unknown_member", "keyId", "key_id"},
	{`{"key-id":"pk_live_1"}`, "unknown_member", "key-id", "key_id"},
	{`{"id":"pk_live_1"}`, "unknown_member", "id", "key_id"},
	{`{"key_id":"pk_live_1","":1}`, "unknown_member", `""`, "key"},
	{`{"key_id":"pk_live_1","signatures":"x"}`, "unknown_member", "signatures", "signature"},
	{`{"key_id":"pk_live_1","` + strings.Repeat("x", 1000) + `":1}`, "unknown_member", strings.Repeat("x", 64) + "...", "key_id"},

	{`{"key_id":"pk_live_1","key_id":"pk_live_1"}`, "duplicate_member", "key_id", ""},
	{`{"key_id":"pk_live_1","k\u0065y_id":"pk_none"}`, "duplicate_member", "key_id", ""},
	{`{"key_id":"pk_live_1","owner_id":"m_1","owner_id":"m_2"}`, "duplicate_member", "owner_id", ""},
	{`{"key_id":"pk_live_1","attributes":{"a":1,"a":1}}`, "duplicate_member", "attributes", ""},

	{`{"key_id":null}`, "bad_member", "key_id", ""},
	{`{"key_id":"pk_live_1","owner_id":null}`, "bad_member", "owner_id", ""},
	{`{"key_id":"pk_live_1","scopes":null}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","attributes":null}`, "bad_member", "attributes", ""},
	{`{"key_id":"pk_live_1","attributes":{"a":null}}`, "bad_member", "attributes", ""},
	{`{"key_id":"pk_live_1","scopes":[null]}`, "bad_member", "scopes", ""},
	{`{"key":null}`, "bad_member", "key", ""},

	{`{"key_id":""}`, "bad_member", "key_id", ""},
	{`{"key":""}`, "bad_member", "key", ""},
	{`{"key_id":"pk_live_1","owner_id":""}`, "bad_member", "owner_id", ""},
	{`{"key_id":"pk_live_1","scopes":[]}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","scopes":[""]}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","attributes":{}}`, "bad_member", "attributes", ""},

	{`{"key_id":1}`, "bad_member", "key_id", ""},
	{`{"key_id":["pk_live_1"]}`, "bad_member", "key_id", ""},
	{`{"key_id":{"a":1}}`, "bad_member", "key_id", ""},
	{`{"key_id":true}`, "bad_member", "key_id", ""},
	{`{"key_id":"pk_live_1","owner_id":7}`, "bad_member", "owner_id", ""},
	{`{"key_id":"pk_live_1","scopes":"pay"}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","scopes":[1]}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","scopes":{"pay":true}}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","attributes":["env"]}`, "bad_member", "attributes", ""},
	{`{"key_id":"pk_live_1","attributes":{"env":["live"]}}`, "bad_member", "attributes", ""},
	{`{"key_id":"pk_live_1","attributes":{"env":{"a":1}}}`, "bad_member", "attributes", ""},

	{`{"key_id":"a/b"}`, "bad_key_id", "key_id", ""},
	{`{"key_id":"../status"}`, "bad_key_id", "key_id", ""},
	{`{"key_id":".."}`, "bad_key_id", "key_id", ""},
	{`{"key_id":"pk live"}`, "bad_key_id", "key_id", ""},
	{`{"key_id":"pk_live_1\u0000"}`, "bad_key_id", "key_id", ""},
	{`{"key_id":"pk_liv\u00e9"}`, "bad_key_id", "key_id", ""},
	{`{"key_id":"%41"}`, "bad_key_id", "key_id", ""},
	{`{"key_id":"` + strings.Repeat("k", 257) + `"}`, "bad_key_id", "key_id", ""},
	{`{"key_id":"pk_live_1","owner_id":"m\u0007"}`, "bad_member", "owner_id", ""},
	{`{"key_id":"pk_live_1","owner_id":"` + strings.Repeat("m", 257) + `"}`, "bad_member", "owner_id", ""},
	{`{"key_id":"pk_live_1","scopes":["` + strings.Repeat("s", 257) + `"]}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","scopes":["s"` + strings.Repeat(`,"s"`, 64) + `]}`, "bad_member", "scopes", ""},
	{`{"key_id":"pk_live_1","attributes":{` + manyAttributes(65) + `}}`, "bad_member", "attributes", ""},
	{`{"key":"` + strings.Repeat("s", 4097) + `"}`, "bad_member", "key", ""},
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"a%d":%d`, i, i)
	}
	return b.String()
}

func TestBadBodiesAreRefusedByName(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, tt := range badBodies {
		for _, batch := range []bool{false, true} {
			target, body, member := "/v1/verify", tt.body, tt.member
			if batch {
				if tt.code == "malformed_json" {
					continue // around it the text has other mistakes
				}
				target, body = "/v1/verify/batch", `{"requests":[{"key_id":"pk_live_1"},`+tt.body+`]}`
				if tt.code != "malformed_json" {
					member = "requests[1]." + tt.member
				}
			}
			calls := s.keys.callCount()
			counted := s.metric("keysidecar_http_bad_requests_total", "reason", tt.code)
			a := s.do("POST", target, body, header("Content-Type", "application/json"), onlyOnce)
			var p struct {
				Code, Member string
				Meant        string `json:"did_you_mean"`
			}
			if err := json.Unmarshal(a.body, &p); err != nil {
				t.Fatal(err)
			}
			if a.status != 400 || p.Code != tt.code || p.Member != member || p.Meant != tt.meant {
				t.Errorf("%s %.100s: %d %s", target, body, a.status, a.body)
			}
			if !batch && s.keys.callCount() != calls {
				t.Errorf("%.100s: the keystore was asked", body)
			}
			if s.metric("keysidecar_http_bad_requests_total", "reason", tt.code) != counted+1 {
				t.Errorf("%.100s: not counted", body)
			}
		}
	}
	s.mustServe()
}

// onlyOnce leaves one Content-Type, also for a body that is empty.
func onlyOnce(r *http.Request) { r.Header["Content-Type"] = r.Header["Content-Type"][:1] }

func TestMediaTypesOfBodies(t *testing.T) {
	t.Parallel()
	s := start(t)
	for contentType, status := range map[string]int{
		"application/json": 200, "Application/JSON": 200, "application/json; charset=utf-8": 200, `application/json;charset="UTF-8"`: 200,
		"application/json;": 200, "application/json; charset=latin1": 415, "application/jsonx": 415, "text/json": 415, "text/plain": 415,
		"application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415, "application/json, text/plain": 415, "": 415,
	} {
		for _, target := range []string{"/v1/verify", "/v1/verify/batch"} {
			body := `{"key_id":"pk_live_1"}`
			if target == "/v1/verify/batch" {
				body = `{"requests":[` + body + `]}`
			}
			a := s.do("POST", target, body, func(r *http.Request) { r.Header.Set("Content-Type", contentType) })
			if a.status != status || status == 415 && a.code() != "unsupported_media_type" {
				t.Errorf("%s as %q: %d %s", target, contentType, a.status, a.body)
			}
		}
	}
	if a := s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`, noContentType); a.status != 415 {
		t.Errorf("without a Content-Type: %d", a.status)
	}
	if a := s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`, header("Content-Encoding", "gzip")); a.status != 415 {
		t.Errorf("compressed: %d", a.status)
	}
	if a := s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`, header("Content-Encoding", "identity")); a.status != 200 {
		t.Errorf("identity: %d", a.status)
	}
	a := s.raw("POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 22\r\n\r\n"+`{"key_id":"pk_live_1"}`, 1)[0]
	if a.status != 400 || a.code() != "bad_header" {
		t.Errorf("two Content-Types: %d %s", a.status, a.body)
	}
	if a := s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`, header("Accept", "text/html")); a.status != 406 {
		t.Errorf("Accept: text/html: %d", a.status)
	}
}

func TestAttributesAreComparedAsJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		has, asked string
		want       bool
	}{
		{`{"a":"x"}`, `{"a":"x"}`, true},
		{`{"a":"\u0078"}`, `{"a":"x"}`, true},
		{`{"\u0061":"x"}`, `{"a":"x"}`, true},
		{`{"a":"x\ny"}`, `{"a":"x\u000ay"}`, true},
		{`{"a":"x"}`, `{"a":"X"}`, false},
		{`{"a":"x "}`, `{"a":"x"}`, false},
		{`{"a":1}`, `{"a":1}`, true},
		{`{"a":1}`, `{"a":1.0}`, true},
		{`{"a":100}`, `{"a":1e2}`, true},
		{`{"a":0.01}`, `{"a":1E-2}`, true},
		{`{"a":10e-1}`, `{"a":1}`, true},
		{`{"a":0}`, `{"a":-0.0e5}`, true},
		{`{"a":-1}`, `{"a":1}`, false},
		{`{"a":1}`, `{"a":10}`, false},
		{`{"a":9007199254740993}`, `{"a":9007199254740992}`, false},
		{`{"a":9007199254740993}`, `{"a":9007199254740993.000}`, true},
		{`{"a":0.1}`, `{"a":0.1000000000000000055511151231257827}`, false},
		{`{"a":1e999999999}`, `{"a":1e999999999}`, true},
		{`{"a":1e999999999}`, `{"a":10e999999998}`, false},
		{`{"a":true}`, `{"a":true}`, true},
		{`{"a":true}`, `{"a":false}`, false},
		{`{"a":1}`, `{"a":true}`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{"a":null}`, `{"a":"null"}`, false},
		{`{"a":["x"]}`, `{"a":"x"}`, false},
		{`{"a":{"b":"x"}}`, `{"b":"x"}`, false},
		{`{"x":{"a":[1,{"y":null}],"z":"}"},"a":"v"}`, `{"a":"v"}`, true},
		{`{"a":"x","a":"x"}`, `{"a":"x"}`, false},
		{`{"a":"x","b":1,"b":1}`, `{"a":"x"}`, true},
		{`{"a":"x","b":1}`, `{"b":1,"a":"x"}`, true},
		{`{"a":"x"}`, `{"a":"x","b":1}`, false},
		{``, `{"a":"x"}`, false},
		{`{}`, `{"a":"x"}`, false},
		{`{"a":"x"`, `{"a":"x"}`, false},
		{`{"a":"x",}`, `{"a":"x"}`, false},
		{`{"a":"x"} {}`, `{"a":"x"}`, false},
		{`[{"a":"x"}]`, `{"a":"x"}`, false},
		{`{` + manyAttributes(64) + `}`, `{` + manyAttributes(64) + `}`, true},
		{`{` + manyAttributes(63) + `}`, `{` + manyAttributes(64) + `}`, false},
	} {
		var r bodyReader
		r.reset([]byte(`{"key_id":"k","attributes":`+tt.asked+`}`), nil)
		var q question
		if err := r.verify(&q); err != nil {
			t.Fatal(err)
		}
		if got := haveAttributes(tt.has, q.attributes); got != tt.want {
			t.Errorf("a key with %.80s asked for %.80s: %v", tt.has, tt.asked, got)
		}
	}
}

func TestStringsAreEscaped(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain": `"plain"`, `a"b\c`: `"a\"b\\c"`, "\n\t\r\x00\x1f\x7f": `"\n\t\u000d\u0000\u001f` + "\x7f" + `"`,
		"é\u2028😀": `"é` + "\u2028" + `😀"`, "a\xffb\xc3": `"a\ufffdb\ufffd"`, "": `""`,
	} {
		if got := string(appendString(nil, in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		var back string
		if err := json.Unmarshal(appendString(nil, in), &back); err != nil || back != strings.ToValidUTF8(in, "\ufffd") {
			t.Errorf("%q: %q, %v", in, back, err)
		}
	}
}

func TestTimesAreWrittenLikeTheLayoutSays(t *testing.T) {
	t.Parallel()
	const layout = "2006-01-02T15:04:05.000Z"
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	times := []time.Time{
		{}, time.Unix(0, 0), time.Unix(-1, 999_999_999), time.Unix(0, 1_000_000), time.Unix(0, 999_999), time.Unix(1, 10_000_000), last,
		time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 12, 31, 0, 0, 0, 1e6, time.UTC), time.Date(-4713, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2024, 2, 29, 23, 59, 59, 123_456_789, time.FixedZone("east", 5*3600+1800)),
	}
	draw := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		times = append(times, time.UnixMicro(draw.Int64N(1<<58)-1<<57))
	}
	for _, at := range times {
		want := `"` + at.UTC().Format(layout) + `"`
		if at.After(last) {
			want = `"9999-12-31T23:59:59.999Z"`
		}
		if got := string(appendTime(nil, func() (time.Time, bool) { return at, true })); got != want {
			t.Errorf("%v: %s, want %s", at, got, want)
		}
	}
	for _, at := range []time.Time{last.Add(1), time.UnixMicro(math.MaxInt64 - 1)} {
		if got := string(appendTime(nil, func() (time.Time, bool) { return at, true })); got != `"9999-12-31T23:59:59.999Z"` {
			t.Errorf("%v: %s", at, got)
		}
	}
	if got := string(appendTime(nil, keystore.NewRecord(&keystore.Key{ID: "k"}).ExpiresAt)); got != "null" {
		t.Errorf("no time: %s", got)
	}
}
