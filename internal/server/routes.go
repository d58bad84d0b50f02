package server

import (
	"bytes"
	"net/http"
)

// The data plane's routes. A path is compared byte by byte with the request
// target as it was sent: nothing is decoded, normalised or redirected. Only the
// segment that names a key is decoded, once.
var routes = [...]route{
	{id: routeKey, path: "/v1/keys/", rest: true, method: http.MethodGet, quick: true, memory: true, handle: (*Data).getKey},
	{id: routeVerify, path: "/v1/verify", method: http.MethodPost, body: maxBody, quick: true, memory: true, handle: (*Data).verify},
	{id: routeBatch, path: "/v1/verify/batch", method: http.MethodPost, body: maxBatchBody, quick: true, handle: (*Data).verifyBatch},
	{id: routeJWKS, path: "/v1/owners/", rest: true, suffix: "/jwks.json", method: http.MethodGet, handle: (*Data).getJWKS},
	{id: routeReceipt, path: "/v1/receipts/", rest: true, query: true, method: http.MethodGet, handle: (*Data).getReceipt},
	{id: routeAuthz, path: "/v1/authz", gateway: true, handle: (*Data).authz},
	{id: routeAuthzPolicy, path: "/v1/authz-policy", gateway: true, handle: (*Data).authzPolicy},
	{id: routeIntrospect, path: "/v1/introspect", method: http.MethodPost, body: maxBody, media: typeForm, credential: true, handle: (*Data).introspect},
	{id: routeAudit, path: "/v1/audit", method: http.MethodPost, handle: (*Data).audit},
	{id: routeStatus, path: "/v1/status", method: http.MethodGet, handle: (*Data).status},
	{id: routeOpenAPI, path: "/openapi.yaml", method: http.MethodGet, handle: (*Data).openAPI},
}

// Limits on bodies, in bytes.
const (
	maxBody        = 64 << 10
	maxBatchBody   = 1 << 20
	maxGatewayBody = 1 << 20
)

// route is one line of the table above.
type route struct {
	id   routeID
	path string
	// rest: path is a prefix, and one segment follows it.
	rest bool
	// suffix is what follows that segment.
	suffix string
	// query: the route takes one, and reads it itself.
	query bool
	// gateway: the path may be followed by a slash and anything; any method, query,
	// header field and body is taken. See gateway.go.
	gateway bool
	// credential: the route is there only if DataOptions.Gateway says what is
	// presented. Gateway routes are of these.
	credential bool
	// method is what the route takes; GET implies HEAD.
	method string
	// body is the most bytes the body may have, 0 if there must be none.
	body int
	// quick: plain requests need not go through the library; see conn.quick.
	quick bool
	// memory: what plain requests ask is mostly answered from memory, in microseconds, so
	// that an event loop may do it.
	memory bool
	// media is the body's Content-Type; JSON if empty.
	media  string
	handle func(*Data, *exchange) error
}

// routeID names a route in metrics.
type routeID uint8

const (
	routeNone routeID = iota // no route, or not even a request
	routeKey
	routeVerify
	routeBatch
	routeReceipt
	routeJWKS
	routeAuthz
	routeAuthzPolicy
	routeIntrospect
	routeAudit
	routeStatus
	routeOpenAPI

	numRoutes = int(routeOpenAPI) + 1
)

func (r routeID) String() string {
	return [numRoutes]string{
		"none", "key", "verify", "verify_batch", "receipt", "jwks", "authz", "authz_policy", "introspect", "audit", "status", "openapi",
	}[r]
}

// routeOf finds the route of a raw request target; rest is what follows a route's
// prefix: one segment, or for a gateway's route the slash and all behind it.
func routeOf(target []byte) (r *route, rest []byte, err error) {
	path, _, query := bytes.Cut(target, []byte{'?'})
	for i := range routes {
		r = &routes[i]
		if r.gateway {
			if len(path) < len(r.path) || string(path[:len(r.path)]) != r.path || len(path) > len(r.path) && path[len(r.path)] != '/' {
				continue
			}
			return r, path[len(r.path):], nil
		}
		if r.rest {
			between, ok := r.segment(path)
			if !ok {
				continue
			}
			rest = between
		} else if string(path) != r.path {
			continue
		}
		if query && !r.query {
			return r, nil, errQuery
		}
		return r, rest, nil
	}
	return nil, nil, errNoRoute
}

// segment cuts r's prefix and suffix off path. ok is false if they are not there, or
// more than one segment stands between them.
func (r *route) segment(path []byte) (between []byte, ok bool) {
	if len(path) < len(r.path)+len(r.suffix) || string(path[:len(r.path)]) != r.path || string(path[len(path)-len(r.suffix):]) != r.suffix {
		return nil, false
	}
	between = path[len(r.path) : len(path)-len(r.suffix)]
	return between, bytes.IndexByte(between, '/') < 0
}

// gatewayTarget reports whether a raw request target, or its beginning, is one of
// a gateway's routes.
func gatewayTarget(target []byte) bool {
	const prefix = "/v1/authz"
	if len(target) < len(prefix) || string(target[:len(prefix)]) != prefix {
		return false
	}
	r, _, err := routeOf(target)
	return err == nil && r.gateway
}

// takes reports whether r takes the method.
func (r *route) takes(method []byte) bool {
	return string(method) == r.method || r.method == http.MethodGet && string(method) == http.MethodHead
}

// allow is what the Allow field says of r.
func (r *route) allow() string {
	if r.method == http.MethodGet {
		return "GET, HEAD"
	}
	return r.method
}

// bodyLimit is the most bytes a body may have for a raw target. A route that
// takes none still reads a small one, to answer in order.
func bodyLimit(target []byte) int {
	if r, _, err := routeOf(target); err == nil {
		return max(r.body, maxBody)
	}
	return maxBody
}
