package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// Limits of one batch.
const (
	maxBatch = 1000
	// batchTime is how long a batch may take; what is not told by then is
	// unavailable. It bounds what a batch of keys that must all be read can cost.
	batchTime = 2 * time.Second
	// batchReaders is how many keys of one batch are read at a time.
	batchReaders = 8
)

// batch is one batch's working memory.
type batch struct {
	// partial: unavailable is a verdict like others, and not the whole answer.
	partial bool
	n       int // questions so far
	placed  int // those that have their place in the answer
	// waiting questions were read and not asked yet; they are the first of questions,
	// and recalled is what memory says of them. Memory is asked for several at a time.
	waiting   int
	questions [keystore.MaxTogether]question
	recalled  [keystore.MaxTogether]keystore.Recalled
	// late are the questions that memory could not answer at once.
	late []lateQuestion
	// reading is what memory tells of all questions.
	reading keystore.Reading
	// verdicts counts those given from it.
	verdicts [numCodes]int
	// spare is where the answer is put together if there are any.
	spare []byte
	// grounds are the last verdict's, as JSON, and asOf and origin what they say.
	grounds []byte
	asOf    keystore.AsOf
	origin  keystore.Origin
}

// appendGrounds is appendGrounds for a verdict from memory. Those of one reading rest
// on the same, which is put in words once.
func (b *batch) appendGrounds(out []byte, v *verdict) []byte {
	if a := &v.answer; len(b.grounds) == 0 || a.AsOf != b.asOf || a.Origin != b.origin {
		b.grounds = appendGrounds(b.grounds[:0], v)
		b.asOf, b.origin = a.AsOf, a.Origin
	}
	return append(out, b.grounds...)
}

// keepSpare is the largest answer whose buffer is kept for another batch.
const keepSpare = 1 << 20

// lateQuestion waits for its verdict, which belongs at offset at of the answer.
type lateQuestion struct {
	question
	at      int
	verdict verdict
	err     error
}

// verifyBatch answers POST /v1/verify/batch. Keys in memory are answered while
// the body is read; only then the others are asked for, several at a time, and
// their verdicts put in their places.
func (d *Data) verifyBatch(x *exchange) error {
	if _, ok := x.headers.negotiate(setOf(mediaJSON)); !ok {
		return errNotAcceptable
	}
	b, _ := d.batches.Get().(*batch)
	if b == nil {
		b = new(batch)
	}
	defer func() {
		d.countEarly(b)
		clear(b.late) // they point into the request
		b.partial, b.n, b.placed, b.late = false, 0, 0, b.late[:0]
		b.forget()
		if cap(b.spare) > keepSpare {
			b.spare = nil
		}
		d.batches.Put(b)
	}()

	d.borrow(x)
	x.body.reset(x.content, d.opts.Pepper)
	b.reading = d.keys.Read(x.bounds)
	if err := d.readBatch(x, b); err != nil {
		return err
	}
	if err := d.askLate(x, b); err != nil {
		return err
	}
	if len(b.late) > 0 {
		x.out, b.spare = b.assemble(x.out), x.out
	}
	return x.answer(http.StatusOK, typeJSON, append(x.out, "]}"...))
}

// readBatch reads the body and answers from memory what it can.
func (d *Data) readBatch(x *exchange, b *batch) error {
	r := &x.body
	if r.kind() != kindObject {
		return errMalformedJSON
	}
	x.out = append(x.out[:0], `{"verdicts":[`...)
	err := r.object(batchMembers, func(i int) (err error) {
		if batchMembers[i] == "partial" {
			b.partial, err = r.boolean("partial")
			return err
		}
		return d.readQuestions(x, b)
	})
	switch {
	case err != nil:
		return err
	case b.n == 0:
		return errMissingMember.at("requests", "requests is needed: an array of what POST /v1/verify takes")
	}
	return r.end()
}

// forget lets go of the request that the questions point into.
func (b *batch) forget() {
	b.waiting = 0
	clear(b.recalled[:])
	for i := range b.questions {
		q := &b.questions[i]
		clear(q.scopes[:cap(q.scopes)])
		clear(q.attributes[:cap(q.attributes)])
		*q = question{scopes: q.scopes[:0], attributes: q.attributes[:0]}
	}
}

// readQuestions reads the array of questions, and asks memory for them.
func (d *Data) readQuestions(x *exchange, b *batch) error {
	err := d.readArray(x, b)
	if asked := d.askEarly(x, b); asked != nil {
		return asked // it stands before what could not be read
	}
	return err
}

// readArray is readQuestions, but leaves the last ones waiting.
func (d *Data) readArray(x *exchange, b *batch) error {
	r := &x.body
	if r.kind() != kindArray {
		return r.wrong("requests", "an array of objects")
	}
	r.next('[')
	for ; ; b.n++ {
		more, ok := r.more(b.n, ']')
		switch {
		case !ok:
			return r.malformed()
		case !more && b.n == 0:
			return r.bad("requests", "the array is empty")
		case !more:
			return nil
		case b.n == maxBatch:
			return errBatchTooLarge
		}
		if r.kind() != kindObject {
			return r.wrong("requests["+strconv.Itoa(b.n)+"]", "an object")
		}
		if b.waiting == len(b.questions) {
			if err := d.askEarly(x, b); err != nil {
				return err
			}
		}
		q := &b.questions[b.waiting]
		if !r.byKeyID(q) {
			if err := r.question(q); err != nil {
				return placed(err, b.n)
			}
		}
		if q.signed.has != 0 {
			return placed(errSignatureInBatch, b.n)
		}
		b.waiting++
	}
}

// placed says in which request of the batch err was found.
func placed(err error, n int) error {
	var p *problem
	if !errors.As(err, &p) || p.member == "" {
		return err
	}
	return p.at("requests["+strconv.Itoa(n)+"]."+p.member, p.detail)
}

// askEarly asks memory alone for the waiting questions, and leaves what it cannot tell
// for later.
func (d *Data) askEarly(x *exchange, b *batch) error {
	keys := b.recalled[:b.waiting]
	b.waiting = 0
	for i := range keys {
		keys[i].KeyID = stringOf(b.questions[i].keyID)
	}
	b.reading.Recall(keys)
	for i := range keys {
		if err := d.answerEarly(x, b, &b.questions[i], &keys[i]); err != nil {
			return err
		}
	}
	return nil
}

// answerEarly answers a question by what memory said of its key, or leaves it for later.
func (d *Data) answerEarly(x *exchange, b *batch, asked *question, k *keystore.Recalled) error {
	if b.placed > 0 {
		x.out = append(x.out, ',')
	}
	b.placed++
	var v verdict
	err := d.recall(x, asked, k, &v)
	switch {
	case err == nil && v.code != unavailable:
		b.verdicts[v.code]++
		d.used(&v)
		x.out = b.appendGrounds(appendFinding(x.out, &v), &v)
	case err == nil, errors.Is(err, keystore.ErrNotCached):
		q := *asked
		q.scopes, q.attributes = slices.Clone(q.scopes), slices.Clone(q.attributes)
		b.late = append(b.late, lateQuestion{question: q, at: len(x.out), verdict: v, err: err})
	default:
		return err
	}
	return nil
}

// recall decides one question by what memory said of its key.
func (d *Data) recall(x *exchange, q *question, k *keystore.Recalled, v *verdict) (err error) {
	if k.OK {
		if err = d.verdictOf(k.KeyID, &k.Answer, v); err == nil && v.code == active {
			v.code = q.check(v.answer.Record)
		}
		return err
	}
	bounds := x.bounds
	bounds.OnlyIfCached = true
	*v, err = d.ask(x.ctx, q, bounds)
	return err
}

// countEarly counts the verdicts given from memory.
func (d *Data) countEarly(b *batch) {
	b.reading.End()
	b.reading = keystore.Reading{}
	for c, n := range b.verdicts {
		if n > 0 {
			d.metrics.verdicts[c].Add(float64(n))
		}
	}
	b.verdicts = [numCodes]int{}
}

// askLate asks for everything left over.
func (d *Data) askLate(x *exchange, b *batch) error {
	if len(b.late) == 0 {
		return nil
	}
	if !x.bounds.OnlyIfCached {
		d.readLate(x, b)
	}
	for i := range b.late {
		l := &b.late[i]
		switch {
		case l.err != nil && !errors.Is(l.err, keystore.ErrNotCached):
			return l.err
		case l.err != nil && !b.partial:
			return l.err
		case l.err != nil: // not in memory, and no more was allowed
			l.verdict = verdict{keyID: stringOf(l.keyID)}
		case l.verdict.code == unavailable && !b.partial:
			return errUnavailableBatch
		}
		d.told(&l.verdict)
	}
	return nil
}

// readLate asks for the late questions, several at a time. If a verdict is that
// nothing can be told and the whole answer depends on it, it stops early.
func (d *Data) readLate(x *exchange, b *batch) {
	ctx, cancel := context.WithTimeout(x.ctx, batchTime)
	defer cancel()
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(batchReaders, len(b.late)) {
		readers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(b.late); i = int(next.Add(1)) - 1 {
				d.askOne(ctx, x, &b.late[i])
				if l := &b.late[i]; !b.partial && (l.err != nil || l.verdict.code == unavailable) {
					cancel()
				}
			}
		})
	}
	readers.Wait()
}

// askOne asks for one late question. A panic ends here: it would not pass the
// goroutine's edge, but end the daemon.
func (d *Data) askOne(ctx context.Context, x *exchange, l *lateQuestion) {
	defer func() {
		if v := recover(); v != nil {
			d.panicked(v)
			l.err = errInternal
		}
	}()
	l.verdict, l.err = verdict{keyID: stringOf(l.keyID)}, nil
	if ctx.Err() != nil {
		return
	}
	l.verdict, l.err = d.ask(ctx, &l.question, x.sinceArrival())
}

// sinceArrival turns no-cache into "no older than this request", so that one
// fence after it serves the whole batch and not one key.
func (x *exchange) sinceArrival() keystore.Bounds {
	b := x.bounds
	if b.NoCache {
		b.NoCache = false
		if age := time.Since(x.arrived); !b.HasMaxAge || age < b.MaxAge {
			b.HasMaxAge, b.MaxAge = true, age
		}
	}
	return b
}

// assemble puts the late verdicts into their places in out, and returns the
// result in the spare buffer.
func (b *batch) assemble(out []byte) []byte {
	dst, from := b.spare[:0], 0
	for i := range b.late {
		l := &b.late[i]
		dst = append(dst, out[from:l.at]...)
		from = l.at
		dst = appendVerdict(dst, &l.verdict)
	}
	return append(dst, out[from:]...)
}
