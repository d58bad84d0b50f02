package server

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// liveKey is the private half of pk_live_1: RFC 8032, 7.1, test 1.
func liveKey(tb testing.TB) ed25519.PrivateKey {
	seed, err := hex.DecodeString("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	if err != nil {
		tb.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

const liveThumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" // RFC 8037, A.3

// moreKeys are pairs that take a while to make. Read-only.
var moreKeys = sync.OnceValues(func() (*ecdsa.PrivateKey, *rsa.PrivateKey) {
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return e, r
})

func spkiOf(tb testing.TB, public any) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// b64 is standard base64 with padding.
func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// signedBody is a question about a message signed by pk_live_1.
func signedBody(tb testing.TB, message string, members ...string) string {
	body := fmt.Sprintf(`"algorithm":"ed25519","message":"%s","signature":"%s"`, b64([]byte(message)), b64(ed25519.Sign(liveKey(tb), []byte(message))))
	return "{" + strings.Join(append(members, body), ",") + "}"
}

// liveJWS is a compact JWS by pk_live_1.
func liveJWS(tb testing.TB, header, payload string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(liveKey(tb), []byte(input)))
}

func TestVerifyDecidesSignatures(t *testing.T) {
	t.Parallel()
	s := start(t)
	ec, rs := moreKeys()
	add := func(id, algorithm string, public any) {
		k := keystore.Key{ID: id, OwnerID: "m_1", Algorithm: algorithm}
		if public != nil {
			k.PublicKey = spkiOf(t, public)
		}
		s.keys.put(k)
	}
	add("ec", "ecdsa-p256", ec.Public())
	add("ec_named", "ES256", ec.Public())
	add("ec_as_rsa", "rsa", ec.Public())
	add("ec_odd", "my own words", ec.Public())
	add("rsa", "rsa", rs.Public())
	add("rsa_pss", "rsa-pss-sha256", rs.Public())
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	add("weak", "rsa", weak.Public())

	message := []byte("amount=10&to=m_2")
	digest := sha256.Sum256(message)
	asn, err := ecdsa.SignASN1(rand.Reader, ec, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	r, sv, err := ecdsa.Sign(rand.Reader, ec, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	raw := append(r.FillBytes(make([]byte, 32)), sv.FillBytes(make([]byte, 32))...)
	v15, err := rsa.SignPKCS1v15(rand.Reader, rs, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	pss, err := rsa.SignPSS(rand.Reader, rs, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		t.Fatal(err)
	}
	weakSig, err := rsa.SignPKCS1v15(rand.Reader, weak, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	ed := ed25519.Sign(liveKey(t), message)
	ask := func(key, algorithm string, sig []byte) string {
		return fmt.Sprintf(`{"key_id":"%s","algorithm":"%s","message":"%s","signature":"%s"}`, key, algorithm, b64(message), b64(sig))
	}
	askDigest := func(key, algorithm string, sig []byte) string {
		return fmt.Sprintf(`{"key_id":"%s","algorithm":"%s","digest":"%s","signature":"%s"}`, key, algorithm, b64(digest[:]), b64(sig))
	}
	jws := func(key, jws string, more string) string {
		return fmt.Sprintf(`{"key_id":"%s","jws":"%s"%s}`, key, jws, more)
	}
	goodJWS := liveJWS(t, `{"alg":"EdDSA"}`, string(message))
	parts := strings.Split(goodJWS, ".")
	detached := parts[0] + ".." + parts[2]
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{ask("pk_live_1", "ed25519", ed), 200, "active"},
		{strings.Replace(ask("pk_live_1", "ed25519", ed), `{`, `{"owner_id":"m_1","scopes":["pay"],"attributes":{"env":"live"},`, 1), 200, "active"},
		{strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(ask("pk_live_1", "ed25519", ed)), 200, "active"},
		{strings.NewReplacer("+", "-", "/", "_").Replace(ask("pk_live_1", "ed25519", ed)), 200, "active"},
		{strings.NewReplacer("/", `\/`).Replace(ask("pk_live_1", "ed25519", ed)), 200, "active"},
		{ask("ec", "ecdsa-p256-sha256-asn1", asn), 200, "active"},
		{ask("ec", "ecdsa-p256-sha256", raw), 200, "active"},
		{ask("ec_named", "ecdsa-p256-sha256", raw), 200, "active"},
		{askDigest("ec", "ecdsa-p256-sha256-asn1", asn), 200, "active"},
		{ask("rsa", "rsa-v1_5-sha256", v15), 200, "active"},
		{ask("rsa", "rsa-pss-sha256", pss), 200, "active"},
		{askDigest("rsa", "rsa-pss-sha256", pss), 200, "active"},
		{ask("rsa_pss", "rsa-pss-sha256", pss), 200, "active"},
		{jws("pk_live_1", goodJWS, ""), 200, "active"},
		{jws("pk_live_1", detached, `,"message":"`+b64(message)+`"`), 200, "active"},

		{ask("pk_live_1", "ed25519", append(slices.Clone(ed), 0)), 403, "signature_invalid"},
		{ask("pk_live_1", "ed25519", ed[:63]), 403, "signature_invalid"},
		{ask("pk_live_1", "ed25519", make([]byte, 64)), 403, "signature_invalid"},
		{ask("ec", "ecdsa-p256-sha256", asn), 403, "signature_invalid"},
		{ask("ec", "ecdsa-p256-sha256-asn1", raw), 403, "signature_invalid"},
		{ask("rsa", "rsa-v1_5-sha256", pss), 403, "signature_invalid"},
		{ask("rsa", "rsa-v1_5-sha384", v15), 403, "signature_invalid"},
		{ask("rsa", "rsa-pss-sha256", make([]byte, 1025)), 403, "signature_invalid"},
		// What cannot be a signature comes from the signer, too.
		{strings.Replace(ask("pk_live_1", "ed25519", ed), `"signature":"`, `"signature":"!`, 1), 403, "signature_invalid"},
		{strings.Replace(ask("pk_live_1", "ed25519", ed), `"signature":"`, `"signature":"\n`, 1), 403, "signature_invalid"},
		{strings.Replace(ask("pk_live_1", "ed25519", ed), `=="}`, `="}`, 1), 403, "signature_invalid"},
		{jws("pk_live_1", "x", ""), 403, "signature_invalid"},
		{jws("pk_live_1", strings.Repeat("x", maxJWS+1), ""), 403, "signature_invalid"},
		{jws("pk_live_1", liveJWS(t, `{"alg":"none"}`, "x"), ""), 403, "signature_invalid"},
		{jws("pk_live_1", liveJWS(t, `{"alg":"EdDSA","crit":["x"],"x":1}`, "x"), ""), 403, "signature_invalid"},
		{jws("pk_live_1", liveJWS(t, `{"alg":"EdDSA","jwk":{}}`, "x"), ""), 403, "signature_invalid"},
		{jws("pk_live_1", liveJWS(t, `{"alg":"ES256"}`, "x"), ""), 403, "signature_invalid"},
		{jws("ec", goodJWS, ""), 403, "signature_invalid"},
		{jws("pk_live_1", detached, ""), 403, "signature_invalid"},
		{jws("pk_live_1", goodJWS, `,"message":"`+b64(message)+`"`), 403, "signature_invalid"},

		{ask("ec", "ed25519", ed), 403, "algorithm_mismatch"},
		{ask("pk_live_1", "ecdsa-p256-sha256-asn1", asn), 403, "algorithm_mismatch"},
		{ask("ec", "ecdsa-p384-sha384-asn1", asn), 403, "algorithm_mismatch"},
		{ask("rsa_pss", "rsa-v1_5-sha256", v15), 403, "algorithm_mismatch"},
		{ask("ec_as_rsa", "ecdsa-p256-sha256-asn1", asn), 403, "algorithm_mismatch"},
		{ask("ec_odd", "ecdsa-p256-sha256-asn1", asn), 403, "algorithm_mismatch"},
		{jws("ec_odd", goodJWS, ""), 403, "algorithm_mismatch"},
		{ask("weak", "rsa-v1_5-sha256", weakSig), 403, "algorithm_mismatch"},
		{ask("opaque~+=:-._1", "ed25519", ed), 403, "algorithm_mismatch"},
		{jws("opaque~+=:-._1", goodJWS, ""), 403, "algorithm_mismatch"},

		// The key's own state, its owner, scopes and attributes come first.
		{ask("pk_revoked", "ed25519", ed), 403, "revoked"},
		{ask("pk_expired", "ed25519", ed), 403, "expired"},
		{ask("pk_future", "ed25519", ed), 403, "not_yet_valid"},
		{ask("pk_suspended", "ed25519", ed), 403, "owner_suspended"},
		{ask("pk_none", "ed25519", ed), 403, "unknown_key"},
		{strings.Replace(ask("pk_live_1", "ed25519", ed), `{`, `{"owner_id":"m_2",`, 1), 403, "owner_mismatch"},
		{strings.Replace(ask("pk_live_1", "ed25519", ed[:3]), `{`, `{"scopes":["admin"],`, 1), 403, "scope_missing"},
	} {
		a := s.do("POST", "/v1/verify", tt.body)
		m := a.json(t)
		if a.status != tt.status || a.code() != tt.code || m["valid"] != (tt.code == "active") {
			t.Errorf("%.300s: %d %s, want %d %s", tt.body, a.status, a.body, tt.status, tt.code)
		}
		if thumbprint, _ := m["thumbprint"].(string); (len(thumbprint) == 43) != (tt.code == "active") {
			t.Errorf("%.300s: thumbprint %q", tt.body, thumbprint)
		}
	}
	if a := s.do("POST", "/v1/verify", ask("pk_live_1", "ed25519", ed)); a.json(t)["thumbprint"] != liveThumbprint {
		t.Errorf("%s", a.body)
	}
	for _, result := range []string{"valid", "invalid", "mismatch"} {
		if s.metric("keysidecar_signatures_total", "form", "signature", "result", result) < 8 {
			t.Errorf("%s ones are not counted", result)
		}
	}
	if s.metric("keysidecar_signatures_total", "form", "jws", "result", "valid") != 2 || s.metric("keysidecar_signature_seconds") == 0 {
		t.Error("not counted")
	}
}

// A question that asks for a signature and would not be answered by one is an error:
// a check must not be skipped silently.
var badSignedBodies = []struct{ members, code, member string }{
	{`"signature":"AAAA"`, "missing_member", "algorithm"},
	{`"algorithm":"ed25519"`, "missing_member", "signature"},
	{`"message":"AAAA"`, "missing_member", "signature"},
	{`"digest":"AAAA"`, "missing_member", "signature"},
	{`"signature":"AAAA","algorithm":"ed25519"`, "missing_member", "message"},
	{`"signature":"AAAA","algorithm":"rsa-pss-sha256","message":"AAAA","digest":"AAAA"`, "bad_member", "digest"},
	{`"signature":"AAAA","algorithm":"rsa-pss-sha256","digest":"AAAA"`, "bad_member", "digest"},
	{`"signature":"AAAA","algorithm":"ed25519","digest":"AAAA"`, "bad_member", "digest"},
	{`"signature":"AAAA","algorithm":"EdDSA","message":"AAAA"`, "bad_member", "algorithm"},
	{`"signature":"AAAA","algorithm":"none","message":"AAAA"`, "bad_member", "algorithm"},
	{`"signature":"AAAA","algorithm":"ED25519","message":"AAAA"`, "bad_member", "algorithm"},
	{`"signature":"AAAA","algorithm":"ed25519","message":"AAA!"`, "bad_member", "message"},
	{`"signature":"AAAA","algorithm":"ed25519","message":"AAAB="`, "bad_member", "message"},
	{`"signature":"AAAA","algorithm":"ed25519","message":"AAB"`, "bad_member", "message"}, // bits left over
	{`"signature":"AAAA","algorithm":"ed25519","message":"AAAAA"`, "bad_member", "message"},
	{`"signature":"AAAA","algorithm":"ed25519","message":"AAA+AA-_"`, "bad_member", "message"},
	{`"signature":"AAAA","algorithm":"ed25519","message":"AAAA\nAAAA"`, "bad_member", "message"},
	{`"signature":"AAAA","algorithm":"ed25519","message":"` + strings.Repeat("A", (maxMessage+3)/3*4+4) + `"`, "bad_member", "message"},
	{`"signature":"AAAA","algorithm":"ed25519","message":""`, "bad_member", "message"},
	{`"signature":"","algorithm":"ed25519","message":"AAAA"`, "bad_member", "signature"},
	{`"signature":null,"algorithm":"ed25519","message":"AAAA"`, "bad_member", "signature"},
	{`"signature":["AAAA"],"algorithm":"ed25519","message":"AAAA"`, "bad_member", "signature"},
	{`"signature":"AAAA","signature":"AAAA"`, "duplicate_member", "signature"},
	{`"sig":"AAAA"`, "unknown_member", "sig"},
	{`"jws":""`, "bad_member", "jws"},
	{`"jws":7`, "bad_member", "jws"},
	{`"jws":"a.b.c","signature":"AAAA"`, "bad_member", "jws"},
	{`"jws":"a.b.c","algorithm":"ed25519"`, "bad_member", "jws"},
	{`"jws":"a.b.c","digest":"AAAA"`, "bad_member", "jws"},
	{`"digest":"` + strings.Repeat("A", 92) + `"`, "bad_member", "digest"},
}

func TestAHalfAskedSignatureIsAnError(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, tt := range badSignedBodies {
		for _, key := range []string{"pk_live_1", "pk_revoked"} {
			a := s.do("POST", "/v1/verify", `{"key_id":"`+key+`",`+tt.members+`}`)
			if m := a.json(t); a.status != 400 || a.code() != tt.code || m["member"] != tt.member {
				t.Errorf("%.200s: %d %s, want %s of %s", tt.members, a.status, a.body, tt.code, tt.member)
			}
		}
	}
	if a := s.do("POST", "/v1/verify", signedBody(t, "x", `"key":"sk_secret"`)); a.status != 400 || a.json(t)["member"] != "key" {
		t.Errorf("with a secret: %d %s", a.status, a.body)
	}
	if n := s.keys.callCount(); n != 0 {
		t.Errorf("%d look-ups", n)
	}
	a := s.do("POST", "/v1/verify/batch", `{"requests":[{"key_id":"pk_live_1"},`+signedBody(t, "x", `"key_id":"pk_live_1"`)+`]}`)
	if a.status != 400 || a.json(t)["member"] != "requests[1].signature" {
		t.Errorf("in a batch: %d %s", a.status, a.body)
	}
}

// asked is a question under way.
func (s *service) asked(body string, opts ...requestOption) <-chan *answer {
	done := make(chan *answer, 1)
	go func() { done <- s.do("POST", "/v1/verify", body, opts...) }()
	return done
}

// occupy takes all slots, as if signatures were being computed in them.
func (s *service) occupy() (free func()) {
	for range cap(s.data.verifiers.slots) {
		s.data.verifiers.slots <- struct{}{}
	}
	return func() {
		for range cap(s.data.verifiers.slots) {
			s.data.verifiers.leave()
		}
	}
}

// Whatever happens while a signature waits and is computed counts: the verdict is that
// of a look-up made behind it.
func TestAVerdictOnASignatureIsNotOlderThanTheSignature(t *testing.T) {
	t.Parallel()
	s := start(t)
	good := s.keys.keys["pk_live_1"]
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		happens func(*fakeKeys)
		status  int
		code    string
	}{
		"nothing":         {func(*fakeKeys) {}, 200, "active"},
		"revoked":         {func(f *fakeKeys) { f.keys["pk_live_1"] = with(good, func(k *keystore.Key) { k.Revoked = true }) }, 403, "revoked"},
		"deleted":         {func(f *fakeKeys) { delete(f.keys, "pk_live_1") }, 403, "unknown_key"},
		"expired":         {func(f *fakeKeys) { f.keys["pk_live_1"] = with(good, func(k *keystore.Key) { k.ExpiresAt = f.now }) }, 403, "expired"},
		"owner suspended": {func(f *fakeKeys) { f.keys["pk_live_1"] = with(good, func(k *keystore.Key) { k.OwnerSuspended = true }) }, 403, "owner_suspended"},
		"scope taken":     {func(f *fakeKeys) { f.keys["pk_live_1"] = with(good, func(k *keystore.Key) { k.Scopes = nil }) }, 403, "scope_missing"},
		"lease over":      {func(f *fakeKeys) { f.reason = keystore.ReasonLeaseOver }, 503, "unavailable"},
		"replaced by another": {func(f *fakeKeys) {
			f.keys["pk_live_1"] = with(good, func(k *keystore.Key) { k.PublicKey = spkiOf(t, other) })
		}, 403, "signature_invalid"},
		"replaced by a secret":  {func(f *fakeKeys) { f.keys["pk_live_1"] = with(good, func(k *keystore.Key) { k.PublicKey = nil }) }, 403, "algorithm_mismatch"},
		"the algorithm changed": {func(f *fakeKeys) { f.keys["pk_live_1"] = with(good, func(k *keystore.Key) { k.Algorithm = "opaque" }) }, 403, "algorithm_mismatch"},
		"another's record":      {func(f *fakeKeys) { f.swap = "pk_expired" }, 403, "expired"},
	} {
		for _, cacheControl := range []string{"", "no-cache", "max-age=1"} {
			s.keys.set(func(f *fakeKeys) { f.keys["pk_live_1"], f.reason, f.swap = good, "", "" })
			free := s.occupy()
			done := s.asked(signedBody(t, name, `"key_id":"pk_live_1"`, `"scopes":["pay"]`), func(r *http.Request) {
				if cacheControl != "" {
					r.Header.Set("Cache-Control", cacheControl)
				}
			})
			eventually(t, "it waits", func() bool { return len(s.data.verifiers.line) == 1 })
			before := s.keys.callCount()
			s.keys.set(tt.happens)
			free()
			a := <-done
			if a.status != tt.status || a.code() != tt.code {
				t.Errorf("%s (%s): %d %s, want %d %s", name, cacheControl, a.status, a.body, tt.status, tt.code)
			}
			if s.keys.callCount() == before {
				t.Errorf("%s: not looked up again", name)
			}
			// no-cache was met by the first look-up; the second may be as old as the request.
			if b := s.keys.lastCall().bounds; cacheControl == "no-cache" && (b.NoCache || !b.HasMaxAge || b.MaxAge > 10*time.Second) {
				t.Errorf("%s: asked again with %+v", name, b)
			}
		}
	}
}

// Signatures that come faster than they can be computed are told 503, and look-ups
// go on.
func TestSignaturesDoNotStarveLookups(t *testing.T) {
	t.Parallel()
	s := start(t)
	free := s.occupy()
	for range cap(s.data.verifiers.line) {
		s.data.verifiers.line <- struct{}{}
	}
	body := signedBody(t, "x", `"key_id":"pk_live_1"`)
	began := time.Now()
	a := s.do("POST", "/v1/verify", body)
	if a.status != 503 || a.code() != "unavailable" || a.header.Get("Retry-After") != "1" || a.json(t)["valid"] != false {
		t.Errorf("with a full line: %d %s", a.status, a.body)
	}
	if s.metric("keysidecar_signatures_total", "result", "shed") != 1 || s.metric("keysidecar_verdicts_total", "code", "unavailable") != 1 {
		t.Error("not counted")
	}
	<-s.data.verifiers.line
	if a := s.do("POST", "/v1/verify", body); a.status != 503 {
		t.Errorf("after its time in the line: %d %s", a.status, a.body)
	}
	if took := time.Since(began); took < maxLineTime || took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	s.mustServe()
	if a := s.do("POST", "/v1/verify", `{"key_id":"pk_live_1"}`); a.status != 200 {
		t.Errorf("a look-up: %d", a.status)
	}
	// A key that must not be used takes no slot.
	if a := s.do("POST", "/v1/verify", signedBody(t, "x", `"key_id":"pk_revoked"`)); a.code() != "revoked" {
		t.Errorf("%d %s", a.status, a.body)
	}
	for len(s.data.verifiers.line) > 0 {
		<-s.data.verifiers.line
	}
	free()
	if a := s.do("POST", "/v1/verify", body); a.status != 200 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

// A signature that waits when the daemon stops is told so, and holds nothing up.
func TestStoppingEndsTheWaitForASlot(t *testing.T) {
	t.Parallel()
	s := start(t)
	defer s.occupy()()
	done := s.asked(signedBody(t, "x", `"key_id":"pk_live_1"`))
	eventually(t, "it waits", func() bool { return len(s.data.verifiers.line) == 1 })
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if a := <-done; a.status != 503 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// A panic in the mathematics is one request's, and gives its slot back.
func TestAPanicGivesItsSlotBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	for range 2 * cap(s.data.verifiers.slots) {
		func() {
			defer func() { _ = recover() }()
			// No algorithm beside a signature: the reader never makes such a question.
			_, _, _ = s.data.judge(t.Context(), &signed{has: hasSignature}, keystore.NewRecord(&keystore.Key{
				ID: "k", OwnerID: "m", Algorithm: "ed25519", PublicKey: ed25519Key(t),
			}))
			t.Error("did not panic")
		}()
	}
	if len(s.data.verifiers.slots) != 0 {
		t.Errorf("%d slots are taken", len(s.data.verifiers.slots))
	}
}

// The key itself in another form than JSON names its thumbprint.
func TestThumbprintOfAKeyAsJWK(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, media := range []string{"application/jwk+json", "application/x-pem-file"} {
		if a := s.do("GET", "/v1/keys/pk_live_1", "", header("Accept", media)); a.header.Get("Keysidecar-Thumbprint") != liveThumbprint {
			t.Errorf("%s: %v", media, a.header)
		}
	}
	if a := s.do("GET", "/v1/keys/pk_live_1", ""); a.header.Get("Keysidecar-Thumbprint") != "" || bytes.Contains(a.body, []byte("thumbprint")) {
		t.Errorf("a look-up: %v %s", a.header, a.body)
	}
}

// FuzzSignedBody holds the reading of signatures against encoding/json and
// encoding/base64: what is verified is what was sent, and nothing is left out.
func FuzzSignedBody(f *testing.F) {
	for _, b := range badSignedBodies {
		f.Add([]byte(`{"key_id":"k",` + b.members + `}`))
	}
	f.Add([]byte(signedBody(f, "message", `"key_id":"k"`)))
	f.Add([]byte(`{"jws":"` + liveJWS(f, `{"alg":"EdDSA"}`, "x") + `","key_id":"k","message":"AA=="}`))
	f.Add([]byte(`{"key_id":"k","algorithm":"rsa-pss-sha256","digest":"\u0041AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","signature":"__\u002d_"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r bodyReader
		var q question
		r.reset(bytes.Clone(body), nil)
		if r.verify(&q) != nil {
			return
		}
		var want struct{ Signature, Algorithm, Message, Digest, JWS *string }
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		s := &q.signed
		same := func(name string, sent *string, has signedMember, got []byte, decoded, may bool) {
			if (sent != nil) != (s.has&has != 0) {
				t.Fatalf("%q: %s", body, name)
			}
			if sent == nil || got == nil && may {
				return
			}
			text := *sent
			if decoded {
				text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
				b, err := base64.RawStdEncoding.Strict().DecodeString(text)
				if err != nil || strings.ContainsAny(*sent, "\r\n") {
					t.Fatalf("%q: %s %v", body, name, err)
				}
				text = string(b)
			}
			if text != string(got) {
				t.Fatalf("%q: %s is %q", body, name, got)
			}
		}
		same("signature", want.Signature, hasSignature, s.signature, true, true)
		same("message", want.Message, hasMessage, s.message, true, false)
		same("digest", want.Digest, hasDigest, s.digest, true, false)
		same("jws", want.JWS, hasJWS, s.jws, false, true)
		if want.Algorithm != nil && s.algorithm.Name != *want.Algorithm {
			t.Fatalf("%q: %s", body, s.algorithm.Name)
		}
		if s.has == 0 {
			return
		}
		if s.has&hasJWS == 0 && (s.has&hasSignature == 0 || s.algorithm == nil || (s.has&hasMessage != 0) == (s.has&hasDigest != 0)) {
			t.Fatalf("%q: a question without an answer was taken", body)
		}
		k := keystore.Key{ID: "k", OwnerID: "m", Algorithm: "ed25519", PublicKey: ed25519Key(t)}
		if c, thumbprint := s.judge(keystore.NewRecord(&k)); c != active && thumbprint != "" || c != active && c != signatureInvalid && c != algorithmMismatch {
			t.Fatalf("%q: %s %q", body, c, thumbprint)
		}
	})
}

// BenchmarkLookupsBesideSignatures: in one run, what a look-up costs alone, and while
// four connections ask for signatures as fast as they are answered.
func BenchmarkLookupsBesideSignatures(b *testing.B) {
	for name, flood := range map[string]int{"alone": 0, "beside": 4} {
		b.Run(name, func(b *testing.B) {
			keys := newFixedKeys(b)
			s := newScripted(b, keys, func(*DataOptions) {}, getActive)
			stop := make(chan struct{})
			var flooding sync.WaitGroup
			for range flood {
				c := &scriptedConn{tb: b, request: []byte(postOf("/v1/verify", signedBody(b, "x", `"key_id":"pk_live_1"`))), data: s.data}
				flooding.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							c.serve(20)
						}
					}
				})
			}
			took := make([]time.Duration, 0, b.N)
			last := time.Now()
			s.wrote = func() {
				now := time.Now()
				took = append(took, now.Sub(last))
				last = now
			}
			b.ResetTimer()
			s.serve(b.N)
			b.StopTimer()
			close(stop)
			flooding.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			b.ReportMetric(float64(took[len(took)*999/1000].Nanoseconds()), "p99.9-ns")
		})
	}
}

func BenchmarkVerifySignature(b *testing.B) {
	serveScripted(b, newFixedKeys(b), postOf("/v1/verify", signedBody(b, "x", `"key_id":"pk_live_1"`)), b.N)
}
