// Package image builds the image with a Docker engine and runs it as production
// would: another user, a read-only root filesystem, no capabilities, no network, its
// socket shared with a second container.
//
// It is no part of make test: it needs root and the programs docker and dockerd
// (Debian's docker.io), and compiles twice without a cache. make test-image runs it.
// The engine is the one that docker reaches, or else a private one.
//
// No registry is asked. The image that the Dockerfile compiles in is imported from
// this machine: its Go, its shell, and the modules that it has already.
package image
