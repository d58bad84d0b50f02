package keystore

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"

	"github.com/go-jose/go-jose/v4"
)

// JWK returns a public key, given as SubjectPublicKeyInfo in DER, as a JSON Web Key
// (RFC 7517) whose kid is keyID. ok is false for a kind of key that JOSE has no
// signatures for: it knows RSA, ECDSA on P-256, P-384 and P-521, and Ed25519.
func JWK(keyID string, der []byte) (jwk []byte, ok bool) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, false
	}
	switch key.(type) {
	case ed25519.PublicKey, *ecdsa.PublicKey, *rsa.PublicKey:
	default:
		return nil, false
	}
	jwk, err = (&jose.JSONWebKey{Key: key, KeyID: keyID}).MarshalJSON()
	return jwk, err == nil
}
