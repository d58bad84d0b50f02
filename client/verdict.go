package client

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Key is a key that may be used.
type Key struct {
	// ID is the key_id; of a secret key, its hash.
	ID        string
	OwnerID   string
	Algorithm string
	// PublicKey is the SubjectPublicKeyInfo in DER (RFC 5280, 4.1); nil for an opaque
	// key.
	PublicKey []byte
	Scopes    []string
	// NotBefore and ExpiresAt bound the key's life by the database's clock; zero means
	// no bound.
	NotBefore, ExpiresAt time.Time
	// Attributes is a JSON object.
	Attributes json.RawMessage
	AsOf       AsOf
	Source     Source
}

// ErrOpaque: the key has no public key.
var ErrOpaque = errors.New("keysidecar: the key is opaque: it has no public key")

// Public returns the public key: an ed25519.PublicKey, *ecdsa.PublicKey or
// *rsa.PublicKey, or another that x509.ParsePKIXPublicKey knows.
func (k *Key) Public() (crypto.PublicKey, error) {
	if k.PublicKey == nil {
		return nil, ErrOpaque
	}
	return x509.ParsePKIXPublicKey(k.PublicKey)
}

// HasScopes reports whether the key has all of the scopes.
func (k *Key) HasScopes(scopes ...string) bool {
	for _, s := range scopes {
		if !slices.Contains(k.Scopes, s) {
			return false
		}
	}
	return true
}

// AsOf is the state of the event log that an answer reflects: every event up to Seq of
// this history, proven Age ago.
type AsOf struct {
	History string
	Seq     int64
	// Age is rounded up to milliseconds.
	Age time.Duration
}

// Source is where an answer came from.
type Source string

// Sources.
const (
	FromCache    Source = "cache"
	FromDatabase Source = "database"
	// FromStale: memory after its lease, only under serve_stale.
	FromStale Source = "stale"
)

// verdict is the sidecar's answer about one key.
type verdict struct {
	Valid      *bool           `json:"valid"`
	Code       string          `json:"code"`
	KeyID      string          `json:"key_id"`
	OwnerID    string          `json:"owner_id"`
	Algorithm  string          `json:"algorithm"`
	PublicKey  []byte          `json:"public_key"`
	Scopes     []string        `json:"scopes"`
	NotBefore  time.Time       `json:"not_before"`
	ExpiresAt  time.Time       `json:"expires_at"`
	Attributes json.RawMessage `json:"attributes"`
	AsOf       *struct {
		History string `json:"history"`
		Seq     int64  `json:"seq"`
		AgeMS   int64  `json:"age_ms"`
	} `json:"as_of"`
	Source string `json:"source"`
}

func (v *verdict) asOf() AsOf {
	if v.AsOf == nil {
		return AsOf{}
	}
	return AsOf{v.AsOf.History, v.AsOf.Seq, time.Duration(v.AsOf.AgeMS) * time.Millisecond}
}

const (
	codeActive      = "active"
	codeUnavailable = "unavailable"
)

// judge turns v into what a caller gets for q: a key, or the reason why not. What is
// not beyond doubt is no answer, and no refusal either.
func (v *verdict) judge(q *Question) (*Key, error) {
	switch {
	case v.Valid == nil || v.Code == "":
		return nil, errNoVerdict
	case *v.Valid != (v.Code == codeActive):
		return nil, errContradicts
	case !v.names(q):
		return nil, errOtherKey
	case v.Code == codeUnavailable:
		return nil, &UnavailableError{Code: v.Code}
	case !*v.Valid:
		return nil, &RefusedError{Code: Code(v.Code), KeyID: v.KeyID, AsOf: v.asOf()}
	}
	k := &Key{
		ID: v.KeyID, OwnerID: v.OwnerID, Algorithm: v.Algorithm, PublicKey: v.PublicKey, Scopes: v.Scopes,
		NotBefore: v.NotBefore, ExpiresAt: v.ExpiresAt, Attributes: v.Attributes, AsOf: v.asOf(), Source: Source(v.Source),
	}
	if k.OwnerID == "" || q.OwnerID != "" && k.OwnerID != q.OwnerID || !k.HasScopes(q.Scopes...) {
		return nil, errOtherAnswer
	}
	return k, nil
}

// secretIDBytes is the length of the key_id of a secret: sha256: and the base64url of
// its hash.
const secretIDBytes = len("sha256:") + 43

// names reports whether v is about the key that q asks for. What a secret hashes to is
// the sidecar's to know, for it may use a pepper: only the form can be held against it.
func (v *verdict) names(q *Question) bool {
	if q.Secret != "" {
		return len(v.KeyID) == secretIDBytes && strings.HasPrefix(v.KeyID, "sha256:") && checkKeyID(v.KeyID) == nil
	}
	return v.KeyID == q.KeyID
}

// judge is what a caller gets for an answer about one key. valid is the status of an
// active key, and refusals are those of others.
func (r *reply) judge(q *Question, refusals ...int) (*Key, error) {
	if r.media != "application/json" {
		return nil, r.noVerdict()
	}
	var v verdict
	if err := json.Unmarshal(r.body, &v); err != nil {
		return nil, &UnavailableError{Status: r.status, Err: errors.Join(errNoVerdict, err)}
	}
	key, err := v.judge(q)
	var (
		refused     *RefusedError
		unavailable *UnavailableError
		fits        bool
	)
	switch {
	case err == nil:
		fits = r.status == http.StatusOK
	case errors.As(err, &refused):
		fits = slices.Contains(refusals, r.status)
	case errors.As(err, &unavailable):
		unavailable.Status, fits = r.status, true
	default:
		return nil, &UnavailableError{Status: r.status, Err: err}
	}
	if !fits {
		return nil, &UnavailableError{Status: r.status, Err: errContradicts}
	}
	return key, err
}

// noVerdict is the error for an answer that is no verdict: that the question was
// wrong, where the sidecar says so, and otherwise that nobody can tell.
func (r *reply) noVerdict() error {
	var p struct {
		Status int    `json:"status"`
		Code   string `json:"code"`
		Detail string `json:"detail"`
		Member string `json:"member"`
	}
	if r.media != "application/problem+json" || json.Unmarshal(r.body, &p) != nil || p.Code == "" || p.Status != r.status {
		return &UnavailableError{Status: r.status, Err: errNoVerdict}
	}
	switch r.status {
	case http.StatusBadRequest, http.StatusNotAcceptable, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
		return &QuestionError{Code: p.Code, Member: p.Member, Detail: p.Detail}
	}
	return &UnavailableError{Status: r.status, Code: p.Code}
}
