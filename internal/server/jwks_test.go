package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// provokeKeySets makes each answer that only this route gives.
func provokeKeySets(s *service) {
	s.t.Helper()
	const target = "/v1/owners/m_1/jwks.json"
	a := s.do("GET", target, "")
	if a := s.do("GET", target, "", header("If-None-Match", a.header.Get("ETag"))); a.status != 304 {
		s.t.Errorf("%d", a.status)
	}
	s.keys.set(func(f *fakeKeys) { f.remote["m_1"] = true })
	if a := s.do("GET", target, "", header("Cache-Control", "only-if-cached")); a.status != 504 {
		s.t.Errorf("%d", a.status)
	}
	s.keys.set(func(f *fakeKeys) { clear(f.remote); f.reason = keystore.ReasonLeaseOver })
	if a := s.do("GET", target, ""); a.status != 503 {
		s.t.Errorf("%d", a.status)
	}
	s.keys.set(func(f *fakeKeys) { f.reason = "" })
	for i := range keystore.MaxSetKeys + 1 {
		s.keys.put(keystore.Key{ID: fmt.Sprintf("many_%d", i), OwnerID: "m_many", Algorithm: "ed25519", PublicKey: ed25519Key(s.t)})
	}
	if a := s.do("GET", "/v1/owners/m_many/jwks.json", ""); a.status != 409 {
		s.t.Errorf("%d", a.status)
	}
	if a := s.do("GET", "/v1/owners/m/many/jwks.json", ""); a.status != 404 || a.code() != "no_such_route" {
		s.t.Errorf("%d", a.status)
	}
}

// set returns the keys of an owner as a JOSE library reads them.
func (s *service) set(owner string, opts ...requestOption) *jose.JSONWebKeySet {
	s.t.Helper()
	a := s.do("GET", "/v1/owners/"+url.PathEscape(owner)+"/jwks.json", "", opts...)
	if a.status != 200 {
		s.t.Fatalf("%s: %d %s", owner, a.status, a.body)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(a.body, &set); err != nil {
		s.t.Fatal(err)
	}
	return &set
}

func spki(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A JOSE library finds each key by its kid and verifies with it.
func TestAJOSELibraryCannotUseASet(t *testing.T) {
	t.Parallel()
	s := start(t)
	_, edKey, err1 := ed25519.GenerateKey(rand.Reader)
	rsaKey, err2 := rsa.GenerateKey(rand.Reader, 2048)
	private := map[string]crypto.Signer{"ed": edKey, "rsa": rsaKey}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521(), "p224": elliptic.P224()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		private[name] = key
	}
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for id, key := range private {
		s.keys.put(keystore.Key{ID: id, OwnerID: "m_jose", Algorithm: "x", PublicKey: spki(t, key.Public())})
	}
	s.keys.put(keystore.Key{ID: "opaque", OwnerID: "m_jose", Algorithm: "opaque"})
	s.keys.put(keystore.Key{ID: "revoked", OwnerID: "m_jose", Algorithm: "x", PublicKey: ed25519Key(t), Revoked: true})
	set := s.set("m_jose")
	for id, alg := range map[string]jose.SignatureAlgorithm{"ed": jose.EdDSA, "rsa": jose.PS256, "p256": jose.ES256, "p384": jose.ES384, "p521": jose.ES512} {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: private[id], KeyID: id}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign([]byte("pay 5"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{alg})
		if err != nil {
			t.Fatal(err)
		}
		payload, err := parsed.Verify(set) // finds the key by the kid of the signature's head
		if err != nil || string(payload) != "pay 5" {
			t.Errorf("%s: %q %v", id, payload, err)
		}
		for _, k := range set.Key(id) {
			if !k.IsPublic() || !k.Valid() {
				t.Errorf("%s is not a public key", id)
			}
		}
	}
	if len(set.Keys) != 5 {
		t.Errorf("%d keys", len(set.Keys))
	}
	if a := s.do("GET", "/v1/owners/m_jose/jwks.json", ""); a.header.Get("Keysidecar-Left-Out") != "1" || strings.Contains(string(a.body), `"d"`) {
		t.Errorf("%v", a.header)
	}
}

func TestAnOwnerIsTakenForAnother(t *testing.T) {
	t.Parallel()
	s := start(t)
	for i, owner := range []string{`Ünï "q"`, "a/b", "a", "b", "%2F", "a b", "...", "jwks.json", "?", "m;x=1", strings.Repeat("x", 256)} {
		s.keys.put(keystore.Key{ID: fmt.Sprintf("k%d", i), OwnerID: owner, Algorithm: "ed25519", PublicKey: ed25519Key(t)})
		if set := s.set(owner); len(set.Keys) != 1 || set.Keys[0].KeyID != fmt.Sprintf("k%d", i) {
			t.Errorf("%q: %+v", owner, set)
		}
	}
	if set := s.set("m_nobody"); set.Keys == nil || len(set.Keys) != 0 {
		t.Errorf("an unknown owner: %+v", set)
	}
	for segment, want := range map[string]int{
		"": 400, ".": 400, "..": 400, "%2e%2E": 400, "%": 400, "%2": 400, "%zz": 400, "%00": 400, "a%0Ab": 400, "%7f": 400, "%ff": 400,
		strings.Repeat("x", 257): 400, "m_1?x": 404, "a/b": 404, "../status": 404, "m_1/jwks.json": 404, "a//": 404,
	} {
		target := "/v1/owners/" + segment + "/jwks.json"
		if a := s.do("GET", target, ""); a.status != want || want == 400 && a.code() != "bad_owner_id" {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	for _, target := range []string{"/v1/owners/m_1/jwks.json/", "/v1/owners/m_1/JWKS.json", "/v1/owners/m_1", "/v1/owners/", "/v1/owners/jwks.json"} {
		if a := s.do("GET", target, ""); a.status != 404 || a.code() != "no_such_route" {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	if a := s.do("GET", "/v1/owners/m_1/jwks.json?x", ""); a.status != 400 || a.code() != "unexpected_query" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.do("POST", "/v1/owners/m_1/jwks.json", `{}`); a.status != 405 || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

func TestAKeptSetIsUsedForTooLong(t *testing.T) {
	t.Parallel()
	s := start(t)
	const target = "/v1/owners/m_1/jwks.json"
	a := s.do("GET", target, "")
	tag := a.header.Get("ETag")
	if a.status != 200 || a.header.Get("Cache-Control") != "no-cache" || a.header.Get("Content-Type") != "application/jwk-set+json" ||
		a.header.Get("Keysidecar-Source") != "cache" || a.header.Get("Keysidecar-Left-Out") != "0" || len(tag) < 10 || strings.HasPrefix(tag, "W/") {
		t.Fatalf("%d %v", a.status, a.header)
	}
	for field, want := range map[string]int{
		tag: 304, "W/" + tag: 304, "*": 304, `"x", ` + tag: 304, `"x","y" ,W/"z" , ` + tag + ` , "q"`: 304, ", ," + tag: 304, `"a,b", ` + tag: 304,
		`"x"`: 200, strings.Trim(tag, `"`): 200, strings.TrimSuffix(tag, `"`): 200, strings.ToLower(tag) + "x": 200, "": 200, ",": 200, "w/" + tag: 200, `x, ` + tag: 200,
	} {
		for _, method := range []string{"GET", "HEAD"} {
			got := s.do(method, target, "", header("If-None-Match", field))
			if got.status != want || got.header.Get("ETag") != tag {
				t.Errorf("%s If-None-Match: %s: %d %v", method, field, got.status, got.header)
			}
			if got.status == 304 && (len(got.body) > 0 || got.header.Get("Content-Type") != "" || got.header.Get("Cache-Control") != "no-cache") {
				t.Errorf("304 with %v and %d bytes", got.header, len(got.body))
			}
		}
	}
	if got := s.do("GET", target, "", header("If-None-Match", `"x"`), header("If-None-Match", tag)); got.status != 304 {
		t.Errorf("two fields are one list: %d", got.status)
	}
	// The moment the key is gone, what was kept does not match any more.
	s.keys.set(func(f *fakeKeys) { k := f.keys["pk_live_1"]; k.Revoked = true; f.keys["pk_live_1"] = k })
	if got := s.do("GET", target, "", header("If-None-Match", tag)); got.status != 200 || string(got.body) != `{"keys":[]}` || got.header.Get("ETag") == tag {
		t.Errorf("%d %s", got.status, got.body)
	}
	// And what cannot be told never does: neither a set nor "not modified".
	s.keys.set(func(f *fakeKeys) { f.reason = keystore.ReasonLeaseOver })
	got := s.do("GET", target, "", header("If-None-Match", "*"))
	if got.status != 503 || got.code() != "unavailable" || got.header.Get("ETag") != "" || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Retry-After") == "" || strings.Contains(string(got.body), "keys\"") {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	s.keys.set(func(f *fakeKeys) { f.reason, f.stale = "", true })
	if got := s.do("GET", target, ""); got.header.Get("Keysidecar-Source") != "stale" {
		t.Errorf("%v", got.header)
	}
	if got := s.do("GET", "/v1/keys/pk_revoked", ""); got.header.Get("Cache-Control") != "no-store" { // on the same connection
		t.Errorf("%v", got.header)
	}
}

func TestASetIsNotAcceptableToALibrary(t *testing.T) {
	t.Parallel()
	s := start(t)
	for accept, want := range map[string]string{
		"":    "application/jwk-set+json",
		"*/*": "application/jwk-set+json",
		"application/jwk-set+json, application/json":                  "application/jwk-set+json", // jose for Node
		"application/json, application/jwk-set+json":                  "application/jwk-set+json", // Spring
		"application/json":                                            "application/json",
		"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2":        "application/jwk-set+json", // Java's URLConnection
		"text/html, image/gif, image/jpeg, */*; q=0.2":                "application/jwk-set+json",
		"application/json;q=1, application/jwk-set+json;q=0, */*;q=0": "application/json",
	} {
		a := s.do("GET", "/v1/owners/m_1/jwks.json", "", func(r *http.Request) {
			if accept != "" {
				r.Header.Set("Accept", accept)
			}
		})
		if a.status != 200 || a.header.Get("Content-Type") != want {
			t.Errorf("%s: %d %s", accept, a.status, a.header.Get("Content-Type"))
		}
	}
	if a := s.do("GET", "/v1/owners/m_1/jwks.json", "", header("Accept", "application/jwk+json")); a.status != 406 {
		t.Errorf("%d", a.status)
	}
}

// A large set is whole, or there is none.
func TestALargeSetIsAnsweredInPart(t *testing.T) {
	t.Parallel()
	s := start(t)
	for i := range keystore.MaxSetKeys {
		s.keys.put(keystore.Key{ID: fmt.Sprintf("many_%04d", i), OwnerID: "m_many", Algorithm: "ed25519", PublicKey: ed25519Key(t)})
	}
	set := s.set("m_many")
	if len(set.Keys) != keystore.MaxSetKeys || !slices.IsSortedFunc(set.Keys, func(a, b jose.JSONWebKey) int { return strings.Compare(a.KeyID, b.KeyID) }) {
		t.Errorf("%d keys", len(set.Keys))
	}
	s.keys.put(keystore.Key{ID: "many_one_more", OwnerID: "m_many", Algorithm: "ed25519", PublicKey: ed25519Key(t)})
	a := s.do("GET", "/v1/owners/m_many/jwks.json", "", header("If-None-Match", "*"))
	if a.status != 409 || a.code() != "set_too_large" || a.header.Get("ETag") != "" || strings.Contains(string(a.body), "kid") {
		t.Errorf("%d %s", a.status, a.body)
	}
	s.mustServe()
}
