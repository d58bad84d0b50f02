package server

import (
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader reads one JSON text (RFC 8259) strictly and in place: strings
// without escapes are slices of the text, the others of scratch.
//
// encoding/json would take invalid UTF-8, lone surrogates, duplicate members,
// members in any case, and null for anything.
type jsonReader struct {
	text    []byte
	at      int
	scratch []byte
}

// skipSpace moves to the next byte that is not white space and returns it, or 0
// at the end of the text.
func (r *jsonReader) skipSpace() byte {
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// next reports whether the next byte is c, and moves past it if so.
func (r *jsonReader) next(c byte) bool {
	if r.skipSpace() != c {
		return false
	}
	r.at++
	return true
}

// word reports whether the next bytes are w, and moves past them if so.
func (r *jsonReader) word(w string) bool {
	if len(r.text)-r.at < len(w) || string(r.text[r.at:r.at+len(w)]) != w {
		return false
	}
	r.at += len(w)
	return true
}

// atEnd reports whether nothing but white space is left.
func (r *jsonReader) atEnd() bool {
	r.skipSpace()
	return r.at == len(r.text)
}

// str reads a string and returns its content, valid UTF-8.
func (r *jsonReader) str() ([]byte, bool) {
	if !r.next('"') {
		return nil, false
	}
	start, ascii := r.at, true
	for ; r.at < len(r.text); r.at++ {
		c := r.text[r.at]
		if plainByte[c] {
			continue
		}
		switch {
		case c == '"':
			s := r.text[start:r.at]
			r.at++
			return s, ascii || utf8.Valid(s)
		case c == '\\':
			return r.escaped(start)
		case c < 0x20:
			return nil, false
		}
		ascii = false
	}
	return nil, false
}

// escaped goes on with a string that began at start, from its first backslash.
func (r *jsonReader) escaped(start int) ([]byte, bool) {
	from := len(r.scratch)
	r.scratch = append(r.scratch, r.text[start:r.at]...)
	for r.at < len(r.text) {
		c := r.text[r.at]
		r.at++
		switch {
		case c == '"':
			s := r.scratch[from:len(r.scratch):len(r.scratch)]
			return s, utf8.Valid(s)
		case c < 0x20:
			return nil, false
		case c != '\\':
			r.scratch = append(r.scratch, c)
		default:
			if !r.escape() {
				return nil, false
			}
		}
	}
	return nil, false
}

// escape reads what follows a backslash.
func (r *jsonReader) escape() bool {
	if r.at == len(r.text) {
		return false
	}
	c := r.text[r.at]
	r.at++
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return r.unicode()
	default:
		return false
	}
	r.scratch = append(r.scratch, c)
	return true
}

// unicode reads the digits of \uXXXX, and of the second half of a surrogate
// pair. A lone surrogate is not a character, and no text.
func (r *jsonReader) unicode() bool {
	c, ok := r.hex4()
	if !ok {
		return false
	}
	if utf16.IsSurrogate(c) {
		if !r.word(`\u`) {
			return false
		}
		low, ok := r.hex4()
		if !ok {
			return false
		}
		if c = utf16.DecodeRune(c, low); c == utf8.RuneError {
			return false
		}
	}
	r.scratch = utf8.AppendRune(r.scratch, c)
	return true
}

func (r *jsonReader) hex4() (c rune, ok bool) {
	if len(r.text)-r.at < 4 {
		return 0, false
	}
	for range 4 {
		d := hexDigit(r.text[r.at])
		if d < 0 {
			return 0, false
		}
		c = c<<4 | rune(d) //nolint:gosec // a hexadecimal digit
		r.at++
	}
	return c, true
}

// number reads a number and returns it as it is written.
func (r *jsonReader) number() ([]byte, bool) {
	r.skipSpace()
	start := r.at
	r.skipByte('-')
	if !r.skipByte('0') && !r.digits() {
		return nil, false
	}
	if r.skipByte('.') && !r.digits() {
		return nil, false
	}
	if r.skipByte('e') || r.skipByte('E') {
		if !r.skipByte('+') {
			r.skipByte('-')
		}
		if !r.digits() {
			return nil, false
		}
	}
	return r.text[start:r.at], true
}

// digits reads at least one digit.
func (r *jsonReader) digits() bool {
	start := r.at
	for r.at < len(r.text) && '0' <= r.text[r.at] && r.text[r.at] <= '9' {
		r.at++
	}
	return r.at > start
}

func (r *jsonReader) skipByte(c byte) bool {
	if r.at == len(r.text) || r.text[r.at] != c {
		return false
	}
	r.at++
	return true
}

// kind says what value comes next, judging by its first byte; 0 if none does.
type kind byte

const (
	kindObject kind = '{'
	kindArray  kind = '['
	kindString kind = '"'
	kindNumber kind = '0'
	kindBool   kind = 't'
	kindNull   kind = 'n'
)

func (r *jsonReader) kind() kind {
	switch c := r.skipSpace(); c {
	case '{', '[', '"', 'n', 't':
		return kind(c)
	case 'f':
		return kindBool
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return kindNumber
	}
	return 0
}

// maxDepth is deeper than any text this server reads has reason to be.
const maxDepth = 32

// skip moves past one value of any kind.
func (r *jsonReader) skip(depth int) bool {
	if depth > maxDepth {
		return false
	}
	var ok bool
	switch r.kind() {
	case kindString:
		_, ok = r.str()
	case kindNumber:
		_, ok = r.number()
	case kindBool:
		ok = r.word("true") || r.word("false")
	case kindNull:
		ok = r.word("null")
	case kindArray, kindObject:
		ok = r.skipAll(depth)
	}
	return ok
}

// skipAll moves past an array or an object.
func (r *jsonReader) skipAll(depth int) bool {
	object, end := r.next('{'), byte('}')
	if !object {
		r.at++
		end = ']'
	}
	for n := 0; ; n++ {
		more, ok := r.more(n, end)
		if !more {
			return ok
		}
		if object {
			if _, ok := r.str(); !ok || !r.next(':') {
				return false
			}
		}
		if !r.skip(depth + 1) {
			return false
		}
	}
}

// more is asked before element n of an array or object, which end closes. It
// moves past the comma before the element, or past end.
func (r *jsonReader) more(n int, end byte) (more, ok bool) {
	switch {
	case r.next(end):
		return false, true
	case n == 0, r.next(','):
		return true, true
	}
	return false, false
}
