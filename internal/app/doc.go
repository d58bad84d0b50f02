// Package app is the process: it wires the parts of a sidecar or a relay
// together in one straight line, runs them, and stops them in order. main only
// reads the command line, so that a test can run the whole daemon.
//
// # Lifecycle
//
// Each long-lived thing is a part: a function that blocks until its context ends
// and has joined everything it started when it returns. Parts start in the order
// in which they are given and stop in the opposite one, each joined before the
// next is told: first nobody is let in any more, then no message arrives, then
// the keystore ends its lease and its fills, and what it read from is closed at
// last. The first part that ends by itself, with an error, without one or by a
// panic, stops all the others and is the reason the process gives.
package app
