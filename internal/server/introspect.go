package server

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// introspect answers POST /v1/introspect (RFC 7662): the state of a credential of
// the kind that gateways' clients present. The caller decides what the key must
// have, so that no policy is asked here.
func (d *Data) introspect(x *exchange) error {
	if _, ok := x.headers.negotiate(setOf(mediaJSON)); !ok {
		return errNotAcceptable
	}
	token, err := formToken(x.content)
	if err != nil {
		return err
	}
	known := len(token) <= maxSecretBytes
	if d.gateway.credential == CredentialKeyID {
		x.id = append(x.id[:0], token...)
		known = known && keystore.CheckKeyID(stringOf(x.id)) == nil
	} else {
		d.hashSecret(x, token)
		clear(x.content)
		x.req.Conn().(*conn).forget() //nolint:forcetypeassert // every connection is made by listener.serve
	}
	if !known { // RFC 7662, 2.2: what is no token is as inactive as a revoked one
		return x.answer(http.StatusOK, typeJSON, append(x.out[:0], inactive...))
	}
	v, err := d.lookup(x.ctx, stringOf(x.id), x.bounds)
	if err != nil {
		return err
	}
	d.told(&v)
	switch v.code {
	case active:
		return x.answer(http.StatusOK, typeJSON, appendIntrospection(x.out[:0], &v))
	case unavailable:
		return errCannotTell
	default:
		return x.answer(http.StatusOK, typeJSON, append(x.out[:0], inactive...))
	}
}

// inactive says no more: RFC 7662, 2.2 advises against telling why.
const inactive = `{"active":false}`

// appendIntrospection appends what RFC 7662, 2.2 says of an active token. Scopes
// are encoded as in the header fields for gateways, so that one with a space in it
// does not become two. Fractions of a second shorten the key's life.
func appendIntrospection(b []byte, v *verdict) []byte {
	r := v.answer.Record
	b = append(b, `{"active":true,"key_id":"`...)
	b = append(b, v.keyID...) // its alphabet needs no escaping
	b = append(b, `","sub":`...)
	b = appendString(b, r.OwnerID())
	b = append(b, `,"client_id":`...)
	b = appendString(b, r.OwnerID())
	b = append(b, `,"scope":"`...)
	b = appendScopes(b, r) // encoded, it needs no escaping
	b = append(b, '"')
	if t, ok := r.NotBefore(); ok {
		seconds := t.Unix()
		if t.Nanosecond() > 0 {
			seconds++
		}
		b = strconv.AppendInt(append(b, `,"nbf":`...), seconds, 10)
	}
	if t, ok := r.ExpiresAt(); ok {
		b = strconv.AppendInt(append(b, `,"exp":`...), t.Unix(), 10)
	}
	return append(b, '}')
}

// formToken returns the parameter token of a form (RFC 7662, 2.1), decoded in
// place. Other parameters, token_type_hint too, are ignored as RFC 6749, 3.2 wants,
// but none of the two may be there twice, and all must be well-formed.
func formToken(body []byte) (token []byte, err error) {
	var hasToken, hasHint bool
	for more := len(body) > 0; more; {
		var pair []byte
		pair, body, more = bytes.Cut(body, []byte{'&'})
		name, value, _ := bytes.Cut(pair, []byte{'='})
		name, ok1 := decodeForm(name)
		value, ok2 := decodeForm(value)
		if !ok1 || !ok2 || len(name) == 0 {
			return nil, errMalformedForm
		}
		switch string(name) {
		case "token":
			if hasToken {
				return nil, errDuplicateMember.at("token", "the parameter occurs twice")
			}
			token, hasToken = value, true
		case "token_type_hint":
			if hasHint {
				return nil, errDuplicateMember.at("token_type_hint", "the parameter occurs twice")
			}
			hasHint = true
		}
	}
	if len(token) == 0 {
		return nil, errMissingMember.at("token", "the parameter token is needed, and not empty")
	}
	return token, nil
}

// decodeForm decodes a name or value of a form in place. ok is false for what no
// writer of forms produces: bytes that must be encoded, a semicolon, which some
// readers take for a separator, and a percent sign without two digits.
func decodeForm(b []byte) (decoded []byte, ok bool) {
	to := 0
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case c <= ' ' || c >= 0x7f || c == ';':
			return nil, false
		case c == '+':
			c = ' '
		case c == '%':
			if len(b)-i < 3 || hexDigit(b[i+1]) < 0 || hexDigit(b[i+2]) < 0 {
				return nil, false
			}
			c = byte(hexDigit(b[i+1])<<4 | hexDigit(b[i+2])) //nolint:gosec // two hexadecimal digits
			i += 2
		}
		b[to] = c
		to++
	}
	return b[:to], true
}
