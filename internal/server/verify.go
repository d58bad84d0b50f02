package server

import (
	"context"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// verify answers POST /v1/verify: may this key be used, by this owner, for these
// scopes, with these attributes, and did it sign this?
func (d *Data) verify(x *exchange) error {
	if _, ok := x.headers.negotiate(setOf(mediaJSON)); !ok {
		return errNotAcceptable
	}
	x.body.reset(x.content, d.opts.Pepper)
	if err := x.body.verify(&x.question); err != nil {
		return err
	}
	v, err := d.ask(x.ctx, &x.question, x.bounds)
	if err == nil && v.code == active && x.question.signed.has != 0 {
		if x.late = true; x.bounds.AtOnce {
			return keystore.ErrNotAtOnce // it takes longer than other questions should wait
		}
		v, err = d.askSigned(x, v)
	}
	if err != nil {
		return err
	}
	d.told(&v)
	return x.answer(v.code.verifyStatus(), typeJSON, appendVerdict(x.out[:0], &v))
}

// ask decides one question. The key's own state comes first, then owner, scopes
// and attributes: the first that fails is the verdict.
func (d *Data) ask(ctx context.Context, q *question, b keystore.Bounds) (verdict, error) {
	v, err := d.lookup(ctx, stringOf(q.keyID), b)
	if err == nil && v.code == active {
		v.code = q.check(v.answer.Record)
	}
	return v, err
}

// check compares what is asked of an active key with what it has.
func (q *question) check(r keystore.Record) code {
	if len(q.ownerID) > 0 && r.OwnerID() != string(q.ownerID) {
		return ownerMismatch
	}
	for _, s := range q.scopes {
		if !r.HasScope(stringOf(s)) {
			return scopeMissing
		}
	}
	if !haveAttributes(r.Attributes(), q.attributes) {
		return attributeMismatch
	}
	return active
}
