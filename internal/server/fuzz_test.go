package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// FuzzDecodeKeyID holds the decoding of a path segment against net/url: what is
// taken is exactly what one unescaping gives, and a key_id.
func FuzzDecodeKeyID(f *testing.F) {
	for _, s := range []string{"pk_live_1", "%70k", "a%2Fb", "..%2Fstatus", "%", "%2", "%zz", "%252e", "\xff", "%ff", ".", "%2e%2E", "", "a+b", "é", strings.Repeat("%6b", 257)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, segment []byte) {
		before := bytes.Clone(segment)
		id, err := decodeKeyID(segment, make([]byte, 0, 8))
		if !bytes.Equal(before, segment) {
			t.Fatal("the segment was changed")
		}
		want, urlErr := url.PathUnescape(string(segment))
		ok := urlErr == nil && keystore.CheckKeyID(want) == nil
		if (err == nil) != ok {
			t.Fatalf("%q: %q, %v; net/url has %q, %v", segment, id, err, want, urlErr)
		}
		if ok && string(id) != want {
			t.Fatalf("%q: %q, want %q", segment, id, want)
		}
		var p *problem
		if err != nil && (!errors.As(err, &p) || p.code != "bad_key_id" || !utf8.ValidString(p.detail)) {
			t.Fatalf("%q: %v", segment, err)
		}
	})
}

// FuzzRoute: no target reaches a route but by its very bytes.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"/v1/keys/x", "/v1/keys/", "/v1/keys/../status", "/v1/verify", "/v1/verify/batch", "//v1/status", "/v1/status?x", "*", "/v1/%73tatus", "", "/v1/authz", "/v1/authz/../keys/x?y", "/v1/authz-policy/p/q", "/v1/authzx", "/v1/owners/m/jwks.json", "/v1/owners//jwks.json", "/v1/owners/jwks.json", "/v1/owners/a/b/jwks.json"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, target []byte) {
		r, rest, err := routeOf(target)
		if err != nil {
			return
		}
		if r.gateway {
			path, _, _ := strings.Cut(string(target), "?")
			if path != r.path+string(rest) || len(rest) > 0 && rest[0] != '/' || !gatewayTarget(target) {
				t.Fatalf("%q reaches %s with %q", target, r.path, rest)
			}
		} else if r.rest {
			if string(target) != r.path+string(rest)+r.suffix || bytes.ContainsAny(rest, "/?") {
				t.Fatalf("%q reaches %s with %q", target, r.path, rest)
			}
		} else if string(target) != r.path {
			t.Fatalf("%q reaches %s", target, r.path)
		}
	})
}

// FuzzVerifyBody holds the strict reader against encoding/json: whatever it
// takes is JSON of the same meaning, and holds no member that it did not read.
func FuzzVerifyBody(f *testing.F) {
	for _, b := range badBodies {
		f.Add([]byte(b.body))
	}
	for _, b := range []string{
		`{"key_id":"pk_live_1","owner_id":"m_1","scopes":["a","b"],"attributes":{"a":"x","b":1.5e3,"c":true,"d":false}}`,
		`{"key":"sk\u005f\ud83d\ude00"}`, `{"attributes":{"":-0},"key_id":"\u0061"}`,
	} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var r bodyReader
		var q question
		r.reset(bytes.Clone(body), nil)
		err := r.verify(&q)
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.status != 400 || p.code == "" {
				t.Fatalf("%q: %v", body, err)
			}
			if !json.Valid(appendProblem(nil, p)) {
				t.Fatalf("%q: the problem is not JSON: %s", body, appendProblem(nil, p))
			}
			return
		}
		var want struct {
			KeyID      *string        `json:"key_id"`
			Key        *string        `json:"key"`
			OwnerID    *string        `json:"owner_id"`
			Scopes     []string       `json:"scopes"`
			Attributes map[string]any `json:"attributes"`
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("%q was taken, but is not JSON: %v", body, err)
		}
		id := ""
		if want.Key != nil {
			id = keystore.HashSecret(nil, []byte(*want.Key))
		} else if want.KeyID != nil {
			id = *want.KeyID
		}
		if string(q.keyID) != id || keystore.CheckKeyID(id) != nil {
			t.Fatalf("%q: key_id %q, want %q", body, q.keyID, id)
		}
		if want.OwnerID != nil && *want.OwnerID != string(q.ownerID) || want.OwnerID == nil && len(q.ownerID) > 0 {
			t.Fatalf("%q: owner_id %q", body, q.ownerID)
		}
		if len(want.Scopes) != len(q.scopes) || len(want.Attributes) != len(q.attributes) {
			t.Fatalf("%q: %d scopes, %d attributes", body, len(q.scopes), len(q.attributes))
		}
		for i, s := range want.Scopes {
			if s != string(q.scopes[i]) {
				t.Fatalf("%q: scope %q", body, q.scopes[i])
			}
		}
		// A key that has just what was asked for passes; so does its re-encoding.
		if len(want.Attributes) > 0 {
			object, err := json.Marshal(want.Attributes)
			if err != nil {
				t.Fatal(err)
			}
			if !haveAttributes(string(object), q.attributes) {
				t.Fatalf("%q: a key with %s does not match", body, object)
			}
		}
	})
}

// FuzzBatchBody: a batch is read without panic, and refused with a problem.
func FuzzBatchBody(f *testing.F) {
	f.Add([]byte(`{"requests":[{"key_id":"pk_live_1"},{"key":"x","scopes":["a"]}],"partial":true}`))
	f.Add([]byte(`{"requests":[{"key_id":"pk_live_1"},{"key_id":"pk_none","ownerId":1}]}`))
	f.Add([]byte(`{"requests":[],"partial":null}`))
	d := &Data{keys: newFakeKeys(f)}
	var err error
	if d.metrics, err = newMetrics(nopRegisterer{}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		x := &exchange{ctx: t.Context()}
		b := new(batch)
		x.body.reset(bytes.Clone(body), nil)
		if err := d.readBatch(x, b); err != nil {
			var p *problem
			if !errors.As(err, &p) || p.status != 400 && p.status != 413 {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if err := d.askLate(x, b); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		var answer struct{ Verdicts []struct{ Code string } }
		if err := json.Unmarshal(append(b.assemble(x.out), "]}"...), &answer); err != nil || len(answer.Verdicts) != b.n {
			t.Fatalf("%q: %v, %d verdicts for %d requests", body, err, len(answer.Verdicts), b.n)
		}
	})
}

// FuzzHaveAttributes holds the comparison of attributes against encoding/json.
func FuzzHaveAttributes(f *testing.F) {
	f.Add(`{"a":"x","b":1}`, `{"a":"x"}`)
	f.Add(`{"a":1e2,"z":{"y":[1,2,{}]}}`, `{"a":100}`)
	f.Add(`{"a":1,"a":1}`, `{"a":1}`)
	f.Fuzz(func(t *testing.T, has, asked string) {
		var r bodyReader
		var q question
		r.reset([]byte(`{"key_id":"k","attributes":`+asked+`}`), nil)
		if r.verify(&q) != nil || !haveAttributes(has, q.attributes) {
			return
		}
		var object map[string]any
		if !utf8.ValidString(has) || json.Unmarshal([]byte(has), &object) != nil {
			t.Fatalf("%q matches and is no JSON object", has)
		}
		for _, a := range q.attributes {
			v, ok := object[string(a.name)]
			if !ok {
				t.Fatalf("%q has no %q", has, a.name)
			}
			if s, isString := v.(string); isString != (a.kind == kindString) || isString && s != string(a.value) {
				t.Fatalf("%q: %q is %v", has, a.name, v)
			}
			if b, isBool := v.(bool); isBool != (a.kind == kindBool) || isBool && b != (string(a.value) == "true") {
				t.Fatalf("%q: %q is %v", has, a.name, v)
			}
		}
	})
}

func FuzzCacheControl(f *testing.F) {
	for _, s := range append([]string{"no-cache, max-age=5", `max-age="7", x="a\"b"`, ",,only-if-cached"}, badCacheControls...) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, field []byte) {
		b, err := parseCacheControl(field)
		if err != nil {
			if b != (keystore.Bounds{}) {
				t.Fatalf("%q: bounds with an error", field)
			}
			return
		}
		if b.MaxAge < 0 || b.MaxAge != 0 && !b.HasMaxAge {
			t.Fatalf("%q: %+v", field, b)
		}
		// An empty element and a directive it does not know change nothing.
		if again, err := parseCacheControl(append(bytes.Clone(field), `, ,x="y"`...)); err != nil || again != b {
			t.Fatalf("%q: %+v, then %+v, %v", field, b, again, err)
		}
	})
}

func FuzzAccept(f *testing.F) {
	for _, s := range []string{"", "*/*", "application/json;q=0.5, application/*;q=0.1", `text/plain;a="b,c";q=1`, ";;,,q=", "application/json;q=1.001"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, field []byte) {
		for _, q := range parseAccept(field) {
			if q < 0 || q > 1000 {
				t.Fatalf("%q: weight %d", field, q)
			}
		}
		h := headers{accept: field, hasAccept: true}
		offered := setOf(mediaJWK, mediaPEM)
		if media, ok := h.negotiate(offered); ok && !offered.has(media) {
			t.Fatalf("%q: %v was not offered", field, media)
		}
	})
}

// FuzzHeaders: the fields are read as they stand, whatever the rest is.
func FuzzHeaders(f *testing.F) {
	f.Add([]byte("Host: x\r\nAccept: a\r\naccept: b\r\nConnection: x, close\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Only what the framer lets pass gets here.
		message := append([]byte("GET / HTTP/1.0\r\n"), raw...)
		if fr, _, bad := feedAll(message, len(message)); bad != nil || fr.ended != 1 || !fr.between() {
			return
		}
		var h headers
		h.read(raw)
		if h.host != nil && !bytes.Contains(bytes.ToLower(raw), []byte("host:")) {
			t.Fatalf("%q: host %q", raw, h.host)
		}
	})
}
