package signature

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/keysidecar/keysidecar/internal/publickey"
)

// maxHeader bounds a JWS's protected header, in bytes before its encoding.
const maxHeader = 4 << 10

// VerifyJWS reports whether compact is a JWS in compact form (RFC 7515, 7.1) by key,
// with one of the algorithms that are allowed. detached is the payload of a JWS whose
// payload was taken out (appendix F); nil for others.
//
// It is false, before anything is computed, for
//
//   - an alg that is not among allowed, "none" therefore always;
//   - a header with crit, since nothing critical is understood, or b64, which has a
//     meaning only with it (RFC 7797, 6);
//   - a header that brings a key or says where to find one (jwk, jku, x5u, x5c): the
//     key is the one the caller named. Its kid is not looked at, nor are claims such as
//     exp that a payload may have;
//   - a member that occurs twice, and anything that is not strictly base64url: no
//     padding, no line breaks, no bits left over, since each of these would be another
//     text with the same meaning.
func VerifyJWS(allowed []*publickey.Algorithm, key *publickey.Key, compact string, detached []byte) bool {
	header, rest, ok := strings.Cut(compact, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || !strictly(payload) || !strictly(signature) || !plainHeader(header) {
		return false
	}
	if detached != nil && payload != "" {
		return false // which of the two was signed is not for the signer to say
	}
	v := &verifier{key: key}
	for _, a := range allowed {
		for _, name := range a.JOSE {
			v.allowed = append(v.allowed, a)
			v.names = append(v.names, jose.SignatureAlgorithm(name))
		}
	}
	if len(v.names) == 0 {
		return false
	}
	jws, err := jose.ParseSignedCompact(compact, v.names)
	if err != nil || len(jws.Signatures) != 1 {
		return false
	}
	if detached != nil {
		return jws.DetachedVerify(detached, v) == nil
	}
	_, err = jws.Verify(v)
	return err == nil
}

// strictly reports whether text is base64url in the one way in which its bytes are
// written so.
func strictly(text string) bool {
	if strings.ContainsAny(text, "\r\n") { // which the decoder passes over
		return false
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil
}

// plainHeader reports whether a protected header has nothing that VerifyJWS refuses.
func plainHeader(text string) bool {
	if len(text) > base64.RawURLEncoding.EncodedLen(maxHeader) || !strictly(text) {
		return false
	}
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	var header map[string]json.RawMessage // refuses members that occur twice
	if err != nil || !utf8.Valid(decoded) || json.Unmarshal(decoded, &header) != nil {
		return false
	}
	for _, name := range []string{"crit", "b64", "jwk", "jku", "x5u", "x5c"} {
		if _, there := header[name]; there {
			return false
		}
	}
	_, there := header["alg"]
	return there
}

// verifier verifies for go-jose. names[i] stands for allowed[i].
type verifier struct {
	key     *publickey.Key
	allowed []*publickey.Algorithm
	names   []jose.SignatureAlgorithm
}

var errInvalid = errors.New("the signature does not verify")

// VerifyPayload implements jose.OpaqueVerifier.
func (v *verifier) VerifyPayload(signed, signature []byte, alg jose.SignatureAlgorithm) error {
	for i, name := range v.names {
		if name == alg && Verify(v.allowed[i], v.key, signed, signature) {
			return nil
		}
	}
	return errInvalid
}
