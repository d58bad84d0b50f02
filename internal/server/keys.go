package server

import (
	"context"
	"encoding/pem"
	"errors"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/publickey"
)

// getKey answers GET /v1/keys/{key_id}.
func (d *Data) getKey(x *exchange) error {
	media, ok := x.headers.negotiate(setOf(mediaJSON, mediaJWK, mediaPEM))
	if !ok {
		return errNotAcceptable
	}
	id, err := decodeKeyID(x.rest, x.id)
	if err != nil {
		return err
	}
	if len(id) > 0 && &id[0] != &x.rest[0] {
		x.id = id // keep the grown buffer
	}
	v, err := d.lookup(x.ctx, stringOf(id), x.bounds)
	if err != nil {
		return err
	}
	d.told(&v)
	if media == mediaJSON || v.code != active {
		return x.answer(v.code.keyStatus(), typeJSON, appendVerdict(x.out[:0], &v))
	}
	return d.keyAs(x, media, &v)
}

// lookup asks for one key by itself. Not being able to tell is a verdict here;
// the only error left is keystore.ErrNotCached.
func (d *Data) lookup(ctx context.Context, id string, b keystore.Bounds) (v verdict, err error) {
	a, err := d.keys.Lookup(ctx, id, b)
	if err != nil {
		var u *keystore.UnavailableError
		if errors.As(err, &u) {
			return verdict{keyID: id, answer: keystore.Answer{AsOf: a.AsOf}}, nil
		}
		return verdict{}, err
	}
	err = d.verdictOf(id, &a, &v)
	return v, err
}

// verdictOf makes v, which is zero, the verdict on a key by itself.
func (d *Data) verdictOf(id string, a *keystore.Answer, v *verdict) error {
	c := codeOf(a.Code)
	if c == active && a.Record.KeyID() != id {
		// Nothing can make this happen, and everything would be lost if it did.
		d.logger.Error("the keystore answered with another key")
		return errInternal
	}
	v.code, v.keyID, v.answer = c, id, *a
	return nil
}

// keyAs answers with the key itself in another form than JSON. A key that has no
// such form is answered as JSON if the request accepts that.
func (d *Data) keyAs(x *exchange, media mediaType, v *verdict) error {
	out, ok := publicKeyAs(x.out[:0], media, v)
	if !ok {
		other := setOf(mediaJWK, mediaPEM) &^ setOf(media)
		if second, acceptable := x.headers.negotiate(setOf(mediaJSON) | other); acceptable {
			if second == mediaJSON {
				return x.answer(v.code.keyStatus(), typeJSON, appendVerdict(x.out[:0], v))
			}
			media = second
			out, ok = publicKeyAs(x.out[:0], media, v)
		}
	}
	if !ok {
		return errNotAcceptable.with("this key has no form that is acceptable to the request")
	}
	x.req.Response.Header.Set(headerKeyID, v.keyID)
	der, _ := v.answer.Record.PublicKey()
	if key, err := publickey.Parse([]byte(der)); err == nil {
		x.req.Response.Header.Set(headerThumbprint, key.Thumbprint())
	}
	return x.answer(v.code.keyStatus(), media.String(), out)
}

// headerKeyID names the key in answers whose body cannot (PEM), headerThumbprint its
// public key by RFC 7638, if it is one that signatures are verified with.
const (
	headerKeyID      = "Keysidecar-Key-Id"
	headerThumbprint = "Keysidecar-Thumbprint"
)

// publicKeyAs appends the public key as JWK (RFC 7517) or PEM (RFC 7468). ok is
// false for an opaque key, and one of a kind that has no such form.
func publicKeyAs(b []byte, media mediaType, v *verdict) (out []byte, ok bool) {
	der, ok := v.answer.Record.PublicKey()
	if !ok {
		return b, false
	}
	if media == mediaPEM {
		return append(b, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(der)})...), true
	}
	jwk, ok := keystore.JWK(v.keyID, []byte(der))
	return append(b, jwk...), ok
}
