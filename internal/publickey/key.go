package publickey

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// Kind says what sort of key a public key is, in the words under which keys are
// stored.
type Kind string

// Every kind of key that is supported.
const (
	Ed25519 Kind = "ed25519"
	P256    Kind = "ecdsa-p256"
	P384    Kind = "ecdsa-p384"
	P521    Kind = "ecdsa-p521"
	RSA     Kind = "rsa"
)

// Key is a public key that is fit for use. Immutable.
type Key struct {
	// Public is an ed25519.PublicKey, an *ecdsa.PublicKey or an *rsa.PublicKey.
	Public crypto.PublicKey
	Kind   Kind
	// SPKI is the key's SubjectPublicKeyInfo in DER, in the one canonical form.
	SPKI []byte
	// Algorithm is the name under which the key is stored: its Kind, or the one
	// algorithm that a JWK's "alg" binds it to.
	Algorithm string
	// KeyID is the kid of a JWK, else empty.
	KeyID string
}

// Thumbprint returns the key's RFC 7638 thumbprint: SHA-256, in base64url.
func (k *Key) Thumbprint() string {
	sum, err := (&jose.JSONWebKey{Key: k.Public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "" // for kinds of keys that Parse does not return
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

var (
	// ErrPrivate: what was read is, or holds, a private or symmetric key.
	ErrPrivate = errors.New("this is a PRIVATE key, which must never leave its owner; nothing was stored. If it was sent to you, have a new pair made")
	// ErrUnfit wraps why a public key is not fit to verify signatures with.
	ErrUnfit = errors.New("this key is not fit for use")
)

// Parse reads a SubjectPublicKeyInfo in DER and checks that the key is fit for use.
func Parse(spki []byte) (*Key, error) {
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, whyNotSPKI(spki, err)
	}
	k := &Key{Public: public}
	if k.Kind, err = fit(public); err != nil {
		return nil, err
	}
	k.Algorithm = string(k.Kind)
	k.SPKI, err = x509.MarshalPKIXPublicKey(public)
	return k, err
}

// of makes a Key of a public key that a parser of another form has read.
func of(public crypto.PublicKey) (*Key, error) {
	if e, ok := public.(*ecdsa.PublicKey); ok && e.Curve != elliptic.P224() {
		if _, err := e.ECDH(); err != nil {
			return nil, fmt.Errorf("%w: its point does not lie on the curve %s", ErrUnfit, e.Curve.Params().Name)
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: a key of type %T: %s", ErrUnfit, public, supported)
	}
	return Parse(spki)
}

const supported = "supported are Ed25519, ECDSA on P-256, P-384 and P-521, and RSA from 2048 to 8192 bits"

// fit says what kind of key public is, or why it is not fit for use.
func fit(public crypto.PublicKey) (Kind, error) {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return Ed25519, fitEd25519(k)
	case *rsa.PublicKey:
		return RSA, fitRSA(k)
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return P256, nil // the parser found the point on the curve
		case elliptic.P384():
			return P384, nil
		case elliptic.P521():
			return P521, nil
		}
		return "", fmt.Errorf("%w: the curve %s is too weak; %s", ErrUnfit, k.Curve.Params().Name, supported)
	case *ecdh.PublicKey:
		return "", fmt.Errorf("%w: X25519 is for key agreement and makes no signatures; %s", ErrUnfit, supported)
	}
	return "", fmt.Errorf("%w: a key of type %T; %s", ErrUnfit, public, supported)
}

// named are object identifiers of keys and curves that people have and that are not
// supported, with what is to be done. Read-only.
var named = []struct {
	oid  asn1.ObjectIdentifier
	what string
}{
	{asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, "DSA is not supported any more"},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, "an RSA key that is written as one for PSS only (id-RSASSA-PSS): write it as an ordinary one, and give it the algorithm rsa-pss-sha256"},
	{asn1.ObjectIdentifier{1, 3, 101, 111}, "X448 is for key agreement and makes no signatures"},
	{asn1.ObjectIdentifier{1, 3, 101, 113}, "Ed448 is not supported"},
	{asn1.ObjectIdentifier{1, 3, 132, 0, 10}, "the curve secp256k1 is not supported"},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 1}, "the curve P-192 is too weak"},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 1, 1}, "its curve is given by parameters and not by name: openssl pkey -pubin -in FILE -ec_param_enc named_curve -pubout writes the name"},
}

// whyNotSPKI words what is wrong with a SubjectPublicKeyInfo that could not be read.
func whyNotSPKI(spki []byte, err error) error {
	for _, n := range named {
		oid, marshalErr := asn1.Marshal(n.oid)
		if marshalErr == nil && bytes.Contains(spki[:min(len(spki), 80)], oid) {
			return fmt.Errorf("%w: %s; %s", ErrUnfit, n.what, supported)
		}
	}
	var spkiInfo struct {
		Algorithm struct {
			OID        asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Key asn1.BitString
	}
	if rest, asnErr := asn1.Unmarshal(spki, &spkiInfo); asnErr == nil && len(rest) == 0 && spkiInfo.Algorithm.OID.Equal(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}) {
		if p := spkiInfo.Key.Bytes; len(p) > 0 && (p[0] == 2 || p[0] == 3) {
			return fmt.Errorf("%w: its point is compressed: openssl ec -pubin -in FILE -conv_form uncompressed -pubout writes it in full", ErrUnfit)
		}
		if p := spkiInfo.Key.Bytes; len(p) > 0 && p[0] == 4 && len(p)%2 == 1 {
			return fmt.Errorf("%w: its point does not lie on its curve, or the curve is not supported; %s", ErrUnfit, supported)
		}
	}
	return fmt.Errorf("not a SubjectPublicKeyInfo in DER: %w", err)
}
