package signature

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/internal/publickey"
)

// Where the vectors come from stands in testdata/README.md.

func load(t testing.TB, name string, into any) {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := io.Reader(f)
	if strings.HasSuffix(name, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.NewDecoder(r).Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func algorithm(t testing.TB, name string) *publickey.Algorithm {
	t.Helper()
	a, ok := publickey.AlgorithmNamed(name)
	if !ok {
		t.Fatalf("no algorithm %s", name)
	}
	return a
}

// keyOf is a good key.
func keyOf(t testing.TB, public any) *publickey.Key {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := publickey.Parse(spki)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// verifyBoth verifies a message, and its digest where the algorithm has one; the two
// must agree.
func verifyBoth(t testing.TB, a *publickey.Algorithm, key *publickey.Key, message, signature []byte) bool {
	t.Helper()
	valid := Verify(a, key, message, signature)
	if a.Form != publickey.Plain {
		h := a.Hash.New()
		h.Write(message)
		if VerifyDigest(a, key, h.Sum(nil), signature) != valid {
			t.Errorf("%s: message and digest differ", a.Name)
		}
	}
	return valid
}

func TestRFC8032(t *testing.T) {
	t.Parallel()
	var vectors []struct{ Name, Public, Msg, Sig string }
	load(t, "rfc8032.json", &vectors)
	if len(vectors) != 5 {
		t.Fatal(len(vectors))
	}
	a := algorithm(t, "ed25519")
	for _, v := range vectors {
		key, sig := keyOf(t, ed25519.PublicKey(unhex(t, v.Public))), unhex(t, v.Sig)
		if !Verify(a, key, unhex(t, v.Msg), sig) {
			t.Errorf("%s: refused", v.Name)
		}
		if Verify(a, key, append(unhex(t, v.Msg), 0), sig) || Verify(a, key, unhex(t, v.Msg), sig[:63]) || Verify(a, key, unhex(t, v.Msg), append(sig, 0)) {
			t.Errorf("%s: another message, or a signature of another length, was accepted", v.Name)
		}
	}
}

func TestNISTECDSA(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct{ Algorithm, Msg, Qx, Qy, R, S, Result string }
	}
	load(t, "nist_ecdsa.json", &file)
	curves := map[publickey.Kind]elliptic.Curve{publickey.P256: elliptic.P256(), publickey.P384: elliptic.P384(), publickey.P521: elliptic.P521()}
	passed := 0
	for i, v := range file.Tests {
		raw, asn := algorithm(t, v.Algorithm), algorithm(t, v.Algorithm+"-asn1")
		curve := curves[raw.Kind]
		n := (curve.Params().N.BitLen() + 7) / 8
		public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, fill(bigOf(t, v.Qx), n), fill(bigOf(t, v.Qy), n)))
		if err != nil {
			if v.Result[0] != 'F' {
				t.Errorf("%d: %v", i, err)
			}
			continue // Q was changed so that it is off the curve
		}
		key := keyOf(t, public)
		r, s := bigOf(t, v.R), bigOf(t, v.S)
		want := v.Result[0] == 'P'
		if got := verifyBoth(t, raw, key, unhex(t, v.Msg), append(fill(r, n), fill(s, n)...)); got != want {
			t.Errorf("%d: raw: %v, want %s", i, got, v.Result)
		}
		if got := verifyBoth(t, asn, key, unhex(t, v.Msg), derOf(t, r, s)); got != want {
			t.Errorf("%d: ASN.1: %v, want %s", i, got, v.Result)
		}
		if want {
			passed++
		}
	}
	if passed < 9 || len(file.Tests) != 45 {
		t.Errorf("%d of %d passed", passed, len(file.Tests))
	}
}

func TestNISTRSA(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct{ Algorithm, N, E, Msg, S, Result string }
	}
	load(t, "nist_rsa.json", &file)
	for i, v := range file.Tests {
		key := keyOf(t, &rsa.PublicKey{N: bigOf(t, v.N), E: int(bigOf(t, v.E).Int64())})
		a := algorithm(t, v.Algorithm)
		if got := verifyBoth(t, a, key, unhex(t, v.Msg), unhex(t, v.S)); got != (v.Result == "P") {
			t.Errorf("%d: %v, want %s", i, got, v.Result)
		}
		if verifyBoth(t, a, key, unhex(t, v.Msg)[1:], unhex(t, v.S)) {
			t.Errorf("%d: another message was accepted", i)
		}
	}
}

// wycheproof is the selection in testdata.
type wycheproof struct {
	Groups []struct {
		File, Algorithm, Key string
		Tests                []struct {
			ID                int
			Comment, Msg, Sig string
			Valid             bool
		}
	}
	JWS []struct {
		ID      int
		Comment string
		Key     json.RawMessage
		JWS     string
		Valid   bool
	}
}

// Thousands of signatures that are wrong in the ways in which others have gone wrong:
// malleable, truncated, badly padded, of another key, hash or algorithm.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	var file wycheproof
	load(t, "wycheproof.json.gz", &file)
	total, valid, unfit := 0, 0, 0
	for _, g := range file.Groups {
		a := algorithm(t, g.Algorithm)
		spki, err := base64.StdEncoding.DecodeString(g.Key)
		if err != nil {
			t.Fatal(err)
		}
		key, err := publickey.Parse(spki)
		if err != nil {
			t.Logf("%s: %v", g.File, err)
			unfit += len(g.Tests)
			continue
		}
		for _, v := range g.Tests {
			total++
			if v.Valid {
				valid++
			}
			verify := Verify
			if total%8 == 0 { // the two are compared elsewhere, too
				verify = func(a *publickey.Algorithm, key *publickey.Key, message, signature []byte) bool {
					return verifyBoth(t, a, key, message, signature)
				}
			}
			if got := verify(a, key, unhex(t, v.Msg), unhex(t, v.Sig)); got != v.Valid {
				t.Errorf("%s %d (%s): %v", g.File, v.ID, v.Comment, got)
			}
		}
	}
	t.Logf("%d signatures, %d of them valid; %d by keys that are refused", total, valid, unfit)
	if total < 2000 || valid < 500 || unfit > 20 {
		t.Errorf("%d, %d, %d", total, valid, unfit)
	}
}

func TestWycheproofJWS(t *testing.T) {
	t.Parallel()
	var file wycheproof
	load(t, "wycheproof.json.gz", &file)
	valid, invalid := 0, 0
	for _, v := range file.JWS {
		key, err := publickey.ParseAny(v.Key)
		if err != nil {
			continue // symmetric keys, and keys for something else
		}
		if v.ID == 346 || v.ID == 350 {
			v.Valid = false // a PS384 by a key whose alg is PS256: what a key says of itself binds here
		}
		got := VerifyJWS(publickey.Allowed(key.Kind, key.Algorithm), key, v.JWS, nil)
		if got != v.Valid {
			t.Errorf("%d (%s): %v", v.ID, v.Comment, got)
		}
		if got {
			valid++
		} else {
			invalid++
		}
	}
	t.Logf("%d valid, %d refused of %d", valid, invalid, len(file.JWS))
}

func TestTheRFCsExamplesOfJWS(t *testing.T) {
	t.Parallel()
	var vectors []struct {
		Name  string
		Key   json.RawMessage
		JWS   string
		Valid bool
	}
	load(t, "rfc_jws.json", &vectors)
	for _, v := range vectors {
		key, err := publickey.ParseAny(v.Key)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		allowed := publickey.Allowed(key.Kind, key.Algorithm)
		if got := VerifyJWS(allowed, key, v.JWS, nil); got != v.Valid {
			t.Errorf("%s: %v", v.Name, got)
		}
		// Appendix F: the payload taken out.
		parts := strings.Split(v.JWS, ".")
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		if got := VerifyJWS(allowed, key, parts[0]+".."+parts[2], payload); got != v.Valid {
			t.Errorf("%s, detached: %v", v.Name, got)
		}
		if VerifyJWS(allowed, key, v.JWS, payload) || VerifyJWS(allowed, key, parts[0]+".."+parts[2], append(payload, 0)) || VerifyJWS(allowed, key, parts[0]+".."+parts[2], nil) {
			t.Errorf("%s: a payload twice, another one, or none was accepted", v.Name)
		}
	}
}

func bigOf(t testing.TB, text string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(text, 16)
	if !ok {
		t.Fatal(text)
	}
	return n
}

func fill(n *big.Int, size int) []byte { return n.FillBytes(make([]byte, size)) }
