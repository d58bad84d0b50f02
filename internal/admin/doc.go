// Package admin is what the commands of people do to keys and owners: issue,
// import, list, show, revoke and rotate, suspend and reactivate. No running
// sidecar uses it.
//
// It works on either store. Postgres writes the tables that `migrate` made, each
// change in one transaction with its event; many keys in one transaction are far
// cheaper than many transactions, because key changes commit one after another.
// File edits a key file in place, whole or not at all. Tables of the operator's
// own, which reach keysidecar through store.postgres.relation, are read here and
// never written: their application knows rules that this package does not.
//
// Everything written is checked by the same rules by which a sidecar reads it
// (keystore.Key.Check), before it is sent.
package admin
