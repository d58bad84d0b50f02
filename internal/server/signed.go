package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/publickey"
	"github.com/keysidecar/keysidecar/internal/signature"
)

// signed is the part of a question that asks whether something was signed by the
// key. Whatever is wrong with the signature or the JWS itself is a verdict, because
// it comes from whoever signed; whatever is wrong with the question is a problem.
type signed struct {
	has signedMember
	// algorithm is never nil beside a signature.
	algorithm *publickey.Algorithm
	// signature is nil if what was sent cannot be one.
	signature       []byte
	message, digest []byte
	jws             []byte
}

// signedMember is a set of members of the question.
type signedMember uint8

const (
	hasSignature signedMember = 1 << iota
	hasAlgorithm
	hasMessage
	hasDigest
	hasJWS
)

// Bounds, in bytes. What is larger is signed by its digest, or is no JWS.
const (
	maxMessage = 40 << 10
	maxJWS     = 48 << 10
)

// member reads one of the members that make up s.
func (s *signed) member(r *bodyReader, at string) error {
	switch at {
	case "signature":
		s.has |= hasSignature
		text, err := r.nonEmpty(at, len(r.text))
		if err != nil {
			return err
		}
		if b, ok := r.decode(text); ok && len(b) <= signature.MaxBytes {
			s.signature = b
		}
	case "algorithm":
		s.has |= hasAlgorithm
		name, err := r.nonEmpty(at, maxBody)
		if err != nil {
			return err
		}
		var ok bool
		if s.algorithm, ok = publickey.AlgorithmNamed(stringOf(name)); !ok {
			return r.bad(at, "the value must be one of "+algorithmNames())
		}
	case "message":
		s.has |= hasMessage
		return r.base64(at, &s.message, maxMessage)
	case "digest":
		s.has |= hasDigest
		return r.base64(at, &s.digest, 64)
	case "jws":
		s.has |= hasJWS
		text, err := r.nonEmpty(at, len(r.text))
		if err != nil {
			return err
		}
		if len(text) <= maxJWS {
			s.jws = text
		}
	}
	return nil
}

func algorithmNames() string {
	names := make([]string, len(publickey.Algorithms))
	for i, a := range publickey.Algorithms {
		names[i] = a.Name
	}
	return strings.Join(names, ", ")
}

// check reports whether the members that are there make one question.
func (s *signed) check(bySecret bool) error {
	switch {
	case s.has == 0:
		return nil
	case bySecret:
		return errBadMember.at("key", "a secret key has no public key to verify with: name the key by key_id")
	case s.has&hasJWS != 0:
		if s.has&(hasSignature|hasAlgorithm|hasDigest) != 0 {
			return errBadMember.at("jws", "a JWS has its signature and names its algorithm itself: jws excludes signature, algorithm and digest")
		}
		return nil
	case s.has&hasSignature == 0:
		return errMissingMember.at("signature", "signature or jws is needed to verify one")
	case s.has&hasAlgorithm == 0:
		return errMissingMember.at("algorithm", "algorithm is needed: one of "+algorithmNames())
	case s.has&hasMessage != 0 && s.has&hasDigest != 0:
		return errBadMember.at("digest", "message and digest exclude each other")
	case s.has&(hasMessage|hasDigest) == 0:
		return errMissingMember.at("message", "either message or digest is needed: what was signed")
	case s.has&hasDigest != 0 && s.algorithm.Form == publickey.Plain:
		return errBadMember.at("digest", "ed25519 signs the message itself, not its digest: send message")
	case s.has&hasDigest != 0 && len(s.digest) != s.algorithm.Hash.Size():
		return errBadMember.at("digest", fmt.Sprintf("the digest for %s has %d bytes", s.algorithm.Name, s.algorithm.Hash.Size()))
	}
	return nil
}

// base64Encodings are the standard alphabet and that of URLs, each with padding and
// without; strict, so that each takes one text only for the same bytes. Read-only.
var base64Encodings = [2][2]*base64.Encoding{
	{base64.StdEncoding.Strict(), base64.RawStdEncoding.Strict()},
	{base64.URLEncoding.Strict(), base64.RawURLEncoding.Strict()},
}

// decode decodes base64 of either alphabet, with padding or without.
func (r *bodyReader) decode(text []byte) ([]byte, bool) {
	alphabet, padding := 0, 0
	if bytes.ContainsAny(text, "-_") {
		alphabet = 1
	}
	if len(text)%4 != 0 {
		padding = 1
	}
	if bytes.ContainsAny(text, "\r\n") { // which the decoder passes over
		return nil, false
	}
	from := len(r.scratch)
	out, err := base64Encodings[alphabet][padding].AppendDecode(r.scratch, text)
	if err != nil {
		return nil, false
	}
	r.scratch = out
	return out[from:len(out):len(out)], true
}

// base64 reads a string of base64 that stands for 1 to most bytes.
func (r *bodyReader) base64(at string, into *[]byte, most int) error {
	text, err := r.nonEmpty(at, len(r.text))
	if err != nil {
		return err
	}
	b, ok := r.decode(text)
	switch {
	case !ok:
		return r.bad(at, "the value must be base64 or base64url (RFC 4648), without line breaks")
	case len(b) > most:
		detail := fmt.Sprintf("at most %d bytes are taken", most)
		if at == "message" {
			detail += "; of a longer message, send the digest"
		}
		return r.bad(at, detail)
	}
	*into = b
	return nil
}

// verifiers bounds how many signatures are computed at a time. One takes from tens
// of microseconds to several milliseconds of a processor, a look-up one microsecond:
// without a bound, a burst of signatures would make every look-up wait for a
// processor. Half of the processors stay free of them.
type verifiers struct {
	slots chan struct{} // a slot for each that computes
	line  chan struct{} // and for each that waits for one
}

const (
	// maxLine is how many requests may wait for a slot.
	maxLine = 128
	// maxLineTime is how long each waits, at most, before it is told 503.
	maxLineTime = 100 * time.Millisecond
)

func newVerifiers() verifiers {
	return verifiers{slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), line: make(chan struct{}, maxLine)}
}

// enter waits for a slot. It is false if there is none; if it is true, leave must
// be called.
func (v *verifiers) enter(ctx context.Context) bool {
	select {
	case v.slots <- struct{}{}:
		return true
	default:
	}
	select {
	case v.line <- struct{}{}:
		defer func() { <-v.line }()
	default:
		return false
	}
	timer := time.NewTimer(maxLineTime)
	defer timer.Stop()
	select {
	case v.slots <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (v *verifiers) leave() { <-v.slots }

// maxReplaced is how often a key may be replaced by another under the same key_id
// while its signature is verified, until the answer is "cannot tell".
const maxReplaced = 3

// askSigned decides a question whose key was found fit by v and which asks for a
// signature, too.
//
// The mathematics come first, and whether the key may be used is asked again behind
// them: waiting for a slot and computing take far longer than a look-up, and in the
// meantime the key can be revoked, the lease can end, or the process can be stopped and
// resumed. A verdict from before would then be given after its lease (S4). So the
// last look-up is the verdict, with its own clock, lease, bounds and record; the
// signature only ever makes it worse.
func (d *Data) askSigned(x *exchange, v verdict) (verdict, error) {
	s := &x.question.signed
	for range maxReplaced {
		record := v.answer.Record
		judged, thumbprint, ok := d.judge(x.ctx, s, record)
		if !ok {
			return verdict{keyID: v.keyID}, nil
		}
		again, err := d.ask(x.ctx, &x.question, x.sinceArrival())
		if err != nil || again.code != active {
			return again, err
		}
		if sameKey(record, again.answer.Record) {
			again.code, again.thumbprint = judged, thumbprint
			return again, nil
		}
		v = again
	}
	return verdict{keyID: v.keyID}, nil
}

func sameKey(a, b keystore.Record) bool {
	derA, okA := a.PublicKey()
	derB, okB := b.PublicKey()
	return okA == okB && derA == derB && a.Algorithm() == b.Algorithm()
}

// judge waits for a slot and says what the mathematics say: active, signatureInvalid
// or algorithmMismatch. ok is false if no slot became free.
func (d *Data) judge(ctx context.Context, s *signed, r keystore.Record) (c code, thumbprint string, ok bool) {
	if !d.verifiers.enter(ctx) {
		d.metrics.signature(s, signatureShed)
		return unavailable, "", false
	}
	defer d.verifiers.leave()
	timer := prometheus.NewTimer(d.metrics.signatureTime)
	c, thumbprint = s.judge(r)
	timer.ObserveDuration()
	switch c {
	case active:
		d.metrics.signature(s, signatureValid)
	case algorithmMismatch:
		d.metrics.signature(s, signatureMismatch)
	default:
		d.metrics.signature(s, signatureInvalidResult)
	}
	return c, thumbprint, true
}

// judge computes. What the key is decides how: an algorithm that is asked for must be
// one that it allows.
func (s *signed) judge(r keystore.Record) (c code, thumbprint string) {
	der, ok := r.PublicKey()
	if !ok {
		return algorithmMismatch, "" // opaque
	}
	key, err := publickey.Parse([]byte(der))
	if err != nil {
		return algorithmMismatch, "" // not fit for use; a store's own tables may hold such keys
	}
	var valid bool
	switch {
	case s.has&hasJWS != 0:
		allowed := publickey.Allowed(key.Kind, r.Algorithm())
		if len(allowed) == 0 {
			return algorithmMismatch, ""
		}
		valid = signature.VerifyJWS(allowed, key, string(s.jws), s.message)
	case !publickey.Allows(key.Kind, r.Algorithm(), s.algorithm):
		return algorithmMismatch, ""
	case s.has&hasDigest != 0:
		valid = signature.VerifyDigest(s.algorithm, key, s.digest, s.signature)
	default:
		valid = signature.Verify(s.algorithm, key, s.message, s.signature)
	}
	if !valid {
		return signatureInvalid, ""
	}
	return active, key.Thumbprint()
}
