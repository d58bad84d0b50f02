package publickey

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// SetKey is one key of a JWK Set.
type SetKey struct {
	// KeyID is its kid, which may be missing, and OwnerID the private member owner_id.
	KeyID, OwnerID string
	// Key is nil if Err is not.
	Key *Key
	// Err is why this key cannot be used; the others can.
	Err error
}

// members are those of a JWK that say what the key is for. The JSON package is
// go-jose's: it knows names by their case and refuses those that come twice.
type members struct {
	Kty     string   `json:"kty"`
	Kid     string   `json:"kid"`
	Use     string   `json:"use"`
	KeyOps  []string `json:"key_ops"`
	Alg     string   `json:"alg"`
	Crv     string   `json:"crv"`
	OwnerID string   `json:"owner_id"`
	E       string   `json:"e"`

	D    json.RawMessage `json:"d"`
	P    json.RawMessage `json:"p"`
	Q    json.RawMessage `json:"q"`
	DP   json.RawMessage `json:"dp"`
	DQ   json.RawMessage `json:"dq"`
	QI   json.RawMessage `json:"qi"`
	K    json.RawMessage `json:"k"`
	Priv json.RawMessage `json:"priv"`
}

// private reports whether a member is there that only a private or symmetric key has.
func (m *members) private() bool {
	return m.Kty == "oct" || slices.ContainsFunc([]json.RawMessage{m.D, m.P, m.Q, m.DP, m.DQ, m.QI, m.K, m.Priv},
		func(r json.RawMessage) bool { return r != nil })
}

// parseJSON reads a JWK, or a JWK Set of one key.
func parseJSON(text []byte) (*Key, error) {
	if !IsJWKS(text) {
		return parseJWK(text)
	}
	set, err := ParseJWKS(text)
	switch {
	case err != nil:
		return nil, err
	case len(set) != 1:
		return nil, fmt.Errorf("this is a JWK Set of %d keys, and one key is wanted: keysidecar keys import --format jwks takes them all", len(set))
	}
	return set[0].Key, set[0].Err
}

// IsJWKS reports whether text is a JSON object with an array keys of JSON objects
// the first of which has a kty.
func IsJWKS(text []byte) bool {
	var set struct {
		Keys []struct {
			Kty string `json:"kty"`
		} `json:"keys"`
	}
	return json.Unmarshal(text, &set) == nil && len(set.Keys) > 0 && set.Keys[0].Kty != ""
}

// ParseJWKS reads a JWK Set (RFC 7517, 5). The error means that the set as a whole
// cannot be read; what is wrong with one key stands with that key. A key of an
// unknown kind is such a key: it is not passed over, because it would be missed.
func ParseJWKS(text []byte) ([]SetKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("not a JWK Set: %w", err)
	}
	if set.Keys == nil {
		return nil, errors.New(`not a JWK Set: it has no array "keys"`)
	}
	keys := make([]SetKey, len(set.Keys))
	for i, raw := range set.Keys {
		var m members
		if err := json.Unmarshal(raw, &m); err != nil {
			keys[i].Err = fmt.Errorf("not a JWK: %w", err)
			continue
		}
		keys[i] = SetKey{KeyID: m.Kid, OwnerID: m.OwnerID}
		keys[i].Key, keys[i].Err = m.key(raw)
	}
	return keys, nil
}

func parseJWK(text []byte) (*Key, error) {
	var m members
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("not a JWK: %w", err)
	}
	return m.key(text)
}

// key reads the JWK that m was read from.
func (m *members) key(text []byte) (*Key, error) {
	switch {
	case m.private():
		return nil, fmt.Errorf("%w; a JWK of its public half has no member d, p, q, dp, dq, qi, k or priv", ErrPrivate)
	case m.Kty == "":
		return nil, errors.New("not a JWK: it has no member kty")
	case m.Use != "" && m.Use != "sig":
		return nil, fmt.Errorf("%w: its use is %.20q, and only keys for signatures (sig) belong here", ErrUnfit, m.Use)
	case m.KeyOps != nil && !slices.Contains(m.KeyOps, "verify"):
		return nil, fmt.Errorf("%w: its key_ops do not hold verify", ErrUnfit)
	case m.Kty == "RSA" && !shortExponent(m.E):
		return nil, fmt.Errorf("%w: its public exponent e must be from %d to %d, in base64url without leading zeros; %s", ErrUnfit, minRSAExponent, maxRSAExponent, newRSA)
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(text); err != nil {
		if errors.Is(err, jose.ErrUnsupportedKeyType) {
			return nil, fmt.Errorf("%w: a JWK of the kind %.20q (curve %.20q); %s", ErrUnfit, m.Kty, m.Crv, supported)
		}
		return nil, fmt.Errorf("not a JWK that can be used: %s", strings.TrimPrefix(err.Error(), "go-jose/go-jose: "))
	}
	key, err := of(jwk.Key)
	if err != nil {
		return nil, err
	}
	key.KeyID = m.Kid
	if m.Alg == "" {
		return key, nil
	}
	return key, key.bind(m.Alg)
}

// shortExponent reports whether e, as a JWK has it, fits an int: the library would
// cut off what does not. Whether it is a good exponent is seen later.
func shortExponent(e string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(e)
	return err == nil && len(b) <= 4 && (len(b) == 0 || b[0] != 0)
}

// bind takes what a JWK's alg says into the algorithm under which k is stored. It
// says more than the kind only of RSA keys.
func (k *Key) bind(alg string) error {
	i := slices.IndexFunc(Algorithms, func(a *Algorithm) bool { return slices.Contains(a.JOSE, alg) })
	switch {
	case i < 0:
		return fmt.Errorf("%w: its alg is %.20q, which is no signature algorithm that is supported", ErrUnfit, alg)
	case Algorithms[i].Kind != k.Kind:
		return fmt.Errorf("%w: its alg is %s, and the key is one for %s", ErrUnfit, alg, k.Kind)
	case k.Kind == RSA:
		k.Algorithm = Algorithms[i].Name
	}
	return nil
}
