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
	// late are the questions that memory could not answer at once.
	late []lateQuestion
	// reading is what memory tells of all questions.
	reading keystore.Reading
	// verdicts counts those given from it.
	verdicts [numCodes]int
	// spare is where the answer is put together if there are any.
	spare []byte
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
		b.partial, b.n, b.late = false, 0, b.late[:0]
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

// readQuestions reads the array of questions.
func (d *Data) readQuestions(x *exchange, b *batch) error {
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
		if err := r.question(&x.question); err != nil {
			return placed(err, b.n)
		}
		if x.question.signed.has != 0 {
			return placed(errSignatureInBatch, b.n)
		}
		if err := d.askEarly(x, b); err != nil {
			return err
		}
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

// askEarly asks memory alone, and leaves what it cannot tell for later.
func (d *Data) askEarly(x *exchange, b *batch) error {
	if b.n > 0 {
		x.out = append(x.out, ',')
	}
	v, err := d.recall(x, b)
	switch {
	case err == nil && v.code != unavailable:
		b.verdicts[v.code]++
		d.used(&v)
		x.out = appendVerdict(x.out, &v)
	case err == nil, errors.Is(err, keystore.ErrNotCached):
		q := x.question
		q.scopes, q.attributes = slices.Clone(q.scopes), slices.Clone(q.attributes)
		b.late = append(b.late, lateQuestion{question: q, at: len(x.out), verdict: v, err: err})
	default:
		return err
	}
	return nil
}

// recall asks memory for one question.
func (d *Data) recall(x *exchange, b *batch) (verdict, error) {
	id := stringOf(x.question.keyID)
	if a, ok := b.reading.Recall(id); ok {
		v, err := d.verdictOf(id, a)
		if err == nil && v.code == active {
			v.code = x.question.check(v.answer.Record)
		}
		return v, err
	}
	bounds := x.bounds
	bounds.OnlyIfCached = true
	return d.ask(x.ctx, &x.question, bounds)
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
