// Package server answers questions about keys over HTTP (the data plane) and
// tells the state of the process (the admin plane).
//
// # Data plane
//
// Data listens on a Unix socket and, if asked to, on a loopback address. It is
// the hot path of the program, so it is built on fasthttp, which serves two to
// three times as many requests a second as net/http on the same core. The price
// is a parser that was made for speed, and this package pays it: nothing that
// fasthttp says about a request's boundaries, path or repeated fields is relied
// upon.
//
//	socket.go, guard.go  who may connect: an atomically bound socket with a lock, a loopback port with a guard
//	listener.go          accepts, counts and bounds connections
//	conn.go              one connection: slow clients, graceful stop
//	framing.go           reads along and refuses what two parsers could read in two ways
//	quick.go             answers plain requests before the library hears of them
//	eventloop.go         answers those from memory for many connections, without a goroutine for each
//	exchange.go          one request and its answer, from dispatch to metrics
//	routes.go            every route
//	keys.go, verify.go, batch.go, jwks.go, status.go, openapi.go
//	                     the handlers
//	signed.go            the question whether the key signed something, and how many of them at a time
//	gateway.go, introspect.go
//	                     the handlers for gateways and frameworks, which speak their own words
//	body.go, json.go, cachecontrol.go, accept.go, headers.go, attributes.go
//	                     what they read
//	verdict.go, problem.go
//	                     what they answer; problem.go holds the one switch from errors to statuses
//
// A request reads straight down: the library calls Data.handle, which finds the
// route (routeOf), checks what all routes share (prepare) and runs its handler.
// Most requests are plain and arrive in one piece; conn.quick runs the same checks
// and handlers for them from within Read, or an event loop does, if nothing has to be waited for.
// A handler returns an error, which problemOf turns into an answer, or sets one.
// The answer of a cached key is appended to a buffer that the connection keeps;
// see BenchmarkGetKey for what that costs.
//
// What must hold:
//
//   - A verdict is valid only if the keystore said Active for the very key_id
//     that was asked for. The zero verdict is unavailable.
//   - "Cannot tell" is its own answer, 503, in every surface, and never cached:
//     every answer is Cache-Control: no-store, but for a JWK Set, which may be kept by
//     whoever asks before each use whether it still holds (no-cache); see getJWKS.
//   - A refusal holds no key material, and no answer holds internal text.
//   - A presented secret is hashed as soon as it is read, and wiped; nothing is
//     looked up, logged or answered by the secret itself.
//   - No request can make the daemon hold more than its limits: connections,
//     header and body bytes, requests in a batch, time.
//   - A gateway's route answers 200, 401, 403 or 503, whatever its clients send,
//     and sets every identity field on every 200; see gateway.go. What they send may
//     be large: conn.hold says how that is read without a large buffer for each
//     connection.
//
// # Admin plane
//
// Admin serves /metrics, /livez, /readyz, /startupz and /statusz on net/http, on
// an address that kubelet and Prometheus can reach. It has no key data. livez
// asks no dependency; readyz asks whether this process can answer, not whether
// Postgres or the broker can be reached. statusz.go tells everything else, in JSON and
// as a page (package statuspage), and measures what the page's chart shows.
package server
