package faults

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// Group says what a kind takes hold of: of each group at most one is broken at a
// time.
type Group string

// The groups.
const (
	OfPostgres Group = "postgres"
	OfBroker   Group = "broker"
	OfRelay    Group = "relay"
	OfNetwork  Group = "network"
	OfProcess  Group = "process"
	OfLoad     Group = "load"
)

// Kind is one way to break a World.
type Kind struct {
	Name  string
	Group Group
	// Hit breaks it. It returns what it can touch and how to mend it.
	Hit func(ctx context.Context, w *World, r *rand.Rand) (Fault, error)
	// MinFor and MaxFor bound how long it lasts before it is mended.
	MinFor, MaxFor time.Duration
}

// Fault is something broken.
type Fault struct {
	// Began is when it began to matter, for faults that take some preparation; zero
	// is when Hit was called.
	Began time.Time
	// Affected are the sidecars that it can touch; nil means all.
	Affected []*Sidecar
	// Detail is for people.
	Detail string
	// Mend undoes it and returns when it is undone. An error that wraps ErrBroken
	// says that a promise was not kept.
	Mend func(ctx context.Context) error
}

// Kinds is every way there is.
func Kinds() []Kind {
	return slices.Concat(brokerKinds(), messageKinds(), networkKinds(), relayKinds(), postgresKinds(), failoverKinds(),
		captureKinds(), processKinds(), clockKinds(), loadKinds())
}

// some draws a random, non-empty part of the fleet; nil, and so all, in a third of
// the cases.
func (w *World) some(r *rand.Rand) []*Sidecar {
	if r.IntN(3) == 0 {
		return nil
	}
	perm := r.Perm(len(w.Sidecars))[:1+r.IntN(len(w.Sidecars))]
	part := make([]*Sidecar, len(perm))
	for i, n := range perm {
		part[i] = w.Sidecars[n]
	}
	return part
}

// of returns the sidecars meant by an Affected.
func (w *World) of(affected []*Sidecar) []*Sidecar {
	if affected == nil {
		return w.Sidecars
	}
	return affected
}

// one draws a sidecar.
func (w *World) one(r *rand.Rand) *Sidecar { return w.Sidecars[r.IntN(len(w.Sidecars))] }

// named returns the sidecars whose specification matches; there may be none.
func (w *World) having(match func(Spec) bool) []*Sidecar {
	var found []*Sidecar
	for _, s := range w.Sidecars {
		if match(s.Spec) {
			found = append(found, s)
		}
	}
	return found
}

// repeatedly runs f in the background, pause apart, until the returned function is
// called, which waits for it and returns its first error.
func repeatedly(ctx context.Context, f func(ctx context.Context) (pause time.Duration, err error)) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			pause, err := f(ctx)
			if err != nil && ctx.Err() == nil {
				done <- err
				return
			}
			if cluster.Sleep(ctx, pause) != nil {
				break
			}
		}
		done <- nil
	}()
	return func() error {
		cancel()
		return <-done
	}
}

// between draws a duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}
