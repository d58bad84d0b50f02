// Package faults breaks a running keysidecar in every way that is known to happen
// and shows that its promise held.
//
// A World is a private Postgres, a private RabbitMQ, two relays and a fleet of
// sidecars: real processes of the real program. Each reaches Postgres and RabbitMQ
// through fault proxies of its own, and so does the application that revokes keys.
//
// A Kind is one way to break it (the table is in kind.go, the kinds are in one file
// a family). A Run draws kinds at random, from a seed, up to one of each group at a
// time, lets each last for a while, mends it, waits until the world has come back
// by itself, and lets it be healthy for a moment. Meanwhile test/load asks every
// sidecar and revokes keys, and everything goes into a history that test/checker
// judges afterwards: this package finds no verdict of its own about the bound.
//
// What a fault changes in the database by itself (lost commits, a restored backup)
// is about keys of its own, which the history says nothing about. Where a promise
// covers them all the same, the fault checks it when it is mended.
//
// The short tier is this package's test, with all kinds once; the long run is
// `make chaos`.
package faults
