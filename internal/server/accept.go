package server

import (
	"bytes"
)

// mediaType is a representation this server can make.
type mediaType uint8

const (
	mediaJSON mediaType = iota
	mediaJWK
	mediaPEM
	mediaJWKSet
	mediaYAML
)

// String returns the type as Content-Type and Accept spell it.
func (m mediaType) String() string {
	switch m {
	case mediaJWK:
		return "application/jwk+json"
	case mediaPEM:
		return "application/x-pem-file"
	case mediaJWKSet:
		return "application/jwk-set+json"
	case mediaYAML:
		return "application/yaml"
	case mediaJSON:
	}
	return "application/json"
}

// mediaTypes is a set of media types.
type mediaTypes uint8

func setOf(types ...mediaType) (s mediaTypes) {
	for _, t := range types {
		s |= 1 << t
	}
	return s
}

func (s mediaTypes) has(t mediaType) bool { return s&(1<<t) != 0 }

// preferences says how much the request likes each media type, in thousandths;
// 0 is a refusal.
type preferences [mediaYAML + 1]int16

// parseAccept reads an Accept field (RFC 9110, 12.5.1): the most specific range
// that matches a type decides, and its weight counts. Parameters other than q
// are ignored: "application/json; charset=utf-8" is as good as
// "application/json". Ranges that break the grammar match nothing.
func parseAccept(field []byte) (p preferences) {
	var specific [len(p)]int8
	for len(field) > 0 {
		var element []byte
		element, field = cutElement(field)
		typ, params, _ := bytes.Cut(element, []byte{';'})
		q, ok := weight(params)
		if !ok {
			continue
		}
		typ = trimBlanks(typ)
		for t := range p {
			if s := specificity(typ, mediaType(t).String()); s > specific[t] {
				specific[t], p[t] = s, q
			}
		}
	}
	return p
}

// cutElement cuts the first element off a list; commas within quoted strings do
// not end it.
func cutElement(list []byte) (element, rest []byte) {
	inQuotes := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case inQuotes && c == '\\':
			i++
		case c == '"':
			inQuotes = !inQuotes
		case c == ',' && !inQuotes:
			return list[:i], list[i+1:]
		}
	}
	return list, nil
}

// specificity says how exactly a media range names the type: 0 not at all, 1 by
// */*, 2 by its first part, 3 whole.
func specificity(mediaRange []byte, typ string) int8 {
	if equalFold(mediaRange, typ) {
		return 3
	}
	if equalFold(mediaRange, "application/*") { // all our types are application/...
		return 2
	}
	if string(mediaRange) == "*/*" {
		return 1
	}
	return 0
}

// mediaRange reads one element of an Accept field: the range in lower case, and its
// weight.
func mediaRange(element []byte) (typ string, q int16, ok bool) {
	t, params, _ := bytes.Cut(element, []byte{';'})
	q, ok = weight(params)
	return string(bytes.ToLower(trimBlanks(t))), q, ok
}

// weight returns the q parameter in thousandths, 1000 if there is none.
func weight(params []byte) (q int16, ok bool) {
	for len(params) > 0 {
		var param []byte
		param, params, _ = bytes.Cut(params, []byte{';'})
		param = trimBlanks(param)
		if len(param) < 2 || param[0]|0x20 != 'q' || param[1] != '=' {
			continue
		}
		return qvalue(param[2:])
	}
	return 1000, true
}

// qvalue reads "0", "1", "0.5", "0.123", "1.000" (RFC 9110, 12.4.2), and ".2", which
// Java's URLConnection sends in each request.
func qvalue(b []byte) (int16, bool) {
	if len(b) > 1 && len(b) < 5 && b[0] == '.' {
		b = append([]byte{'0'}, b...)
	}
	if len(b) == 0 || len(b) > 5 || b[0] != '0' && b[0] != '1' || len(b) > 1 && b[1] != '.' {
		return 0, false
	}
	q := int16(b[0]-'0') * 1000
	unit := int16(100)
	for _, c := range b[min(len(b), 2):] {
		if c < '0' || c > '9' {
			return 0, false
		}
		q += int16(c-'0') * unit
		unit /= 10
	}
	return q, q <= 1000
}

// negotiate chooses the representation the request likes best among those
// offered; equals go by the order JSON, JWK, PEM. ok is false if it accepts none.
func (h *headers) negotiate(offered mediaTypes) (best mediaType, ok bool) {
	if !h.hasAccept || equalFold(h.accept, "*/*") || len(h.accept) == 0 {
		return offered.first(), true
	}
	if offered.has(mediaJSON) && equalFold(h.accept, "application/json") {
		return mediaJSON, true
	}
	p := parseAccept(h.accept)
	liked := int16(0)
	for t := range p {
		if offered.has(mediaType(t)) && p[t] > liked {
			best, liked = mediaType(t), p[t]
		}
	}
	return best, liked > 0
}

// first returns the first type of the set in the order of preference.
func (s mediaTypes) first() mediaType {
	for t := mediaJSON; t < mediaYAML; t++ {
		if s.has(t) {
			return t
		}
	}
	return mediaYAML
}
