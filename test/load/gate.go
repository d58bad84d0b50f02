package load

import (
	"context"
	"sync"
)

// gate lets work through, or not.
type gate struct {
	mu      sync.Mutex
	shut    bool
	busy    int
	changed chan struct{} // closed and replaced at each change
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

// change runs f under the lock and tells everybody who waits.
func (g *gate) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	close(g.changed)
	g.changed = make(chan struct{})
}

// enter waits until the gate is open, and reports false if ctx ended first.
func (g *gate) enter(ctx context.Context) bool {
	for {
		g.mu.Lock()
		if !g.shut {
			g.busy++
			g.mu.Unlock()
			return true
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (g *gate) leave() { g.change(func() { g.busy-- }) }

func (g *gate) open() { g.change(func() { g.shut = false }) }

// close shuts the gate and waits until nobody is inside.
func (g *gate) close() {
	g.change(func() { g.shut = true })
	for {
		g.mu.Lock()
		busy, changed := g.busy, g.changed
		g.mu.Unlock()
		if busy == 0 {
			return
		}
		<-changed
	}
}
