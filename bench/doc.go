// Package bench holds the benchmarks of the whole, each beside a peer in the same
// run. A ratio of two things measured in turn on one machine says something; an
// absolute number from somebody else's machine does not.
package bench
