package faults

import (
	"context"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
)

// machine says what a run ran on.
func (w *World) machine(ctx context.Context) ([]string, error) {
	return evidence.Machine(ctx, w.Primary().DSN(cluster.Database), w.MQ.URL())
}
