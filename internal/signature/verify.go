package signature

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"

	"github.com/keysidecar/keysidecar/internal/publickey"
)

// MaxBytes is the size of the longest signature that can be valid, in bytes: of RSA
// with the largest modulus.
const MaxBytes = publickey.MaxRSABits / 8

// Verify reports whether signature is a's of message by key. It is false for a key
// of another kind than a's.
func Verify(a *publickey.Algorithm, key *publickey.Key, message, signature []byte) bool {
	if a.Form != publickey.Plain {
		h := a.Hash.New()
		h.Write(message)
		return VerifyDigest(a, key, h.Sum(nil), signature)
	}
	public, ok := key.Public.(ed25519.PublicKey)
	return ok && key.Kind == a.Kind && ed25519.Verify(public, message, signature)
}

// VerifyDigest is Verify for a message of which only the hash is at hand. It is false
// for Ed25519, which hashes by itself, and for a digest of another length than that
// of a's hash.
func VerifyDigest(a *publickey.Algorithm, key *publickey.Key, digest, signature []byte) bool {
	if key.Kind != a.Kind || a.Form == publickey.Plain || len(digest) != a.Hash.Size() || len(signature) > MaxBytes {
		return false
	}
	switch public := key.Public.(type) {
	case *ecdsa.PublicKey:
		if a.Form == publickey.ASN1 {
			return ecdsa.VerifyASN1(public, digest, signature)
		}
		return verifyRaw(public, digest, signature)
	case *rsa.PublicKey:
		if a.Form == publickey.PSS {
			return rsa.VerifyPSS(public, a.Hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(public, a.Hash, digest, signature) == nil
	}
	return false
}

// verifyRaw verifies r and s beside each other (IEEE P1363, RFC 7518, 3.4).
func verifyRaw(public *ecdsa.PublicKey, digest, signature []byte) bool {
	n := (public.Params().N.BitLen() + 7) / 8
	if len(signature) != 2*n {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:])
	return ecdsa.Verify(public, digest, r, s)
}
