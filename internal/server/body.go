package server

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// question is the body of POST /v1/verify, or one request of a batch. Its bytes
// belong to the request's body and live as long as that.
type question struct {
	// keyID is what was asked for, or what the presented secret hashes to.
	keyID []byte
	// ownerID, scopes and attributes are empty if not asked for.
	ownerID    []byte
	scopes     [][]byte
	attributes []attribute
	signed     signed
}

// The members of each object. Read-only.
var (
	questionMembers = []string{"key_id", "key", "owner_id", "scopes", "attributes", "signature", "algorithm", "message", "digest", "jws"}
	batchMembers    = []string{"requests", "partial"}
)

// maxSecretBytes bounds a presented secret key.
const maxSecretBytes = 4096

// bodyReader reads request bodies. Everything is strict: unknown, duplicate,
// null and empty members and values of a wrong kind are refused by name, since a
// check that is silently skipped is worse than none.
type bodyReader struct {
	jsonReader
	pepper []byte
}

func (r *bodyReader) reset(text, pepper []byte) {
	r.text, r.at, r.scratch = text, 0, r.scratch[:0]
	r.pepper = pepper
}

// verify reads a body that is one question.
func (r *bodyReader) verify(q *question) error {
	if r.kind() != kindObject {
		return errMalformedJSON
	}
	if err := r.question(q); err != nil {
		return err
	}
	return r.end()
}

// end checks that nothing follows.
func (r *bodyReader) end() error {
	if !r.atEnd() {
		return errMalformedJSON.with("something follows the JSON object")
	}
	return nil
}

// object reads the members of an object whose kind has been checked: for each it
// calls read with the index of its name in known.
func (r *bodyReader) object(known []string, read func(i int) error) error {
	r.next('{')
	var seen uint32
	for n := 0; ; n++ {
		more, ok := r.more(n, '}')
		if !ok {
			return r.malformed()
		}
		if !more {
			return nil
		}
		name, ok := r.str()
		if !ok || !r.next(':') {
			return r.malformed()
		}
		i := r.member(known, name)
		if i < 0 {
			return r.unknown(known, string(name))
		}
		if seen&(1<<i) != 0 {
			return errDuplicateMember.at(known[i], "the member occurs twice")
		}
		seen |= 1 << i
		if err := read(i); err != nil {
			return err
		}
	}
}

func (*bodyReader) member(known []string, name []byte) int {
	for i, k := range known {
		if string(name) == k {
			return i
		}
	}
	return -1
}

// question reads one question object into q.
func (r *bodyReader) question(q *question) error {
	q.keyID, q.ownerID, q.scopes, q.attributes = nil, nil, q.scopes[:0], q.attributes[:0]
	q.signed = signed{}
	var byID, bySecret bool
	err := r.object(questionMembers, func(i int) (err error) {
		at := questionMembers[i]
		switch at {
		case "key_id":
			byID = true
			q.keyID, err = r.keyID(at)
		case "key":
			bySecret = true
			q.keyID, err = r.secret(at)
		case "owner_id":
			if q.ownerID, err = r.nonEmpty(at, keystore.MaxIDBytes); err == nil && keystore.CheckOwnerID(stringOf(q.ownerID)) != nil {
				err = r.bad(at, "an owner_id has no control characters")
			}
		case "scopes":
			err = r.scopes(at, q)
		case "attributes":
			err = r.attributes(at, q)
		default:
			err = q.signed.member(r, at)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case byID && bySecret:
		return r.bad("key", "key_id and key exclude each other")
	case !byID && !bySecret:
		return errMissingMember.at("key_id", "either key_id or key is needed")
	}
	return q.signed.check(bySecret)
}

// byKeyID reads a question that does no more than name a key, written without blanks
// as most programs do: {"key_id":"..."}. At the first doubt it reads nothing, and
// question says what is there.
func (r *bodyReader) byKeyID(q *question) bool {
	const begin = `{"key_id":"`
	rest := r.text[r.at:]
	if len(rest) < len(begin) || string(rest[:len(begin)]) != begin {
		return false
	}
	rest = rest[len(begin):]
	end := bytes.IndexByte(rest, '"')
	if end < 0 || end+1 == len(rest) || rest[end+1] != '}' || keystore.CheckKeyID(stringOf(rest[:end])) != nil {
		return false
	}
	q.keyID, q.ownerID, q.scopes, q.attributes = rest[:end], nil, q.scopes[:0], q.attributes[:0]
	q.signed = signed{}
	r.at += len(begin) + end + len(`"}`)
	return true
}

// keyID reads a key_id.
func (r *bodyReader) keyID(at string) ([]byte, error) {
	id, err := r.nonEmpty(at, len(r.text))
	if err != nil {
		return nil, err
	}
	if err := keystore.CheckKeyID(stringOf(id)); err != nil {
		return nil, errBadKeyID.at(at, keyIDDetail(err))
	}
	return id, nil
}

// keyIDDetail words what CheckKeyID found. It names no byte of the id.
func keyIDDetail(err error) string {
	return strings.TrimPrefix(err.Error(), keystore.ErrBadKeyID.Error()+": ")
}

// secret reads a secret key, hashes it at once and wipes it.
func (r *bodyReader) secret(at string) ([]byte, error) {
	s, err := r.nonEmpty(at, maxSecretBytes)
	if err != nil {
		return nil, err
	}
	id := keystore.HashSecret(r.pepper, s)
	clear(s)
	return []byte(id), nil
}

// nonEmpty reads a string of 1 to most bytes.
func (r *bodyReader) nonEmpty(at string, most int) ([]byte, error) {
	if r.kind() != kindString {
		return nil, r.wrong(at, "a string")
	}
	s, ok := r.str()
	switch {
	case !ok:
		return nil, r.malformed()
	case len(s) == 0:
		return nil, r.bad(at, "the string is empty; leave the member out to ask nothing")
	case len(s) > most:
		return nil, r.bad(at, fmt.Sprintf("the string has more than %d bytes", most))
	}
	return s, nil
}

// scopes reads the scopes asked for.
func (r *bodyReader) scopes(at string, q *question) error {
	if r.kind() != kindArray {
		return r.wrong(at, "an array of strings")
	}
	r.next('[')
	for n := 0; ; n++ {
		more, ok := r.more(n, ']')
		switch {
		case !ok:
			return r.malformed()
		case !more && n == 0:
			return r.bad(at, "the array is empty; leave the member out to ask nothing")
		case !more:
			return nil
		case n == keystore.MaxScopes:
			return r.bad(at, fmt.Sprintf("at most %d scopes can be asked for", keystore.MaxScopes))
		}
		s, err := r.nonEmpty(at, keystore.MaxScopeBytes)
		if err != nil {
			return err
		}
		q.scopes = append(q.scopes, s)
	}
}

// attributes reads the attributes asked for.
func (r *bodyReader) attributes(at string, q *question) error {
	if r.kind() != kindObject {
		return r.wrong(at, "an object")
	}
	r.next('{')
	for n := 0; ; n++ {
		more, ok := r.more(n, '}')
		switch {
		case !ok:
			return r.malformed()
		case !more && n == 0:
			return r.bad(at, "the object is empty; leave the member out to ask nothing")
		case !more:
			return nil
		case n == maxAttributes:
			return r.bad(at, fmt.Sprintf("at most %d attributes can be asked for", maxAttributes))
		}
		name, ok := r.str()
		if !ok || !r.next(':') {
			return r.malformed()
		}
		if indexOf(q.attributes, name) >= 0 {
			return errDuplicateMember.at(at, "an attribute occurs twice")
		}
		a := attribute{name: name, kind: r.kind()}
		if a.value, ok = r.scalar(a.kind); !ok {
			return r.wrong(at, "an object whose values are strings, numbers, true or false")
		}
		q.attributes = append(q.attributes, a)
	}
}

// scalar reads a string, a number or a truth value.
func (r *bodyReader) scalar(k kind) ([]byte, bool) {
	start := r.at
	switch k {
	case kindString:
		return r.str()
	case kindNumber:
		return r.number()
	case kindBool:
		ok := r.word("true") || r.word("false")
		return r.text[start:r.at], ok
	case kindObject, kindArray, kindNull:
	}
	return nil, false
}

// boolean reads true or false.
func (r *bodyReader) boolean(at string) (bool, error) {
	if r.kind() != kindBool {
		return false, r.wrong(at, "true or false")
	}
	if r.word("true") {
		return true, nil
	}
	if r.word("false") {
		return false, nil
	}
	return false, r.malformed()
}

func (r *bodyReader) malformed() error {
	return errMalformedJSON.with("not JSON at byte " + strconv.Itoa(r.at+1))
}

// bad refuses a member for its value.
func (r *bodyReader) bad(at, detail string) error {
	return errBadMember.at(at, detail)
}

// wrong refuses a member for the kind of its value, which is the next one. What
// is no value at all is no JSON.
func (r *bodyReader) wrong(at, must string) error {
	switch r.kind() {
	case 0:
		return r.malformed()
	case kindNull:
		return r.bad(at, "the value is null; leave the member out to ask nothing")
	case kindObject, kindArray, kindString, kindNumber, kindBool:
	}
	return r.bad(at, "the value must be "+must)
}

// unknown refuses a member by its name and says which known one is nearest.
func (r *bodyReader) unknown(known []string, name string) error {
	shown := name
	if shown == "" {
		shown = `""`
	}
	if len(shown) > 64 {
		shown = strings.ToValidUTF8(shown[:64], "") + "..."
	}
	near := nearest(known, name)
	p := errUnknownMember.at(shown, "there is no such member; the nearest known one is "+near)
	q := *p
	q.suggestion = near
	return &q
}

// nearest returns the name of known that takes the fewest changes to become
// name, not counting case, hyphens and underscores.
func nearest(known []string, name string) string {
	name = plain(name)
	best, least := "", -1
	for _, k := range known {
		if d := distance(plain(k), name); least < 0 || d < least {
			best, least = k, d
		}
	}
	return best
}

func plain(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
}

// distance is the Levenshtein distance of two short strings, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// decode takes the one path segment that names a key: one percent-decoding, no
// normalising. The result is a slice of segment, or of scratch if something had
// to be decoded.
func decodeKeyID(segment, scratch []byte) ([]byte, error) {
	id, ok := decodeSegment(segment, scratch)
	if !ok {
		return nil, errBadKeyID.with("a % in the path is not followed by two hexadecimal digits")
	}
	if !utf8.Valid(id) {
		return nil, errBadKeyID.with("the key_id in the path is not UTF-8")
	}
	if err := keystore.CheckKeyID(stringOf(id)); err != nil {
		return nil, errBadKeyID.with(keyIDDetail(err))
	}
	return id, nil
}

// decodeSegment percent-decodes a path segment once. The result is a slice of segment,
// or of scratch if something had to be decoded.
func decodeSegment(segment, scratch []byte) (decoded []byte, ok bool) {
	if bytes.IndexByte(segment, '%') < 0 {
		return segment, true
	}
	decoded = scratch[:0]
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		if c == '%' {
			if len(segment)-i < 3 || hexDigit(segment[i+1]) < 0 || hexDigit(segment[i+2]) < 0 {
				return nil, false
			}
			c = byte(hexDigit(segment[i+1])<<4 | hexDigit(segment[i+2])) //nolint:gosec // two hexadecimal digits
			i += 2
		}
		decoded = append(decoded, c)
	}
	return decoded, true
}
