package client_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a sidecar that is strict about what it is asked: whatever the contract does
// not have fails the test.
type fake struct {
	t testing.TB

	mu     sync.Mutex
	keys   keyFile
	silent bool
}

func startFake(t testing.TB) *target {
	t.Helper()
	f := &fake{t: t, keys: sampleKeys()}
	return &target{
		address: serveUnix(t, f),
		change: func(k keyFile) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.keys = k
		},
		silence: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.silent = true
		},
	}
}

var keyIDForm = regexp.MustCompile(`^[A-Za-z0-9._~+=:-]{1,256}$`)

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Errorf("the body: %v", err)
	}
	if r.Host != "localhost" || r.TransferEncoding != nil || strings.Contains(r.RequestURI, "?") || r.ProtoMinor != 1 {
		f.t.Errorf("an odd request: %s %s of %s, %v", r.Method, r.RequestURI, r.Host, r.TransferEncoding)
	}
	for name := range r.Header {
		if !slices.Contains([]string{"Content-Type", "Content-Length", "Cache-Control"}, name) {
			f.t.Errorf("the field %s is sent: %q", name, r.Header[name])
		}
	}
	noCache := f.cacheControl(r.Header["Cache-Control"])
	id, isLookup := strings.CutPrefix(r.RequestURI, "/v1/keys/")
	switch {
	case isLookup:
		if r.Method != http.MethodGet || len(body) > 0 || !keyIDForm.MatchString(id) || id == "." || id == ".." {
			f.t.Errorf("%s %s with %d bytes", r.Method, r.RequestURI, len(body))
		}
		v := f.verdict(&fakeQuestion{KeyID: id}, noCache)
		statuses := map[string]int{"active": 200, "revoked": 410, "expired": 410, "unknown_key": 404, "unavailable": 503}
		status, ok := statuses[v["code"].(string)]
		if !ok {
			status = 403
		}
		write(w, status, v)
	case r.RequestURI == "/v1/verify":
		f.post(r)
		v := f.verdict(f.question(body), noCache)
		switch v["code"] {
		case "active":
			write(w, 200, v)
		case "unavailable":
			write(w, 503, v)
		default:
			write(w, 403, v)
		}
	case r.RequestURI == "/v1/verify/batch":
		f.post(r)
		write(w, 200, map[string]any{"verdicts": f.batch(body, noCache)})
	default:
		f.t.Errorf("%s %s is none of the contract's routes", r.Method, r.RequestURI)
	}
}

func (f *fake) cacheControl(fields []string) (noCache bool) {
	for _, c := range fields {
		if !regexp.MustCompile(`^(no-cache|only-if-cached|max-age=\d+)(, (only-if-cached|max-age=\d+))*$`).MatchString(c) {
			f.t.Errorf("Cache-Control: %s", c)
		}
		noCache = noCache || strings.Contains(c, "no-cache") || strings.HasSuffix(c, "max-age=0")
	}
	return noCache
}

func (f *fake) post(r *http.Request) {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || r.ContentLength <= 0 {
		f.t.Errorf("%s %s as %q, %d bytes", r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.ContentLength)
	}
}

type fakeQuestion struct {
	KeyID      string         `json:"key_id"`
	Key        string         `json:"key"`
	OwnerID    string         `json:"owner_id"`
	Scopes     []string       `json:"scopes"`
	Attributes map[string]any `json:"attributes"`
}

// question reads a body as strictly as the sidecar does.
func (f *fake) question(body []byte) *fakeQuestion {
	q := &fakeQuestion{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(q); err != nil || d.More() {
		f.t.Errorf("the body: %v: %s", err, body)
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(body, &members)
	for name, value := range members {
		if slices.Contains([]string{`null`, `""`, `[]`, `{}`}, string(value)) {
			f.t.Errorf("%s is empty: %s", name, body)
		}
	}
	if (q.KeyID == "") == (q.Key == "") || q.KeyID != "" && !keyIDForm.MatchString(q.KeyID) {
		f.t.Errorf("which key: %s", body)
	}
	return q
}

func (f *fake) batch(body []byte, noCache bool) []map[string]any {
	var b struct {
		Requests []json.RawMessage `json:"requests"`
		Partial  bool              `json:"partial"`
	}
	if err := json.Unmarshal(body, &b); err != nil || len(b.Requests) == 0 || len(b.Requests) > 1000 || !b.Partial {
		f.t.Errorf("a batch: %v: %s", err, body)
	}
	var verdicts []map[string]any
	for _, r := range b.Requests {
		verdicts = append(verdicts, f.verdict(f.question(r), noCache))
	}
	return verdicts
}

func (f *fake) verdict(q *fakeQuestion, noCache bool) map[string]any {
	id := q.KeyID
	if q.Key != "" {
		sum := sha256.Sum256([]byte(q.Key))
		id = "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	v := map[string]any{"valid": false, "key_id": id, "as_of": map[string]any{"history": "f", "seq": 7, "age_ms": 1}, "source": "cache"}
	if noCache {
		v["source"] = "database"
	}
	i := slices.IndexFunc(f.keys.Keys, func(k testKey) bool { return k.KeyID == id })
	switch {
	case f.silent:
		v["code"], v["as_of"], v["source"] = "unavailable", nil, nil
	case i < 0:
		v["code"] = "unknown_key"
	default:
		if v["code"] = f.judge(&f.keys.Keys[i], q); v["code"] == "active" {
			k := f.keys.Keys[i]
			v["valid"], v["owner_id"], v["algorithm"], v["public_key"] = true, k.OwnerID, k.Algorithm, k.PublicKey
			v["scopes"], v["not_before"], v["expires_at"], v["attributes"] = append([]string{}, k.Scopes...), k.NotBefore, k.ExpiresAt, map[string]any{}
			if k.Attributes != nil {
				v["attributes"] = k.Attributes
			}
		}
	}
	return v
}

func (f *fake) judge(k *testKey, q *fakeQuestion) string {
	suspended := slices.ContainsFunc(f.keys.Owners, func(o testOwner) bool { return o.OwnerID == k.OwnerID && o.SuspendedAt != nil })
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case suspended:
		return "owner_suspended"
	case k.ExpiresAt != nil && k.ExpiresAt.Before(time.Now()):
		return "expired"
	case k.NotBefore != nil && k.NotBefore.After(time.Now()):
		return "not_yet_valid"
	case q.OwnerID != "" && q.OwnerID != k.OwnerID:
		return "owner_mismatch"
	}
	for _, s := range q.Scopes {
		if !slices.Contains(k.Scopes, s) {
			return "scope_missing"
		}
	}
	for name, value := range q.Attributes {
		if k.Attributes[name] != value {
			return "attribute_mismatch"
		}
	}
	return "active"
}

func write(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
