package publickey

import (
	"crypto"
	_ "crypto/sha256" // the hashes named below
	_ "crypto/sha512"
	"fmt"
	"slices"
	"strings"
)

// Form is how a signature is written, or padded.
type Form uint8

const (
	// Plain is the form of Ed25519 (RFC 8032).
	Plain Form = iota
	// Raw is r and s of ECDSA beside each other, each as long as the curve's order.
	Raw
	// ASN1 is r and s of ECDSA in DER (RFC 3279, 2.2.3).
	ASN1
	// PKCS1 is RSASSA-PKCS1-v1_5 (RFC 8017, 8.2).
	PKCS1
	// PSS is RSASSA-PSS (RFC 8017, 8.1) with MGF1 over the same hash and a salt as
	// long as the hash.
	PSS
)

// Algorithm is a signature algorithm in all its parts: nothing about how a signature
// is verified is left to whoever presents it.
type Algorithm struct {
	// Name is what the HTTP contract calls it: the name in RFC 9421's registry, or one
	// of that style.
	Name string
	Kind Kind
	// Hash is 0 for Ed25519, which hashes by itself.
	Hash crypto.Hash
	Form Form
	// JOSE are its names in JWK and JWS (RFC 7518, RFC 8037, RFC 9864), none if it
	// has none there.
	JOSE []string
}

// Algorithms are all that are supported. Read-only.
var Algorithms = []*Algorithm{
	{Name: "ed25519", Kind: Ed25519, Form: Plain, JOSE: []string{"EdDSA", "Ed25519"}},
	{Name: "ecdsa-p256-sha256", Kind: P256, Hash: crypto.SHA256, Form: Raw, JOSE: []string{"ES256"}},
	{Name: "ecdsa-p256-sha256-asn1", Kind: P256, Hash: crypto.SHA256, Form: ASN1},
	{Name: "ecdsa-p384-sha384", Kind: P384, Hash: crypto.SHA384, Form: Raw, JOSE: []string{"ES384"}},
	{Name: "ecdsa-p384-sha384-asn1", Kind: P384, Hash: crypto.SHA384, Form: ASN1},
	{Name: "ecdsa-p521-sha512", Kind: P521, Hash: crypto.SHA512, Form: Raw, JOSE: []string{"ES512"}},
	{Name: "ecdsa-p521-sha512-asn1", Kind: P521, Hash: crypto.SHA512, Form: ASN1},
	{Name: "rsa-v1_5-sha256", Kind: RSA, Hash: crypto.SHA256, Form: PKCS1, JOSE: []string{"RS256"}},
	{Name: "rsa-v1_5-sha384", Kind: RSA, Hash: crypto.SHA384, Form: PKCS1, JOSE: []string{"RS384"}},
	{Name: "rsa-v1_5-sha512", Kind: RSA, Hash: crypto.SHA512, Form: PKCS1, JOSE: []string{"RS512"}},
	{Name: "rsa-pss-sha256", Kind: RSA, Hash: crypto.SHA256, Form: PSS, JOSE: []string{"PS256"}},
	{Name: "rsa-pss-sha384", Kind: RSA, Hash: crypto.SHA384, Form: PSS, JOSE: []string{"PS384"}},
	{Name: "rsa-pss-sha512", Kind: RSA, Hash: crypto.SHA512, Form: PSS, JOSE: []string{"PS512"}},
}

// AlgorithmNamed returns the algorithm that the HTTP contract calls name.
func AlgorithmNamed(name string) (*Algorithm, bool) {
	i := slices.IndexFunc(Algorithms, func(a *Algorithm) bool { return a.Name == name })
	if i < 0 {
		return nil, false
	}
	return Algorithms[i], true
}

// boundBy reports whether a key stored under the algorithm name may be used with a:
// the name of a kind of key allows every algorithm of that kind, the name of an
// algorithm (ours or JOSE's) that one alone, and any other name none. Case is
// ignored, because the name may come from a table of the operator's.
func (a *Algorithm) boundBy(name string) bool {
	return strings.EqualFold(name, string(a.Kind)) || strings.EqualFold(name, a.Name) ||
		slices.ContainsFunc(a.JOSE, func(j string) bool { return strings.EqualFold(name, j) }) ||
		// An encoding says nothing of the mathematics: ES256 and the name of the raw
		// form allow the other, too.
		a.Form == ASN1 && rawOf(a).boundBy(name)
}

// rawOf is the algorithm that differs from a only in how the signature is written.
func rawOf(a *Algorithm) *Algorithm {
	raw, _ := AlgorithmNamed(strings.TrimSuffix(a.Name, "-asn1"))
	return raw
}

// Allowed returns what a key of this kind may be used with if its store calls its
// algorithm name; see Algorithm. It may be nothing.
func Allowed(kind Kind, name string) (allowed []*Algorithm) {
	for _, a := range Algorithms {
		if a.Kind == kind && a.boundBy(name) {
			allowed = append(allowed, a)
		}
	}
	return allowed
}

// Allows reports whether a is one of Allowed(kind, name).
func Allows(kind Kind, name string, a *Algorithm) bool {
	return a.Kind == kind && a.boundBy(name)
}

// CheckAlgorithm reports whether name contradicts a key of this kind. A name that
// means nothing here is no contradiction; no signature is verified under it.
func CheckAlgorithm(kind Kind, name string) error {
	means := slices.IndexFunc(Algorithms, func(a *Algorithm) bool { return a.boundBy(name) })
	if means < 0 || len(Allowed(kind, name)) > 0 {
		return nil
	}
	return fmt.Errorf("the algorithm is called %s, and the public key is one for %s", name, kind)
}
