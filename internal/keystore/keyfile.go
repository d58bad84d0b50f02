package keystore

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keysidecar/keysidecar/internal/publickey"
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
//	    public_key: MCowBQYDK2VwAyEA...   # SPKI in base64, PEM, a JWK or an OpenSSH line; absent for an opaque key
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
	if fk.PublicKey != "" {
		public, err := publickey.ParseAny([]byte(fk.PublicKey))
		if err != nil {
			return nil, fmt.Errorf("key %q: public_key: %w", fk.KeyID, err)
		}
		if err := publickey.CheckAlgorithm(public.Kind, fk.Algorithm); err != nil {
			return nil, fmt.Errorf("key %q: %w", fk.KeyID, err)
		}
		k.PublicKey = public.SPKI
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

// parseJWKS returns nil, nil for what is no JWK Set at all.
func parseJWKS(data []byte) (*KeyFile, error) {
	if !publickey.IsJWKS(data) {
		return nil, nil //nolint:nilnil // "not one" is neither a set nor an error
	}
	set, err := publickey.ParseJWKS(data)
	if err != nil {
		return nil, err
	}
	kf := &KeyFile{}
	for i, k := range set {
		if k.Err != nil {
			return nil, fmt.Errorf("keys[%d] of the JWK Set: %w", i, k.Err)
		}
		owner := k.OwnerID
		if owner == "" {
			owner = "default"
		}
		kf.Keys = append(kf.Keys, FileKey{
			KeyID: k.KeyID, OwnerID: owner, Algorithm: k.Key.Algorithm, PublicKey: base64.StdEncoding.EncodeToString(k.Key.SPKI),
		})
	}
	_, err = kf.index()
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
