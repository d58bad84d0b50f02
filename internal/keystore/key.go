package keystore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// Limits on what one key may hold. Postgres checks the same ones.
const (
	MaxIDBytes         = 256
	MaxAttributesBytes = 1024
	MaxPublicKeyBytes  = 8192
	MaxScopes          = 64
	MaxScopeBytes      = 256
)

// Key is one key as its store knows it: a row of keysidecar.public_keys, or an
// entry of a key file.
type Key struct {
	ID        string
	OwnerID   string
	Algorithm string
	// PublicKey is the SubjectPublicKeyInfo in DER (RFC 5280, 4.1); nil for an
	// opaque key.
	PublicKey []byte
	Scopes    []string
	// NotBefore and ExpiresAt bound the key's life: NotBefore <= t < ExpiresAt.
	// The zero Time means no bound.
	NotBefore, ExpiresAt time.Time
	// Revoked is true once revoked_at is set, whatever its value.
	Revoked bool
	// Attributes is a JSON object, or empty for none.
	Attributes string
	// OwnerSuspended is the owner's state in the same snapshot.
	OwnerSuspended bool
}

// Check reports the first rule that k breaks, in words for whoever wrote it.
func (k *Key) Check() error {
	if err := CheckKeyID(k.ID); err != nil {
		return err
	}
	if err := CheckOwnerID(k.OwnerID); err != nil {
		return fmt.Errorf("key %q: %w", k.ID, err)
	}
	switch {
	case k.Algorithm == "" || len(k.Algorithm) > 64:
		return fmt.Errorf("key %q: algorithm must have 1 to 64 characters", k.ID)
	case k.PublicKey != nil && len(k.PublicKey) == 0:
		return fmt.Errorf("key %q: the public key is empty; an opaque key has none", k.ID)
	case len(k.PublicKey) > MaxPublicKeyBytes:
		return fmt.Errorf("key %q: public key of %d bytes, at most %d", k.ID, len(k.PublicKey), MaxPublicKeyBytes)
	case len(k.Scopes) > MaxScopes:
		return fmt.Errorf("key %q: %d scopes, at most %d", k.ID, len(k.Scopes), MaxScopes)
	case k.Attributes != "" && !isObject(k.Attributes):
		return fmt.Errorf("key %q: attributes are not a JSON object", k.ID)
	case len(k.Attributes) > MaxAttributesBytes:
		return fmt.Errorf("key %q: attributes of %d bytes, at most %d", k.ID, len(k.Attributes), MaxAttributesBytes)
	}
	for _, s := range k.Scopes {
		if s == "" || len(s) > MaxScopeBytes || !utf8.ValidString(s) {
			return fmt.Errorf("key %q: scope %q must have 1 to %d bytes of UTF-8", k.ID, s, MaxScopeBytes)
		}
	}
	return nil
}

func isObject(text string) bool {
	return strings.HasPrefix(text, "{") && json.Valid([]byte(text))
}

// ErrBadKeyID wraps what CheckKeyID finds.
var ErrBadKeyID = errors.New("bad key_id")

// CheckKeyID reports why id cannot be a key_id: [A-Za-z0-9._~+=:-]{1,256}, and
// neither "." nor "..", which URL libraries remove from paths.
func CheckKeyID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty", ErrBadKeyID)
	case len(id) > MaxIDBytes:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrBadKeyID, len(id), MaxIDBytes)
	case id == "." || id == "..":
		return fmt.Errorf("%w: %q is a path segment with a meaning of its own", ErrBadKeyID, id)
	}
	for i := 0; i < len(id); i++ {
		if !keyIDByte[id[i]] {
			return fmt.Errorf("%w: byte %d is not one of A-Z a-z 0-9 . _ ~ + = : -", ErrBadKeyID, i+1)
		}
	}
	return nil
}

// keyIDByte says which bytes a key_id may have. Read-only.
var keyIDByte = func() (ok [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~+=:-") {
		ok[c] = true
	}
	return ok
}()

// CheckOwnerID reports why id cannot be an owner_id: 1 to 256 bytes of UTF-8
// without control characters.
func CheckOwnerID(id string) error {
	if id == "" || len(id) > MaxIDBytes || !utf8.ValidString(id) {
		return fmt.Errorf("owner_id must have 1 to %d bytes of UTF-8", MaxIDBytes)
	}
	for _, r := range id {
		if r < 0x20 || r == 0x7f {
			return errors.New("owner_id must not hold control characters")
		}
	}
	return nil
}

// HashSecret returns the key_id under which a secret key is stored: "sha256:"
// and the unpadded base64url of the secret's SHA-256, or of its HMAC-SHA-256
// under pepper if that is not empty. The secret itself is kept nowhere.
func HashSecret(pepper, secret []byte) string {
	return string(NewSecretHasher(pepper).AppendKeyID(nil, secret))
}

// SecretHasher hashes secrets one after another without making garbage. It is
// not safe for concurrent use.
type SecretHasher struct {
	hash hash.Hash
	sum  [sha256.Size]byte
}

// NewSecretHasher returns a hasher of secrets under pepper, which may be empty.
func NewSecretHasher(pepper []byte) *SecretHasher {
	if len(pepper) == 0 {
		return &SecretHasher{hash: sha256.New()}
	}
	return &SecretHasher{hash: hmac.New(sha256.New, pepper)}
}

// AppendKeyID appends the key_id that HashSecret returns for secret to b.
func (h *SecretHasher) AppendKeyID(b, secret []byte) []byte {
	h.hash.Reset()
	h.hash.Write(secret)
	h.hash.Sum(h.sum[:0])
	h.hash.Reset() // a part of the secret stands in the hash's buffer
	return base64.RawURLEncoding.AppendEncode(append(b, "sha256:"...), h.sum[:])
}

// Record is a Key packed into one immutable string, so that a million of them
// cost the garbage collector a million pointers and not ten million. Its methods
// return substrings: they allocate nothing and stay valid for ever.
//
// Layout, little-endian: a head of flags, counts and lengths; the two times
// (microseconds since the epoch), each only if the key has it; then the parts in
// the order of their lengths, then the scopes, each behind its own length.
type Record struct{ packed string }

const (
	offFlags     = 0
	offScopes    = 1 // number of scopes
	offFilled    = 2 // uint32: seconds since boot at which the key was read, see Record.filled
	offKeyID     = 6 // uint16 lengths from here
	offOwnerID   = 8
	offAlgorithm = 10
	offPublicKey = 12
	offAttrs     = 14
	headBytes    = 16

	flagRevoked   = 1 << 0
	flagPublicKey = 1 << 1 // tells an opaque key from an empty one
	flagNotBefore = 1 << 2
	flagExpiresAt = 1 << 3
)

// Row is a key as a source reads it, in bytes that are valid only during the
// call that hands it over.
type Row struct {
	ID, OwnerID, Algorithm []byte
	PublicKey              []byte // nil for an opaque key
	Scopes                 [][]byte
	// NotBefore and ExpiresAt are microseconds since the Unix epoch, Never and
	// Always if unbounded.
	NotBefore, ExpiresAt    int64
	Revoked, OwnerSuspended bool
	Attributes              []byte // a JSON object, or empty
	// bad is what a source found wrong while reading the row.
	bad error
}

// Never and Always are a Row's unbounded NotBefore and ExpiresAt.
const (
	Never  int64 = math.MinInt64
	Always int64 = math.MaxInt64
)

// check reports what keeps row from being packed: a length the layout has no
// room for. Postgres's constraints refuse such rows long before, but a view over
// an operator's own table may have none.
func (row *Row) check() error {
	if row.bad != nil {
		return fmt.Errorf("key %q: %w", row.ID, row.bad)
	}
	if err := CheckKeyID(string(row.ID)); err != nil {
		return err
	}
	if len(row.OwnerID) == 0 || len(row.OwnerID) > MaxIDBytes || len(row.Algorithm) > math.MaxUint8 ||
		len(row.PublicKey) > MaxPublicKeyBytes || len(row.Attributes) > MaxAttributesBytes || len(row.Scopes) > MaxScopes {
		return fmt.Errorf("key %q: a column is empty or longer than keysidecar allows", row.ID)
	}
	if len(row.Attributes) > 0 && row.Attributes[0] != '{' {
		return fmt.Errorf("key %q: attributes are not a JSON object", row.ID)
	}
	for _, s := range row.Scopes {
		if len(s) > MaxScopeBytes {
			return fmt.Errorf("key %q: a scope has more than %d bytes", row.ID, MaxScopeBytes)
		}
	}
	return nil
}

// record packs row.
func (row *Row) record() Record {
	return Record{packed: string(row.pack(nil, 0))}
}

// pack appends the packed row to b. filled is when it was read.
func (row *Row) pack(b []byte, filled clock.Instant) []byte {
	attrs := row.Attributes
	if string(attrs) == "{}" {
		attrs = nil
	}
	var flags byte
	if row.Revoked {
		flags |= flagRevoked
	}
	if row.PublicKey != nil {
		flags |= flagPublicKey
	}
	if row.NotBefore != Never {
		flags |= flagNotBefore
	}
	if row.ExpiresAt != Always {
		flags |= flagExpiresAt
	}
	b = append(b, flags, byte(len(row.Scopes)))                                        //nolint:gosec // see check
	b = binary.LittleEndian.AppendUint32(b, uint32(time.Duration(filled)/time.Second)) //nolint:gosec // 136 years of uptime
	for _, part := range [...][]byte{row.ID, row.OwnerID, row.Algorithm, row.PublicKey, attrs} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(part))) //nolint:gosec // see check
	}
	if flags&flagNotBefore != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(row.NotBefore)) //nolint:gosec // two's complement
	}
	if flags&flagExpiresAt != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(row.ExpiresAt)) //nolint:gosec // two's complement
	}
	b = append(b, row.ID...)
	b = append(b, row.OwnerID...)
	b = append(b, row.Algorithm...)
	b = append(b, row.PublicKey...)
	b = append(b, attrs...)
	for _, s := range row.Scopes {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s))) //nolint:gosec // see check
		b = append(b, s...)
	}
	return b
}

// NewRecord packs k. It does not check k; see Key.Check.
func NewRecord(k *Key) Record { return k.row().record() }

func micros(t time.Time, unset int64) int64 {
	if t.IsZero() {
		return unset
	}
	return t.UnixMicro()
}

func (r Record) flag(f byte) bool { return r.packed[offFlags]&f != 0 }

func (r Record) int64At(off int) int64 {
	var n uint64
	for i := 7; i >= 0; i-- {
		n = n<<8 | uint64(r.packed[off+i])
	}
	return int64(n)
}

func (r Record) uint16At(off int) int {
	return int(r.packed[off]) | int(r.packed[off+1])<<8
}

// notBefore and expiresAt are in microseconds since the epoch, Never and Always
// if unbounded.
func (r Record) notBefore() int64 {
	if !r.flag(flagNotBefore) {
		return Never
	}
	return r.int64At(headBytes)
}

func (r Record) expiresAt() int64 {
	switch {
	case !r.flag(flagExpiresAt):
		return Always
	case r.flag(flagNotBefore):
		return r.int64At(headBytes + 8)
	}
	return r.int64At(headBytes)
}

// filled is when the key was read, rounded down to a second: for max_ttl, which
// may end an entry's life a little early.
func (r Record) filled() clock.Instant {
	s := int64(r.uint16At(offFilled)) | int64(r.uint16At(offFilled+2))<<16
	return clock.Instant(s * int64(time.Second))
}

// parts is where the variable parts begin.
func (r Record) parts() int {
	at := headBytes
	if r.flag(flagNotBefore) {
		at += 8
	}
	if r.flag(flagExpiresAt) {
		at += 8
	}
	return at
}

// part returns the variable part whose length stands at off.
func (r Record) part(off int) string {
	start := r.parts()
	for o := offKeyID; o < off; o += 2 {
		start += r.uint16At(o)
	}
	return r.packed[start : start+r.uint16At(off)]
}

// IsZero reports whether r holds no key.
func (r Record) IsZero() bool { return r.packed == "" }

// KeyID returns the key's identifier.
func (r Record) KeyID() string { return r.part(offKeyID) }

// OwnerID returns the owner's identifier.
func (r Record) OwnerID() string { return r.part(offOwnerID) }

// Algorithm returns the algorithm's name as stored.
func (r Record) Algorithm() string { return r.part(offAlgorithm) }

// PublicKey returns the SubjectPublicKeyInfo in DER; ok is false for an opaque key.
func (r Record) PublicKey() (der string, ok bool) {
	return r.part(offPublicKey), r.flag(flagPublicKey)
}

// Attributes returns the attributes as a JSON object, or "" for none.
func (r Record) Attributes() string { return r.part(offAttrs) }

// Revoked reports whether revoked_at is set.
func (r Record) Revoked() bool { return r.flag(flagRevoked) }

// NotBefore returns the first moment of the key's life; ok is false if unbounded.
func (r Record) NotBefore() (t time.Time, ok bool) {
	n := r.notBefore()
	if n == Never {
		return time.Time{}, false
	}
	return time.UnixMicro(n).UTC(), true
}

// ExpiresAt returns the first moment after the key's life; ok is false if unbounded.
func (r Record) ExpiresAt() (t time.Time, ok bool) {
	n := r.expiresAt()
	if n == Always {
		return time.Time{}, false
	}
	return time.UnixMicro(n).UTC(), true
}

// Scopes calls yield for each scope in stored order until it returns false. It
// has the shape of an iterator: for s := range r.Scopes.
func (r Record) Scopes(yield func(string) bool) {
	at := r.parts()
	for o := offKeyID; o < headBytes; o += 2 {
		at += r.uint16At(o)
	}
	for range r.packed[offScopes] {
		n := r.uint16At(at)
		if !yield(r.packed[at+2 : at+2+n]) {
			return
		}
		at += 2 + n
	}
}

// HasScope reports whether scope is among r's, compared byte for byte.
func (r Record) HasScope(scope string) bool {
	for s := range r.Scopes {
		if s == scope {
			return true
		}
	}
	return false
}

// Key unpacks r. For tests and tools; answers use the accessors above.
func (r Record) Key() Key {
	k := Key{ID: r.KeyID(), OwnerID: r.OwnerID(), Algorithm: r.Algorithm(), Attributes: r.Attributes(), Revoked: r.Revoked()}
	if der, ok := r.PublicKey(); ok {
		k.PublicKey = []byte(der)
	}
	for s := range r.Scopes {
		k.Scopes = append(k.Scopes, s)
	}
	if t, ok := r.NotBefore(); ok {
		k.NotBefore = t
	}
	if t, ok := r.ExpiresAt(); ok {
		k.ExpiresAt = t
	}
	return k
}
