package server

import (
	"bytes"
)

// headers are the header fields of one request that this server reads. They
// point into the library's buffer and are valid until the handler returns.
type headers struct {
	host, contentType, contentEncoding []byte
	authorization, secFetchSite        []byte
	// accept, cacheControl and ifNoneMatch are lists: several fields are one, joined by commas.
	accept, cacheControl []byte
	ifNoneMatch          []byte
	hasOrigin, hasAccept bool
	hasSecFetchSite      bool
	// close: the client asked that the connection ends after this request.
	close bool
	// repeated names a field that may occur once and did not.
	repeated string
}

// read takes the fields from raw, the header section as it arrived, which the
// framer has found well-formed. The library is not asked, because it takes the
// first or the last of a repeated field, knows "close" in lower case only, and
// adds trailers to the fields.
func (h *headers) read(raw []byte) {
	*h = headers{}
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '\n')
		if end <= 1 { // the empty line
			return
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		// Most fields are none of ours; their first letter and length say so.
		switch line[0] | 0x20 {
		case 'a':
			if v, ok := valueOf(line, "accept"); ok {
				h.accept, h.hasAccept = joinList(h.accept, v), true
			} else if v, ok := valueOf(line, "authorization"); ok {
				h.once(&h.authorization, v, "Authorization")
			}
		case 'c':
			if v, ok := valueOf(line, "cache-control"); ok {
				h.cacheControl = joinList(h.cacheControl, v)
			} else if v, ok := valueOf(line, "content-type"); ok {
				h.once(&h.contentType, v, "Content-Type")
			} else if v, ok := valueOf(line, "content-encoding"); ok {
				h.contentEncoding = joinList(h.contentEncoding, v)
			} else if v, ok := valueOf(line, "connection"); ok && listHas(v, "close") {
				h.close = true
			}
		case 'h':
			if v, ok := valueOf(line, "host"); ok {
				h.host = v
			}
		case 'i':
			if v, ok := valueOf(line, "if-none-match"); ok {
				h.ifNoneMatch = joinList(h.ifNoneMatch, v)
			}
		case 'o':
			if _, ok := valueOf(line, "origin"); ok {
				h.hasOrigin = true
			}
		case 's':
			if v, ok := valueOf(line, "sec-fetch-site"); ok {
				h.hasSecFetchSite = true
				h.once(&h.secFetchSite, v, "Sec-Fetch-Site")
			}
		}
	}
}

// once sets a field that may not be repeated. A repeated empty one is harmless.
func (h *headers) once(field *[]byte, value []byte, name string) {
	if len(*field) > 0 {
		h.repeated = name
	}
	*field = value
}

// valueOf returns the value of the field line if its name is lower.
func valueOf(line []byte, lower string) ([]byte, bool) {
	if len(line) <= len(lower) || line[len(lower)] != ':' || !equalFold(line[:len(lower)], lower) {
		return nil, false
	}
	return trimBlanks(line[len(lower)+1:]), true
}

// joinList joins two field lines of one list (RFC 9110, 5.3). Only a repeated
// field costs an allocation.
func joinList(list, more []byte) []byte {
	if list == nil {
		return more
	}
	joined := make([]byte, 0, len(list)+len(more)+2)
	joined = append(joined, list...)
	joined = append(joined, ", "...)
	return append(joined, more...)
}

// listHas reports whether the comma-separated list of tokens has lower in it.
func listHas(list []byte, lower string) bool {
	for len(list) > 0 {
		var item []byte
		item, list, _ = bytes.Cut(list, []byte{','})
		if equalFold(trimBlanks(item), lower) {
			return true
		}
	}
	return false
}
