package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keysidecar/keysidecar/internal/publickey"
)

func derOf(t testing.TB, r, s *big.Int) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// signers is a private key of each kind. Read-only once made. They are the same in
// every process, so that what fuzzing begins with is valid in its workers, too; the
// library makes no RSA key twice.
var signers = sync.OnceValue(func() map[publickey.Kind]crypto.Signer {
	ec := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.ParseRawPrivateKey(c, fill(big.NewInt(0x5eed), (c.Params().N.BitLen()+7)/8))
		if err != nil {
			panic(err)
		}
		return k
	}
	ed := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return map[publickey.Kind]crypto.Signer{
		publickey.Ed25519: ed, publickey.RSA: r,
		publickey.P256: ec(elliptic.P256()), publickey.P384: ec(elliptic.P384()), publickey.P521: ec(elliptic.P521()),
	}
})

// sign signs as a's users do.
func sign(t testing.TB, a *publickey.Algorithm, message []byte) []byte {
	t.Helper()
	private, opts := signers()[a.Kind], crypto.SignerOpts(a.Hash)
	if a.Form == publickey.Plain {
		sig, err := private.Sign(rand.Reader, message, crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	if a.Form == publickey.PSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.Hash}
	}
	h := a.Hash.New()
	h.Write(message)
	sig, err := private.Sign(rand.Reader, h.Sum(nil), opts)
	if err != nil {
		t.Fatal(err)
	}
	if a.Form != publickey.Raw {
		return sig
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &rs); err != nil {
		t.Fatal(err)
	}
	n := (private.Public().(*ecdsa.PublicKey).Params().N.BitLen() + 7) / 8
	return append(fill(rs.R, n), fill(rs.S, n)...)
}

// A signature verifies under the algorithm and the key that made it, and under no
// other of all combinations.
func TestNoAlgorithmIsTakenForAnother(t *testing.T) {
	t.Parallel()
	message := []byte("pay 10 EUR to m_2")
	keys := map[publickey.Kind]*publickey.Key{}
	for kind, s := range signers() {
		keys[kind] = keyOf(t, s.Public())
	}
	for _, made := range publickey.Algorithms {
		sig := sign(t, made, message)
		for _, asked := range publickey.Algorithms {
			for kind, key := range keys {
				want := made == asked && kind == made.Kind
				if got := verifyBoth(t, asked, key, message, sig); got != want {
					t.Errorf("signed as %s, asked as %s of a key for %s: %v", made.Name, asked.Name, kind, got)
				}
			}
		}
		key := keys[made.Kind]
		if verifyBoth(t, made, key, append(message, '0'), sig) || verifyBoth(t, made, key, nil, sig) {
			t.Errorf("%s: another message was accepted", made.Name)
		}
		for _, bad := range [][]byte{nil, {}, sig[1:], sig[:len(sig)-1], append(slices.Clone(sig), 0), append([]byte{0}, sig...), make([]byte, len(sig)), slices.Concat(sig, sig), make([]byte, MaxBytes+1)} {
			if verifyBoth(t, made, key, message, bad) {
				t.Errorf("%s: %x was accepted", made.Name, bad)
			}
		}
		for i := 0; i < len(sig); i += 1 + len(sig)/16 {
			sig[i] ^= 0x40
			if verifyBoth(t, made, key, message, sig) {
				t.Errorf("%s: accepted with byte %d changed", made.Name, i)
			}
			sig[i] ^= 0x40
		}
		if made.Form != publickey.Plain && VerifyDigest(made, key, make([]byte, made.Hash.Size()-1), sig) {
			t.Errorf("%s: a digest of another length was accepted", made.Name)
		}
	}
}

// The other (r, -s) of a signature is accepted, as the package says; other writings of
// the same numbers are not.
func TestWhatIsMalleableOfECDSA(t *testing.T) {
	t.Parallel()
	message := []byte("x")
	a := algorithm(t, "ecdsa-p256-sha256-asn1")
	raw := algorithm(t, "ecdsa-p256-sha256")
	public := signers()[a.Kind].Public().(*ecdsa.PublicKey)
	key := keyOf(t, public)
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sign(t, a, message), &rs); err != nil {
		t.Fatal(err)
	}
	n := public.Params().N
	other := new(big.Int).Sub(n, rs.S)
	if !Verify(a, key, message, derOf(t, rs.R, other)) || !Verify(raw, key, message, append(fill(rs.R, 32), fill(other, 32)...)) {
		t.Error("the other s was refused")
	}
	r, s := rs.R.Bytes(), rs.S.Bytes()
	integer := func(b []byte) []byte { return append([]byte{2, byte(len(b))}, b...) }
	positive := func(b []byte) []byte {
		if b[0] >= 0x80 {
			return append([]byte{0}, b...)
		}
		return b
	}
	sequence := func(body []byte) []byte { return append([]byte{0x30, byte(len(body))}, body...) }
	good := sequence(slices.Concat(integer(positive(r)), integer(positive(s))))
	if !Verify(a, key, message, good) {
		t.Fatal("the writer of this test is wrong")
	}
	for name, bad := range map[string][]byte{
		"padded r":          sequence(slices.Concat(integer(append([]byte{0}, positive(r)...)), integer(positive(s)))),
		"long length":       append([]byte{0x30, 0x81, good[1]}, good[2:]...),
		"indefinite length": slices.Concat([]byte{0x30, 0x80}, good[2:], []byte{0, 0}),
		"more behind":       append(slices.Clone(good), 0),
		"more inside":       sequence(append(slices.Clone(good[2:]), 5, 0)),
		"r plus order":      derOf(t, new(big.Int).Add(rs.R, n), rs.S),
		"s plus order":      derOf(t, rs.R, new(big.Int).Add(rs.S, n)),
		"negative s":        derOf(t, rs.R, new(big.Int).Neg(rs.S)),
		"zero":              derOf(t, new(big.Int), new(big.Int)),
		"raw":               append(fill(rs.R, 32), fill(rs.S, 32)...),
	} {
		if Verify(a, key, message, bad) {
			t.Errorf("%s: accepted", name)
		}
	}
	if r[0] >= 0x80 || s[0] >= 0x80 {
		if Verify(a, key, message, sequence(slices.Concat(integer(r), integer(s)))) {
			t.Error("without the sign's byte: accepted")
		}
	}
}

// jwsOf makes a JWS with any header.
func jwsOf(t testing.TB, a *publickey.Algorithm, header, payload string) string {
	t.Helper()
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(t, a, []byte(input)))
}

// Every header here is truly signed, so that nothing but the rule refuses it.
func TestAJWSWithADangerousHeaderIsRefused(t *testing.T) {
	t.Parallel()
	a := algorithm(t, "ecdsa-p256-sha256")
	key := keyOf(t, signers()[a.Kind].Public())
	allowed := publickey.Allowed(key.Kind, key.Algorithm)
	own := `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	for header, want := range map[string]bool{
		`{"alg":"ES256"}`: true,
		`{"alg":"ES256","kid":"another","typ":"JWT","cty":"x","x5t":"AAAA"}`: true,
		` {"alg" : "ES256"} `:                               true,
		`{"alg":"ES256","crit":["exp"],"exp":1}`:            false,
		`{"alg":"ES256","crit":[]}`:                         false,
		`{"alg":"ES256","b64":true,"crit":["b64"]}`:         false,
		`{"alg":"ES256","b64":false}`:                       false,
		`{"alg":"ES256","jwk":` + own + `}`:                 false,
		`{"alg":"ES256","jwk":null}`:                        false,
		`{"alg":"ES256","jku":"https://evil.example/keys"}`: false,
		`{"alg":"ES256","x5u":"https://evil.example/cert"}`: false,
		`{"alg":"ES256","x5c":["AAAA"]}`:                    false,
		`{"alg":"ES256","alg":"ES256"}`:                     false,
		`{"alg":"ES256","alg":"none"}`:                      false,
		`{"alg":"none"}`:                                    false,
		`{"alg":"None"}`:                                    false,
		`{"alg":"es256"}`:                                   false,
		`{"alg":"HS256"}`:                                   false,
		`{"alg":"ES384"}`:                                   false,
		`{"alg":"EdDSA"}`:                                   false,
		`{"alg":"ES256K"}`:                                  false,
		`{"alg":""}`:                                        false,
		`{"alg":null}`:                                      false,
		`{"alg":["ES256"]}`:                                 false,
		`{"Alg":"ES256"}`:                                   false,
		`{}`:                                                false,
		`[]`:                                                false,
		`null`:                                              false,
		``:                                                  false,
		`{"alg":"ES256"}x`:                                  false,
		"{\"alg\":\"ES256\",\"x\":\"\xff\"}":                false,
		`{"alg":"ES256","x":"` + strings.Repeat("x", 4096) + `"}`: false,
	} {
		if got := VerifyJWS(allowed, key, jwsOf(t, a, header, "payload"), nil); got != want {
			t.Errorf("%.80q: %v", header, got)
		}
	}
	// What is signed is the text; nothing that decodes to the same may take its place.
	good := jwsOf(t, a, `{"alg":"ES256"}`, "payloads")
	parts := strings.Split(good, ".")
	last := parts[2][len(parts[2])-1:]
	for name, bad := range map[string]string{
		"padded":                good + "==",
		"padded payload":        parts[0] + "." + parts[1] + "=." + parts[2],
		"a line break":          parts[0] + ".\n" + parts[1] + "." + parts[2],
		"a break in the middle": good[:len(good)-5] + "\r\n" + good[len(good)-5:],
		"space before":          " " + good,
		"space behind":          good + " ",
		"another part":          good + ".",
		"two parts":             parts[0] + "." + parts[1],
		"one part":              parts[0],
		"nothing":               "",
		"dots":                  "..",
		"left-over bits":        good[:len(good)-1] + string(nextOf(last)),
		"the standard alphabet": parts[0] + "." + parts[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]) + "+",
		"JSON":                  `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`,
		"no signature":          parts[0] + "." + parts[1] + ".",
	} {
		if VerifyJWS(allowed, key, bad, nil) {
			t.Errorf("%s: accepted", name)
		}
	}
	if VerifyJWS(nil, key, good, nil) {
		t.Error("accepted with no algorithm allowed")
	}
	other := keyOf(t, signers()[publickey.P384].Public())
	if VerifyJWS(allowed, other, good, nil) {
		t.Error("accepted by a key of another kind")
	}
}

// nextOf is the next character of the alphabet, which differs in bits that are not
// part of any byte.
func nextOf(c string) byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.Index(alphabet, c)|1]
}

// Every algorithm of JOSE works, under each of its names, and an RSA key that is bound
// to one verifies by no other.
func TestJWSOfEveryAlgorithm(t *testing.T) {
	t.Parallel()
	for _, a := range publickey.Algorithms {
		key := keyOf(t, signers()[a.Kind].Public())
		for _, name := range a.JOSE {
			jws := jwsOf(t, a, `{"alg":"`+name+`"}`, "x")
			for _, stored := range publickey.Algorithms {
				allowed := publickey.Allowed(key.Kind, stored.Name)
				if got := VerifyJWS(allowed, key, jws, nil); got != (stored == a) {
					t.Errorf("%s by a key stored as %s: %v", name, stored.Name, got)
				}
			}
			if !VerifyJWS(publickey.Allowed(key.Kind, string(key.Kind)), key, jws, nil) {
				t.Errorf("%s by a key stored by its kind: refused", name)
			}
		}
	}
}

// FuzzJWS: whatever is accepted is accepted by the library by itself, too, and is the
// very text that was signed.
func FuzzJWS(f *testing.F) {
	a := algorithm(f, "ed25519")
	key := keyOf(f, signers()[a.Kind].Public())
	allowed := publickey.Allowed(key.Kind, key.Algorithm)
	good := jwsOf(f, a, `{"alg":"EdDSA"}`, "payload")
	f.Add(good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(`..`)
	f.Add(`eyJhbGciOiJub25lIn0.eA.`)
	f.Add(`eyJhbGciOiJFZERTQSIsImNyaXQiOlsiYjY0Il0sImI2NCI6ZmFsc2V9.eA.AAAA`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, detached := range [][]byte{nil, []byte("payload")} {
			if !VerifyJWS(allowed, key, text, detached) {
				continue
			}
			jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.EdDSA, "Ed25519"})
			if err != nil {
				t.Fatal(err)
			}
			if detached == nil {
				_, err = jws.Verify(key.Public)
			} else {
				err = jws.DetachedVerify(detached, key.Public)
			}
			if err != nil && jws.Signatures[0].Header.Algorithm == "EdDSA" {
				t.Fatalf("%q: %v", text, err)
			}
		}
	})
}

// FuzzVerify: no signature but one that was made verifies, whatever the algorithm, and
// none makes it panic.
func FuzzVerify(f *testing.F) {
	message := []byte("message")
	for i, a := range publickey.Algorithms {
		f.Add(uint8(i), sign(f, a, message))
	}
	f.Fuzz(func(t *testing.T, i uint8, sig []byte) {
		a := publickey.Algorithms[int(i)%len(publickey.Algorithms)]
		key := keyOf(t, signers()[a.Kind].Public())
		if !verifyBoth(t, a, key, message, sig) {
			return
		}
		if verifyBoth(t, a, key, []byte("another message"), sig) {
			t.Fatalf("%s: %x is valid for two messages", a.Name, sig)
		}
		var rs struct{ R, S *big.Int }
		if a.Form == publickey.ASN1 {
			if rest, err := asn1.Unmarshal(sig, &rs); err != nil || len(rest) > 0 {
				t.Fatalf("%s: %x is not DER: %v", a.Name, sig, err)
			}
			if again, err := asn1.Marshal(rs); err != nil || string(again) != string(sig) {
				t.Fatalf("%s: %x is not the one way to write it", a.Name, sig)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	message := []byte(strings.Repeat("x", 200))
	for _, a := range publickey.Algorithms {
		sig := sign(b, a, message)
		spki := keyOf(b, signers()[a.Kind].Public()).SPKI
		b.Run(a.Name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				key, err := publickey.Parse(spki) // a sidecar keeps SPKIs, not parsed keys
				if err != nil || !Verify(a, key, message, sig) {
					b.Fatal(err)
				}
			}
		})
	}
}
