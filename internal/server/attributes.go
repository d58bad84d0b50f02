package server

import (
	"bytes"
)

// attribute is one member of a request's attributes: a name and the scalar that
// the key's attribute of that name must equal.
type attribute struct {
	name []byte
	// kind is kindString, kindNumber or kindBool.
	kind kind
	// value is a string's content, or a number or truth value as written.
	value []byte
}

// maxAttributes bounds the attributes of one question; a key's own fill 1 KiB.
const maxAttributes = 64

// haveAttributes reports whether object, a key's attributes as JSON, has every
// one of asked with an equal value. Equal means: of the same kind, and strings
// of the same characters, numbers of the same value (1, 1.0 and 10e-1 are one),
// the same truth value. A member that the key has twice, or whose value is null,
// an array or an object, equals nothing; nor does anything in a text that is not
// an object.
func haveAttributes(object string, asked []attribute) bool {
	if len(asked) == 0 {
		return true
	}
	if len(asked) > maxAttributes {
		return false
	}
	r := jsonReader{text: bytesOf(object)}
	if !r.next('{') {
		return false
	}
	var seen, equal uint64
	for n := 0; ; n++ {
		more, ok := r.more(n, '}')
		if !ok {
			return false
		}
		if !more {
			break
		}
		name, ok := r.str()
		if !ok || !r.next(':') {
			return false
		}
		i := indexOf(asked, name)
		if i < 0 {
			if !r.skip(1) {
				return false
			}
			continue
		}
		if seen&(1<<i) != 0 {
			return false
		}
		seen |= 1 << i
		same, ok := equalNext(&r, &asked[i])
		if !ok {
			return false
		}
		if same {
			equal |= 1 << i
		}
	}
	return r.atEnd() && equal == 1<<len(asked)-1
}

func indexOf(asked []attribute, name []byte) int {
	for i := range asked {
		if bytes.Equal(asked[i].name, name) {
			return i
		}
	}
	return -1
}

// equalNext compares the next value of r with a's, and moves past it.
func equalNext(r *jsonReader, a *attribute) (same, ok bool) {
	if r.kind() != a.kind {
		return false, r.skip(1)
	}
	start := r.at
	switch a.kind {
	case kindString:
		s, ok := r.str()
		return bytes.Equal(s, a.value), ok
	case kindNumber:
		n, ok := r.number()
		return ok && equalNumbers(n, a.value), ok
	case kindBool:
		ok := r.word("true") || r.word("false")
		return bytes.Equal(r.text[start:r.at], a.value), ok
	case kindObject, kindArray, kindNull:
	}
	return false, r.skip(1)
}

// equalNumbers compares two JSON numbers by value, exactly: no float64 stands
// between, so 9007199254740993 is not 9007199254740992.
func equalNumbers(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var da, db [64]byte
	x, okA := decimalOf(a, da[:0])
	y, okB := decimalOf(b, db[:0])
	return okA && okB && x.negative == y.negative && x.exponent == y.exponent && bytes.Equal(x.digits, y.digits)
}

// decimal is a number as digits * 10^exponent, without zeros at either end of
// its digits. Zero has no digits.
type decimal struct {
	negative bool
	digits   []byte
	exponent int
}

// decimalOf reads a JSON number. ok is false for an exponent of absurd size.
func decimalOf(n, digits []byte) (d decimal, ok bool) {
	if n[0] == '-' {
		d.negative, n = true, n[1:]
	}
	point := false
	i := 0
	for ; i < len(n) && n[i]|0x20 != 'e'; i++ {
		if n[i] == '.' {
			point = true
			continue
		}
		if point {
			d.exponent--
		}
		if len(digits) > 0 || n[i] != '0' {
			digits = append(digits, n[i])
		}
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		d.exponent++
	}
	if len(digits) == 0 {
		return decimal{}, true
	}
	d.digits = digits
	if i < len(n) {
		e, ok := exponentOf(n[i+1:])
		if !ok {
			return decimal{}, false
		}
		d.exponent += e
	}
	return d, true
}

func exponentOf(b []byte) (e int, ok bool) {
	negative := false
	if b[0] == '+' || b[0] == '-' {
		negative, b = b[0] == '-', b[1:]
	}
	for _, c := range b {
		if e = e*10 + int(c-'0'); e > 1e6 {
			return 0, false
		}
	}
	if negative {
		e = -e
	}
	return e, true
}
