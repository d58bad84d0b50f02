package history

import (
	"encoding/binary"
	"errors"
)

// answer is what requests have in common, thousands of them in a block.
type answer struct {
	status  int
	code    string
	source  string
	history string
	flags   byte
}

const (
	flagValid  = 1
	flagFailed = 2
)

// encoder is what a block has said already. Index 0 announces something new.
type encoder struct {
	keys      map[string]uint64
	answers   map[answer]uint64
	sent, seq int64
}

func (e *encoder) reset() {
	if e.keys == nil {
		e.keys, e.answers = make(map[string]uint64), make(map[answer]uint64)
	}
	clear(e.keys)
	clear(e.answers)
	e.sent, e.seq = 0, 0
}

func (e *encoder) request(b []byte, r *Request) []byte {
	b = append(b, byte(kindRequest))
	b = binary.AppendUvarint(b, uint64(r.Process))
	if i := e.keys[r.KeyID]; i > 0 {
		b = binary.AppendUvarint(b, i)
	} else {
		e.keys[r.KeyID] = uint64(len(e.keys) + 1)
		b = appendString(append(b, 0), r.KeyID)
	}
	a := answer{status: r.Status, code: r.Code, source: r.Source, history: r.History}
	if r.Valid {
		a.flags |= flagValid
	}
	if r.Failed {
		a.flags |= flagFailed
	}
	if i := e.answers[a]; i > 0 {
		b = binary.AppendUvarint(b, i)
	} else {
		e.answers[a] = uint64(len(e.answers) + 1)
		b = append(b, 0, a.flags)
		b = binary.AppendUvarint(b, uint64(a.status))
		b = appendString(appendString(appendString(b, a.code), a.source), a.history)
	}
	b = binary.AppendVarint(b, r.SentAt-e.sent)
	b = binary.AppendVarint(b, r.DoneAt-r.SentAt)
	b = binary.AppendVarint(b, r.Seq-e.seq)
	b = binary.AppendVarint(b, r.AgeMS)
	e.sent, e.seq = r.SentAt, r.Seq
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// errRecord: a record that no Writer wrote, in a block whose checksum is right.
var errRecord = errors.New("a record cannot be read")

// decoder reads one block.
type decoder struct {
	data      []byte
	bad       bool
	keys      []string
	answers   []answer
	sent, seq int64
	// strings holds what keys were called in other blocks, to keep one copy.
	strings map[string]string
}

func (d *decoder) start(payload []byte) {
	d.data, d.bad = payload, false
	d.keys, d.answers = d.keys[:0], d.answers[:0]
	d.sent, d.seq = 0, 0
	if d.strings == nil || len(d.strings) > 1<<16 { // made-up keys come once and never again
		d.strings = make(map[string]string)
	}
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.bad, d.data = true, nil
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.bad, d.data = true, nil
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.data) == 0 {
		d.bad = true
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.data)) {
		d.bad, d.data = true, nil
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) string() string {
	b := d.bytes()
	if s, ok := d.strings[string(b)]; ok {
		return s
	}
	s := string(b)
	d.strings[s] = s
	return s
}

// request reads a request, whose kind has been read, into r.
func (d *decoder) request(r *Request) error {
	r.Process = int(d.uvarint())
	switch i := d.uvarint(); {
	case i == 0:
		r.KeyID = d.string()
		d.keys = append(d.keys, r.KeyID)
	case i <= uint64(len(d.keys)):
		r.KeyID = d.keys[i-1]
	default:
		return errRecord
	}
	var a answer
	switch i := d.uvarint(); {
	case d.bad:
		return errRecord
	case i == 0:
		a.flags = d.byte()
		a.status = int(d.uvarint())
		a.code, a.source, a.history = d.string(), d.string(), d.string()
		d.answers = append(d.answers, a)
	case i <= uint64(len(d.answers)):
		a = d.answers[i-1]
	default:
		return errRecord
	}
	r.Status, r.Code, r.Source, r.History = a.status, a.code, a.source, a.history
	r.Valid, r.Failed = a.flags&flagValid != 0, a.flags&flagFailed != 0
	d.sent += d.varint()
	r.SentAt = d.sent
	r.DoneAt = d.sent + d.varint()
	d.seq += d.varint()
	r.Seq = d.seq
	r.AgeMS = d.varint()
	if d.bad {
		return errRecord
	}
	return nil
}
