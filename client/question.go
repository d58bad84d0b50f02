package client

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Limits of the sidecar's contract.
const (
	maxIDBytes     = 256
	maxSecretBytes = 4096
	maxScopes      = 64
	maxScopeBytes  = 256
	maxBody        = 64 << 10
	maxBatchBody   = 1 << 20
)

// Secret is a secret key as somebody presented it. It does not show itself when it is
// printed, logged or marshalled.
type Secret string

const redacted = "[redacted]"

// String returns nothing of the secret.
func (Secret) String() string { return redacted }

// Format writes nothing of the secret, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText returns nothing of the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Question is what Verify asks. Exactly one of KeyID and Secret is set. Every check
// that is named must pass; a field that is empty asks nothing, so make sure that what
// must be checked is not empty.
type Question struct {
	// KeyID identifies the key.
	KeyID string
	// Secret is a secret key; the sidecar knows it by its hash.
	Secret Secret
	// OwnerID is the owner that the key must have.
	OwnerID string
	// Scopes are what the key must have, all of them, byte for byte.
	Scopes []string
	// Attributes are what the key's attributes must equal: strings, numbers and truth
	// values by name.
	Attributes map[string]any
}

// wireQuestion is a Question as the sidecar reads it.
type wireQuestion struct {
	KeyID      string         `json:"key_id,omitempty"`
	Key        string         `json:"key,omitempty"`
	OwnerID    string         `json:"owner_id,omitempty"`
	Scopes     []string       `json:"scopes,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
}

// wire checks q. The error is a *RefusedError if what it asks about cannot be a key,
// and a *QuestionError if anything else is wrong.
func (q *Question) wire() (*wireQuestion, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	return &wireQuestion{q.KeyID, string(q.Secret), q.OwnerID, q.Scopes, q.Attributes}, nil
}

func (q *Question) check() error {
	if q.KeyID != "" && q.Secret != "" {
		return badMember("key", "KeyID and Secret exclude each other")
	}
	if err := q.checkRest(); err != nil {
		return err
	}
	if q.Secret != "" {
		return checkSecret(q.Secret)
	}
	return checkKeyID(q.KeyID)
}

// checkRest finds what the encoding would otherwise lose or alter without a word.
func (q *Question) checkRest() error {
	if q.OwnerID != "" && (len(q.OwnerID) > maxIDBytes || !isText(q.OwnerID)) {
		return badMember("owner_id", "an owner_id has at most 256 bytes of UTF-8 and no control characters")
	}
	switch {
	case q.Scopes != nil && len(q.Scopes) == 0:
		return badMember("scopes", "the list is empty; use nil to ask nothing")
	case len(q.Scopes) > maxScopes:
		return badMember("scopes", "at most 64 scopes can be asked for")
	case q.Attributes != nil && len(q.Attributes) == 0:
		return badMember("attributes", "the map is empty; use nil to ask nothing")
	}
	for _, s := range q.Scopes {
		if s == "" || len(s) > maxScopeBytes || !utf8.ValidString(s) {
			return badMember("scopes", "a scope has 1 to 256 bytes of UTF-8")
		}
	}
	for name, value := range q.Attributes {
		if !utf8.ValidString(name) || !isScalar(value) {
			return badMember("attributes", "attributes are strings of UTF-8, numbers and truth values by name")
		}
	}
	return nil
}

// isScalar reports whether v is encoded as a JSON string, number or truth value, and
// unaltered.
func isScalar(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, json.Number:
		return true
	}
	return false
}

func badMember(member, detail string) error {
	return &QuestionError{Code: "bad_member", Member: member, Detail: detail}
}

func malformed(detail string) error {
	return &RefusedError{Code: CodeMalformedKey, Detail: detail}
}

// checkKeyID refuses what is no key_id: [A-Za-z0-9._~+=:-]{1,256}, not "." or "..".
// What passes needs no escaping in a path.
func checkKeyID(id string) error {
	switch {
	case id == "":
		return malformed("the key_id is empty")
	case len(id) > maxIDBytes:
		return malformed("the key_id has more than 256 bytes")
	case id == "." || id == "..":
		return malformed("the key_id is a path segment with a meaning of its own")
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '~', c == '+', c == '=', c == ':', c == '-':
		default:
			return malformed("the key_id has a byte that is not one of A-Z a-z 0-9 . _ ~ + = : -")
		}
	}
	return nil
}

func checkSecret(s Secret) error {
	switch {
	case len(s) > maxSecretBytes:
		return malformed("the secret has more than 4096 bytes")
	case !utf8.ValidString(string(s)):
		return malformed("the secret is not UTF-8")
	}
	return nil
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

// encode returns v as JSON of at most limit bytes.
func encode(v any, limit int) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, &QuestionError{Code: "bad_member", Detail: err.Error()}
	}
	if len(text) > limit {
		return nil, &QuestionError{Code: "body_too_large", Detail: fmt.Sprintf("the question has more than %d bytes as JSON", limit)}
	}
	return text, nil
}
