// Package load drives a fleet of sidecars and writes what happened into a
// history: a Prober asks one sidecar for keys, a Revoker issues keys and revokes
// them in Postgres, Receipts asks sidecars when revocations are over. They share a
// Watch, the keys that are about to be revoked or were a moment ago.
//
// # How a revocation is observed
//
// The Revoker issues keys long enough before their turn that every sidecar can
// know them. A Lead before its revocation a key enters the Watch: every prober
// asks for it now and then, so that it is in memory and its last "valid" is
// recent. From the moment the change is sent it is asked for every 20 to 50 ms,
// until this sidecar has refused it once; then four times a second until the bound
// is a second over. A sidecar that answered nothing after the bound, because it
// stood still or was cut off, goes on being asked for a minute: what it says when
// it is back is what the bound is about.
//
// # What is not measured
//
// Each worker of a prober has one connection and one request at a time, so a
// sidecar that stands still delays what would have been asked meanwhile. While
// nobody listens on the socket, a worker tries again after 20 to 200 ms; each try
// is a failed request.
package load
