package server

import (
	"math"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// parseCacheControl reads the bounds a caller sets in its Cache-Control field
// (RFC 9111, 5.2.1): no-cache, max-age=N and only-if-cached. Directives that it
// does not know are ignored, as the RFC wants; of a repeated max-age the smaller
// one counts. A field that breaks the grammar, or a max-age that is not a number
// of seconds, is an error: a bound that was asked for and dropped would be worse
// than none.
func parseCacheControl(field []byte) (keystore.Bounds, error) {
	var b keystore.Bounds
	for s := field; ; {
		s = trimBlanks(s)
		if len(s) == 0 {
			return b, nil
		}
		if s[0] == ',' { // empty list elements count for nothing (RFC 9110, 5.6.1)
			s = s[1:]
			continue
		}
		name, value, hasValue, rest, ok := directive(s)
		if !ok {
			return keystore.Bounds{}, errBadCacheControl
		}
		switch {
		case equalFold(name, "no-cache"):
			b.NoCache = true
		case equalFold(name, "only-if-cached"):
			b.OnlyIfCached = true
		case equalFold(name, "max-age"):
			age, ok := deltaSeconds(value)
			if !hasValue || !ok {
				return keystore.Bounds{}, errBadCacheControl.with("max-age is a number of seconds: max-age=2")
			}
			if !b.HasMaxAge || age < b.MaxAge {
				b.MaxAge = age
			}
			b.HasMaxAge = true
		}
		s = rest
	}
}

// directive cuts the first directive off s: a token, and perhaps = and a token
// or a quoted string, whose content is returned as it stands.
func directive(s []byte) (name, value []byte, hasValue bool, rest []byte, ok bool) {
	i := 0
	for i < len(s) && tokenByte[s[i]] {
		i++
	}
	name, s = s[:i], s[i:]
	if len(name) == 0 {
		return nil, nil, false, nil, false
	}
	if len(s) > 0 && s[0] == '=' {
		hasValue = true
		s = s[1:]
		if len(s) > 0 && s[0] == '"' {
			value, s, ok = quoted(s)
		} else {
			i = 0
			for i < len(s) && tokenByte[s[i]] {
				i++
			}
			value, s, ok = s[:i], s[i:], i > 0
		}
		if !ok {
			return nil, nil, false, nil, false
		}
	}
	s = trimBlanks(s)
	return name, value, hasValue, s, len(s) == 0 || s[0] == ','
}

// quoted cuts a quoted string (RFC 9110, 5.6.4) off s and returns what stands
// between the quotes.
func quoted(s []byte) (value, rest []byte, ok bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[1:i], s[i+1:], true
		}
	}
	return nil, nil, false
}

// deltaSeconds reads a non-negative number of seconds. Numbers too large to
// represent are as good as the largest (RFC 9111, 1.2.2).
func deltaSeconds(b []byte) (time.Duration, bool) {
	const most = math.MaxInt32
	if len(b) == 0 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int(c-'0'), most)
	}
	return time.Duration(n) * time.Second, true
}
