package keystore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.yaml.in/yaml/v3"
)

// KeyFile is what a key file holds, in YAML or JSON:
//
//	owners:                       # optional; an owner not named here is active
//	  - owner_id: m_1
//	    suspended_at: 2026-11-21T10:00:00Z
//	keys:
//	  - key_id: pk_live_1
//	    owner_id: m_1
//	    algorithm: ed25519
//	    public_key: MCowBQYDK2VwAyEA...   # SPKI in base64, or a PEM block; absent for an opaque key
//	    scopes: [pay]
//	    not_before: 2026-01-01T00:00:00Z
//	    expires_at: 2027-01-01T00:00:00Z
//	    revoked_at: 2026-06-01T00:00:00Z  # any value means revoked, now
//	    attributes: {env: live}
//
// A JWK Set (RFC 7517, 5) is read too: kid is the key_id, and the private member
// owner_id names the owner ("default" where it is missing).
type KeyFile struct {
	Owners []FileOwner `yaml:"owners,omitempty" json:"owners,omitempty"`
	Keys   []FileKey   `yaml:"keys" json:"keys"`
}

// FileOwner is an owner in a KeyFile.
type FileOwner struct {
	OwnerID     string     `yaml:"owner_id" json:"owner_id"`
	SuspendedAt *time.Time `yaml:"suspended_at,omitempty" json:"suspended_at,omitempty"`
}

// FileKey is a key in a KeyFile.
type FileKey struct {
	KeyID      string         `yaml:"key_id" json:"key_id"`
	OwnerID    string         `yaml:"owner_id" json:"owner_id"`
	Algorithm  string         `yaml:"algorithm" json:"algorithm"`
	PublicKey  string         `yaml:"public_key,omitempty" json:"public_key,omitempty"`
	Scopes     []string       `yaml:"scopes,omitempty,flow" json:"scopes,omitempty"`
	NotBefore  *time.Time     `yaml:"not_before,omitempty" json:"not_before,omitempty"`
	ExpiresAt  *time.Time     `yaml:"expires_at,omitempty" json:"expires_at,omitempty"`
	RevokedAt  *time.Time     `yaml:"revoked_at,omitempty" json:"revoked_at,omitempty"`
	Attributes map[string]any `yaml:"attributes,omitempty,flow" json:"attributes,omitempty"`
	Note       string         `yaml:"note,omitempty" json:"note,omitempty"`
}

// maxKeyFileBytes bounds what is read into memory.
const maxKeyFileBytes = 256 << 20

// errJWKS: a JWK Set was read where a KeyFile is to be edited.
var errJWKS = errors.New("the file is a JWK Set; edit it with the tool that made it")

// ParseKeyFile reads a key file. The error says which key, and what about it, is
// wrong.
func ParseKeyFile(data []byte) (*KeyFile, error) {
	if len(data) > maxKeyFileBytes {
		return nil, fmt.Errorf("the key file has %d bytes, at most %d are read", len(data), maxKeyFileBytes)
	}
	if kf, err := parseJWKS(data); kf != nil || err != nil {
		return kf, err
	}
	var kf KeyFile
	dec := yaml.NewDecoder(bytes.NewReader(data)) // JSON is YAML
	dec.KnownFields(true)
	if err := dec.Decode(&kf); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New(`the key file is empty; an empty list is written "keys: []"`)
		}
		return nil, fmt.Errorf("the key file cannot be read: %w", err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("the key file holds more than one document")
	}
	if kf.Keys == nil {
		return nil, errors.New(`the key file has no list "keys"`)
	}
	_, err := kf.index()
	return &kf, err
}

// fileIndex is a KeyFile made ready for answers.
type fileIndex struct {
	keys      map[string]*Key
	order     []string
	suspended map[string]bool
}

// index checks every key and owner.
func (kf *KeyFile) index() (*fileIndex, error) {
	ix := &fileIndex{keys: make(map[string]*Key, len(kf.Keys)), suspended: make(map[string]bool)}
	for i, o := range kf.Owners {
		if err := CheckOwnerID(o.OwnerID); err != nil {
			return nil, fmt.Errorf("owners[%d]: %w", i, err)
		}
		if _, twice := ix.suspended[o.OwnerID]; twice {
			return nil, fmt.Errorf("owners[%d]: owner %q appears twice", i, o.OwnerID)
		}
		ix.suspended[o.OwnerID] = o.SuspendedAt != nil
	}
	for i := range kf.Keys {
		k, err := kf.Keys[i].Key()
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if _, twice := ix.keys[k.ID]; twice {
			return nil, fmt.Errorf("keys[%d]: key %q appears twice", i, k.ID)
		}
		k.OwnerSuspended = ix.suspended[k.OwnerID]
		ix.keys[k.ID] = k
		ix.order = append(ix.order, k.ID)
	}
	return ix, nil
}

// Key checks fk and converts it.
func (fk *FileKey) Key() (*Key, error) {
	k := &Key{ID: fk.KeyID, OwnerID: fk.OwnerID, Algorithm: fk.Algorithm, Scopes: fk.Scopes, Revoked: fk.RevokedAt != nil}
	var err error
	if fk.PublicKey != "" {
		if k.PublicKey, err = decodePublicKey(fk.PublicKey); err != nil {
			return nil, fmt.Errorf("key %q: public_key: %w", fk.KeyID, err)
		}
	}
	if fk.NotBefore != nil {
		k.NotBefore = *fk.NotBefore
	}
	if fk.ExpiresAt != nil {
		k.ExpiresAt = *fk.ExpiresAt
	}
	if len(fk.Attributes) > 0 {
		text, err := json.Marshal(fk.Attributes)
		if err != nil {
			return nil, fmt.Errorf("key %q: attributes: %w", fk.KeyID, err)
		}
		k.Attributes = string(text)
	}
	return k, k.Check()
}

func decodePublicKey(text string) ([]byte, error) {
	der, err := base64.StdEncoding.DecodeString(strings.Map(dropSpace, text))
	if block, _ := pem.Decode([]byte(text)); block != nil {
		der, err = block.Bytes, nil
	}
	if err != nil {
		return nil, errors.New("neither base64 nor PEM")
	}
	if _, err := PublicKeyAlgorithm(der); err != nil {
		return nil, err
	}
	return der, nil
}

func dropSpace(r rune) rune {
	if strings.ContainsRune(" \t\r\n", r) {
		return -1
	}
	return r
}

// PublicKeyAlgorithm names the algorithm of a SubjectPublicKeyInfo: ed25519,
// ecdsa-p256, ecdsa-p384, ecdsa-p521 or rsa.
func PublicKeyAlgorithm(der []byte) (string, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return "", fmt.Errorf("not a SubjectPublicKeyInfo in DER: %w", err)
	}
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return "ed25519", nil
	case *ecdsa.PublicKey:
		return "ecdsa-" + strings.ToLower(strings.ReplaceAll(k.Curve.Params().Name, "-", "")), nil
	case *rsa.PublicKey:
		return "rsa", nil
	}
	return "", fmt.Errorf("a public key of type %T is not supported", pub)
}

// parseJWKS returns nil, nil for what is no JWK Set at all.
func parseJWKS(data []byte) (*KeyFile, error) {
	var probe struct {
		Keys []struct {
			Kty     string `json:"kty"`
			OwnerID string `json:"owner_id"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(data, &probe); err != nil || len(probe.Keys) == 0 || probe.Keys[0].Kty == "" {
		return nil, nil //nolint:nilnil,nilerr // "not one" is neither a set nor an error
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) != len(probe.Keys) {
		return nil, fmt.Errorf("the JWK Set cannot be read (%d of %d keys understood): %w", len(set.Keys), len(probe.Keys), err)
	}
	kf := &KeyFile{}
	for i, jwk := range set.Keys {
		if !jwk.IsPublic() {
			return nil, fmt.Errorf("keys[%d] of the JWK Set is not a public key; private keys do not belong here", i)
		}
		der, err := x509.MarshalPKIXPublicKey(jwk.Key)
		if err != nil {
			return nil, fmt.Errorf("keys[%d] of the JWK Set: %w", i, err)
		}
		alg, err := PublicKeyAlgorithm(der)
		if err != nil {
			return nil, fmt.Errorf("keys[%d] of the JWK Set: %w", i, err)
		}
		owner := probe.Keys[i].OwnerID
		if owner == "" {
			owner = "default"
		}
		kf.Keys = append(kf.Keys, FileKey{KeyID: jwk.KeyID, OwnerID: owner, Algorithm: alg, PublicKey: base64.StdEncoding.EncodeToString(der)})
	}
	_, err := kf.index()
	return kf, err
}

// row converts k to what a source hands over.
func (k *Key) row() *Row {
	r := &Row{
		ID: []byte(k.ID), OwnerID: []byte(k.OwnerID), Algorithm: []byte(k.Algorithm), PublicKey: k.PublicKey,
		NotBefore: micros(k.NotBefore, Never), ExpiresAt: micros(k.ExpiresAt, Always),
		Revoked: k.Revoked, OwnerSuspended: k.OwnerSuspended, Attributes: []byte(k.Attributes),
	}
	for _, s := range k.Scopes {
		r.Scopes = append(r.Scopes, []byte(s))
	}
	return r
}
