// Package compose checks deploy/docker-compose.yml without an engine: it is read by
// the library that Compose itself reads files with, and held against the program, the
// files that it mounts, and what docker-compose 1.29 understands.
//
// It is a module of its own, so that the program's go.mod does not name that library.
// test/stack brings the stack up for real.
package compose
