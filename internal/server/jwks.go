package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// Header fields of key sets.
const (
	headerETag = "ETag"
	// headerLeftOut counts keys that are valid and no part of the set.
	headerLeftOut = "Keysidecar-Left-Out"
	// headerSource says where the set came from, as source does in a verdict.
	headerSource = "Keysidecar-Source"
)

// getJWKS answers GET /v1/owners/{owner_id}/jwks.json: the owner's keys that may be
// used now, as a JWK Set (RFC 7517, 5).
//
// It is the one answer that may be kept, if whoever keeps it asks before each use
// whether it is still the same (no-cache, RFC 9111, 5.2.2.4): the entity tag is of what
// the set is at this moment, so that an answer 304 is as good as the set. Anything
// longer would be added to the bound of a revocation.
func (d *Data) getJWKS(x *exchange) error {
	media, ok := x.headers.negotiate(setOf(mediaJWKSet))
	if !ok {
		if media, ok = x.headers.negotiate(setOf(mediaJSON)); !ok {
			return errNotAcceptable
		}
	}
	owner, err := decodeOwnerID(x.rest, x.id)
	if err != nil {
		return err
	}
	if &owner[0] != &x.rest[0] {
		x.id = owner // keep the grown buffer
	}
	set, err := d.keys.KeySet(x.ctx, stringOf(owner), x.bounds)
	var unavailable *keystore.UnavailableError
	switch {
	case errors.Is(err, keystore.ErrSetTooLarge):
		return errSetTooLarge
	case errors.As(err, &unavailable):
		return errSetUnavailable
	case err != nil:
		return err
	}
	d.borrow(x)
	out := appendJWKS(x.out, &set)
	tag := entityTag(out)
	h := &x.req.Response.Header
	h.Set(headerETag, tag)
	h.Set(headerSource, set.Origin.String())
	h.Set(headerLeftOut, string(appendInt(nil, set.LeftOut)))
	x.revalidate = true
	if matches(x.headers.ifNoneMatch, tag) {
		return x.answer(http.StatusNotModified, "", out[:0])
	}
	return x.answer(http.StatusOK, media.String(), out)
}

func appendJWKS(b []byte, set *keystore.KeySet) []byte {
	b = append(b, `{"keys":[`...)
	for i := range set.Keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, set.Keys[i].JWK...)
	}
	return append(b, "]}"...)
}

// entityTag is a strong one: it changes with any byte, and every sidecar that answers
// by the same keys gives the same.
func entityTag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// matches reports whether an If-None-Match field (RFC 9110, 13.1.2) has tag, by weak
// comparison. What breaks the grammar matches nothing, and the set is sent.
func matches(field []byte, tag string) bool {
	for len(field) > 0 {
		field = trimBlanks(field)
		if len(field) > 0 && field[0] == ',' {
			field = field[1:]
			continue
		}
		if string(field) == "*" {
			return true
		}
		field = bytes.TrimPrefix(field, []byte("W/"))
		if len(field) == 0 || field[0] != '"' {
			return false
		}
		end := bytes.IndexByte(field[1:], '"')
		if end < 0 {
			return false
		}
		if string(field[:end+2]) == tag {
			return true
		}
		field = field[end+2:]
	}
	return false
}

// decodeOwnerID takes the one path segment that names an owner: one percent-decoding,
// no normalising. An owner_id may hold a slash, written %2F. "." and ".." are refused,
// because so many libraries take them away.
func decodeOwnerID(segment, scratch []byte) ([]byte, error) {
	id, ok := decodeSegment(segment, scratch)
	switch {
	case !ok:
		return nil, errBadOwnerID.with("a % in the path is not followed by two hexadecimal digits")
	case string(id) == "." || string(id) == "..":
		return nil, errBadOwnerID.with("the owner_id is a path segment with a meaning of its own")
	case !utf8.Valid(id):
		return nil, errBadOwnerID.with("the owner_id in the path is not UTF-8")
	}
	if err := keystore.CheckOwnerID(stringOf(id)); err != nil {
		return nil, errBadOwnerID.with(err.Error())
	}
	return id, nil
}
