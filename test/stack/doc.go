// Package stack brings up deploy/docker-compose.yml with a Docker engine and
// docker-compose, revokes a key in it with the shipped command line, and takes it all
// down again.
//
// It is no part of make test: it needs root and the programs docker, dockerd and
// docker-compose (Debian's docker.io and docker-compose). make test-compose runs it.
//
// No registry is asked. keysidecar and the sample application are built by the stack's
// own Dockerfiles, in a compiler image that is imported from this machine; PostgreSQL,
// RabbitMQ and Prometheus are stand-ins made from the Debian packages that `make deps`
// installs (folder images). Grafana is not in Debian, and is left out by an override
// file: what its service says is checked by test/compose alone.
package stack
