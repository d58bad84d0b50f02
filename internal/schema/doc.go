// Package schema holds the database's side of keysidecar: the tables, the
// capture of changes and the roles, as embedded migrations. This page is the
// contract of the log, keysidecar.events, for those who write keys and for those
// who read the log.
package schema
