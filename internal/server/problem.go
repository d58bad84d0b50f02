package server

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// problem is an answer that says what is wrong with a request, or that the
// daemon cannot serve it: application/problem+json (RFC 9457) with a stable
// code. It never carries internal text, nor any value that the caller sent;
// member may repeat the name of a member.
type problem struct {
	status int
	// code is stable and meant for programs; it is also the reason under which
	// the problem is counted, so it comes from the closed set below.
	code string
	// detail is for a person.
	detail string
	// member is the place in the request body: "owner_id", "requests[3].scopes".
	member string
	// suggestion is the known member nearest to an unknown one.
	suggestion string
	// allow lists the methods of the route, for 405.
	allow string
}

func (p *problem) Error() string { return p.code + ": " + p.detail }

// with returns a copy of p that says something more exact.
func (p *problem) with(detail string) *problem {
	q := *p
	q.detail = detail
	return &q
}

// at returns a copy of p about one member of the body.
func (p *problem) at(member, detail string) *problem {
	q := *p
	q.member, q.detail = member, detail
	return &q
}

// Every problem this package answers. Read-only.
var (
	// About the message as HTTP. All of these close the connection.
	errMalformed        = &problem{status: 400, code: "malformed_request", detail: "the bytes received are not one well-formed HTTP/1.1 request"}
	errTimeout          = &problem{status: 408, code: "request_timeout", detail: "the request did not arrive completely in time"}
	errTooLarge         = &problem{status: 413, code: "body_too_large", detail: "the body is larger than this route takes"}
	errURITooLong       = &problem{status: 414, code: "uri_too_long", detail: "the request line is longer than the whole header section may be"}
	errExpectation      = &problem{status: 417, code: "expectation_failed", detail: "the only expectation understood is 100-continue, in HTTP/1.1"}
	errHeaderTooBig     = &problem{status: 431, code: "header_too_large", detail: "the request line and header fields together exceed 8 KiB"}
	errVersion          = &problem{status: 505, code: "http_version", detail: "only HTTP/1.0 and HTTP/1.1 are spoken here"}
	errTooManyConns     = &problem{status: 503, code: "too_many_connections", detail: "this listener serves as many connections as it may"}
	errInternal         = &problem{status: 500, code: "internal", detail: "a fault of the daemon; its log has the details"}
	errUnavailableBatch = &problem{status: 503, code: "unavailable", detail: "at least one key's state cannot be told now; partial: true asks for the others' verdicts"}

	errAuditRunning     = &problem{status: 409, code: "audit_running", detail: "an audit is under way; there is one at a time"}
	errAuditUnavailable = &problem{status: 503, code: "unavailable", detail: "memory cannot be compared with the store now; status says whether it is fresh"}

	// About who asks (TCP listener only).
	errHost         = &problem{status: 421, code: "host_not_allowed", detail: "the Host must be localhost, 127.0.0.1 or [::1]"}
	errBrowser      = &problem{status: 403, code: "browser_not_allowed", detail: "requests made by a browser's page are not served"}
	errUnauthorized = &problem{status: 401, code: "unauthorized", detail: "this listener wants Authorization: Bearer with its token"}

	// About what a gateway's client presents. A gateway may hand these on to whoever
	// asked it, so that they do not say why a credential is refused.
	errNoCredential   = &problem{status: 401, code: "no_credential", detail: "the request presents no credential"}
	errBadCredential  = &problem{status: 401, code: "bad_credential", detail: "what is presented cannot be a credential"}
	errTwoCredentials = &problem{status: 401, code: "ambiguous_credential", detail: "the request presents more than one credential, or a header field for one twice"}
	errRefused        = &problem{status: 403, code: "refused", detail: "what is presented may not be used for this"}
	errNoPolicy       = &problem{status: 403, code: "no_such_policy", detail: "there is no policy of this name"}
	errCannotTell     = &problem{status: 503, code: "unavailable", detail: "whether the credential may be used cannot be told now"}

	// About what is asked.
	errNoRoute         = &problem{status: 404, code: "no_such_route", detail: "there is no such route; paths are taken as they are sent, without normalising"}
	errMethod          = &problem{status: 405, code: "method_not_allowed", detail: "the route does not take this method"}
	errNotAcceptable   = &problem{status: 406, code: "not_acceptable", detail: "no representation of this resource is acceptable to the request"}
	errMediaType       = &problem{status: 415, code: "unsupported_media_type", detail: "the body must be application/json in UTF-8, not compressed"}
	errQuery           = &problem{status: 400, code: "unexpected_query", detail: "the route takes no query; a ? that belongs to the path is written %3F"}
	errBody            = &problem{status: 400, code: "unexpected_body", detail: "the route takes no body"}
	errBadHeader       = &problem{status: 400, code: "bad_header", detail: "a header field that may occur once was repeated"}
	errBadKeyID        = &problem{status: 400, code: "bad_key_id", detail: "not a key_id"}
	errBadOwnerID      = &problem{status: 400, code: "bad_owner_id", detail: "not an owner_id"}
	errBadCacheControl = &problem{status: 400, code: "bad_cache_control", detail: "Cache-Control does not follow RFC 9111"}
	errNotCached       = &problem{status: 504, code: "not_cached", detail: "memory has no answer within the bounds asked for, and only-if-cached forbids to ask further"}

	// About key sets.
	errSetTooLarge    = &problem{status: 409, code: "set_too_large", detail: "the owner has more than 1,000 keys that are neither revoked nor expired: too many for a set; ask for keys one by one"}
	errSetUnavailable = &problem{status: 503, code: "unavailable", detail: "which keys of the owner may be used cannot be told now"}

	// About receipts.
	errBadWait            = &problem{status: 400, code: "bad_wait", detail: "wait must be a time with its unit, such as 3s or 500ms, and at most 30s"}
	errNoEvent            = &problem{status: 404, code: "no_event", detail: "the log has no event that ended or changed this key since its issue; events past their retention are deleted"}
	errEventLost          = &problem{status: 409, code: "event_lost", detail: "the database has lost the change that was waited for; look at the key and change it again"}
	errTooManyWaits       = &problem{status: 429, code: "too_many_waits", detail: "as many requests wait for receipts as may"}
	errNoRegistry         = &problem{status: 501, code: "no_registry", detail: "the keys come from a file: there is no registry of sidecars to ask"}
	errReceiptUnavailable = &problem{status: 503, code: "unavailable", detail: "the database did not answer, so that the receipt's state cannot be told now"}

	// About the body.
	errMalformedForm    = &problem{status: 400, code: "malformed_form", detail: "the body is not application/x-www-form-urlencoded"}
	errMalformedJSON    = &problem{status: 400, code: "malformed_json", detail: "the body is not one JSON object"}
	errUnknownMember    = &problem{status: 400, code: "unknown_member", detail: "unknown member"}
	errDuplicateMember  = &problem{status: 400, code: "duplicate_member", detail: "the member occurs twice"}
	errMissingMember    = &problem{status: 400, code: "missing_member", detail: "a member is missing"}
	errBadMember        = &problem{status: 400, code: "bad_member", detail: "the member's value is not of the kind it must be"}
	errSignatureInBatch = &problem{status: 400, code: "bad_member", member: "signature", detail: "a batch verifies no signatures: each is a question of its own to POST /v1/verify"}
	errBatchTooLarge    = &problem{status: 413, code: "batch_too_large", detail: "at most 1,000 requests make a batch"}
)

// problemOf maps an error to the answer it gets: the one switch from errors to
// statuses. What it does not know is a fault of the daemon, and stays inside.
func problemOf(err error) *problem {
	var p *problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, keystore.ErrNotCached):
		return errNotCached
	default:
		return errInternal
	}
}

// forGateway is what a gateway is told instead of p: one of the three statuses that
// all of them understand as a refusal. Some gateways can be told to let requests pass
// when the answer is 5xx, so that nothing their clients can bring about is one.
func (p *problem) forGateway() *problem {
	status := http.StatusForbidden
	switch p.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable:
		return p
	case http.StatusInternalServerError:
		status = http.StatusServiceUnavailable
	}
	q := *p
	q.status = status
	return &q
}

// keyStatus is the status of GET /v1/keys/{key_id} for a verdict: 200 only for
// an active key.
func (c code) keyStatus() int {
	switch c {
	case active:
		return http.StatusOK
	case revoked, expired:
		return http.StatusGone
	case notYetValid, ownerSuspended:
		return http.StatusForbidden
	case unknownKey:
		return http.StatusNotFound
	case unavailable, ownerMismatch, scopeMissing, attributeMismatch, signatureInvalid, algorithmMismatch:
	}
	return http.StatusServiceUnavailable
}

// verifyStatus is the status of POST /v1/verify for a verdict.
func (c code) verifyStatus() int {
	switch c {
	case active:
		return http.StatusOK
	case unavailable:
		return http.StatusServiceUnavailable
	case unknownKey, revoked, expired, notYetValid, ownerSuspended, ownerMismatch, scopeMissing, attributeMismatch, signatureInvalid, algorithmMismatch:
	}
	return http.StatusForbidden
}

// appendProblem appends p as a problem details object. Its type is about:blank:
// code says more than a URI would.
func appendProblem(b []byte, p *problem) []byte {
	b = append(b, `{"type":"about:blank","title":`...)
	b = appendString(b, http.StatusText(p.status))
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	b = append(b, `,"code":`...)
	b = appendString(b, p.code)
	b = append(b, `,"detail":`...)
	b = appendString(b, p.detail)
	if p.member != "" {
		b = append(b, `,"member":`...)
		b = appendString(b, p.member)
	}
	if p.suggestion != "" {
		b = append(b, `,"did_you_mean":`...)
		b = appendString(b, p.suggestion)
	}
	return append(b, '}')
}
