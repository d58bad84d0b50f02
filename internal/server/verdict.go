package server

import (
	"encoding/base64"
	"strconv"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// code is a verdict: what the keystore says of a key by itself, or what asking
// more of it found.
type code uint8

const (
	// unavailable is the zero value, so that a forgotten assignment is never a
	// valid key.
	unavailable code = iota
	active
	unknownKey
	revoked
	expired
	notYetValid
	ownerSuspended
	ownerMismatch
	scopeMissing
	attributeMismatch
	signatureInvalid
	algorithmMismatch

	numCodes = int(algorithmMismatch) + 1
)

// codeOf translates a keystore's code.
func codeOf(c keystore.Code) code {
	switch c {
	case keystore.Active:
		return active
	case keystore.UnknownKey:
		return unknownKey
	case keystore.Revoked:
		return revoked
	case keystore.Expired:
		return expired
	case keystore.NotYetValid:
		return notYetValid
	case keystore.OwnerSuspended:
		return ownerSuspended
	case keystore.Unavailable:
	}
	return unavailable
}

// String returns the code as the HTTP contract spells it.
func (c code) String() string {
	switch c {
	case active:
		return keystore.Active.String()
	case unknownKey:
		return keystore.UnknownKey.String()
	case revoked:
		return keystore.Revoked.String()
	case expired:
		return keystore.Expired.String()
	case notYetValid:
		return keystore.NotYetValid.String()
	case ownerSuspended:
		return keystore.OwnerSuspended.String()
	case ownerMismatch:
		return "owner_mismatch"
	case scopeMissing:
		return "scope_missing"
	case attributeMismatch:
		return "attribute_mismatch"
	case signatureInvalid:
		return "signature_invalid"
	case algorithmMismatch:
		return "algorithm_mismatch"
	case unavailable:
	}
	return keystore.Unavailable.String()
}

// verdict is the answer to a question about one key.
type verdict struct {
	code  code
	keyID string
	// answer is what the keystore found; its Record is used only if code is
	// active, so that a negative verdict cannot carry key material.
	answer keystore.Answer
	// thumbprint names the public key (RFC 7638) that a signature was verified with.
	thumbprint string
}

// appendVerdict appends v as JSON. It allocates only to grow b.
func appendVerdict(b []byte, v *verdict) []byte {
	return appendGrounds(appendFinding(b, v), v)
}

// appendFinding appends what is said of the key itself: v up to its grounds.
func appendFinding(b []byte, v *verdict) []byte {
	valid := v.code == active
	if valid {
		b = append(b, `{"valid":true,"code":"active","key_id":"`...)
	} else {
		b = append(b, `{"valid":false,"code":"`...)
		b = append(b, v.code.String()...)
		b = append(b, `","key_id":"`...)
	}
	b = append(b, v.keyID...) // its alphabet needs no escaping
	b = append(b, '"')
	if valid {
		b = appendKey(b, v.answer.Record)
		if v.thumbprint != "" {
			b = append(b, `,"thumbprint":"`...)
			b = append(b, v.thumbprint...)
			b = append(b, '"')
		}
	}
	return b
}

// appendGrounds appends what v rests on, which is the end of it.
func appendGrounds(b []byte, v *verdict) []byte {
	b = append(b, `,"as_of":`...)
	b = appendAsOf(b, &v.answer.AsOf)
	b = append(b, `,"source":`...)
	if v.code == unavailable {
		return append(b, `null}`...)
	}
	b = append(b, '"')
	b = append(b, v.answer.Origin.String()...)
	return append(b, `"}`...)
}

// appendKey appends the members that only a valid key has.
func appendKey(b []byte, r keystore.Record) []byte {
	b = append(b, `,"owner_id":`...)
	b = appendString(b, r.OwnerID())
	b = append(b, `,"algorithm":`...)
	b = appendString(b, r.Algorithm())
	if der, ok := r.PublicKey(); ok {
		b = append(b, `,"public_key":"`...)
		b = base64.StdEncoding.AppendEncode(b, bytesOf(der))
		b = append(b, `","scopes":[`...)
	} else {
		b = append(b, `,"public_key":null,"scopes":[`...)
	}
	first := true
	for s := range r.Scopes {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, s)
	}
	b = append(b, `],"not_before":`...)
	b = appendTime(b, r.NotBefore)
	b = append(b, `,"expires_at":`...)
	b = appendTime(b, r.ExpiresAt)
	b = append(b, `,"attributes":`...)
	if a := r.Attributes(); a != "" {
		return append(b, a...) // the store holds it as a JSON object
	}
	return append(b, `{}`...)
}

// appendAsOf appends the state of the log an answer reflects, or null if no
// answer stands behind it.
func appendAsOf(b []byte, a *keystore.AsOf) []byte {
	if a.History == "" {
		return append(b, `null`...)
	}
	b = append(b, `{"history":`...)
	b = appendString(b, a.History)
	b = append(b, `,"seq":`...)
	b = strconv.AppendInt(b, a.Seq, 10)
	b = append(b, `,"age_ms":`...)
	b = strconv.AppendInt(b, milliseconds(a.Age), 10)
	return append(b, '}')
}

// milliseconds rounds an age up: an answer is never younger than it says.
func milliseconds(d time.Duration) int64 {
	return int64((max(d, 0) + time.Millisecond - 1) / time.Millisecond)
}

// appendTime appends an optional time in RFC 3339, UTC, with milliseconds
// (rounded down), or null. Years beyond 9999, which RFC 3339 cannot spell, are
// given as its last moment.
func appendTime(b []byte, get func() (time.Time, bool)) []byte {
	t, ok := get()
	if !ok {
		return append(b, `null`...)
	}
	if t.Year() > 9999 {
		return append(b, `"9999-12-31T23:59:59.999Z"`...)
	}
	// Of all layouts, the library has a quick way for RFC 3339 without a fraction; that
	// goes where the Z is.
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339)
	ms := t.Nanosecond() / int(time.Millisecond)
	return append(b[:len(b)-1], '.', digit(ms/100), digit(ms/10), digit(ms), 'Z', '"')
}

// digit is n's last one.
func digit(n int) byte { return byte('0' + n%10) }

const hexDigits = "0123456789abcdef"

// plainByte says which bytes stand for themselves in a JSON string, and are
// characters of their own: all of ASCII but control characters, quotes and
// backslashes. Read-only.
var plainByte = func() (plain [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

// appendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD; <, > and & stay, as no answer is HTML.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plainByte[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, s[start:i]...)
				b = append(b, `\ufffd`...)
				start = i + n
			}
			i += n
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&0xf])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// bytesOf views s as bytes, which must not be written to.
func bytesOf(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // read-only view, see above
}

// stringOf views b as a string for the length of a call. The caller keeps b
// unchanged meanwhile, and the callee does not keep the string: keystore's
// Lookup promises that its keyID need not outlive the call.
func stringOf(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // for the length of a call, see above
}

// told counts a verdict that is final.
func (d *Data) told(v *verdict) {
	d.metrics.verdicts[v.code].Inc()
	d.used(v)
}

// used notes the use of a key that may be used for what was asked; other verdicts
// are no use.
func (d *Data) used(v *verdict) {
	if v.code == active && d.opts.Uses != nil {
		d.opts.Uses.Note(v.answer.Record.KeyID()) // the record's, which never changes
	}
}
