package rabbit

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces attempts: the first after up to Min, each next one later by
// twice as much, up to Max. Every pause is drawn from the upper half of its
// range, so that many processes that lost the same broker do not return as one.
type Backoff struct {
	Min, Max time.Duration
	next     time.Duration
}

// Next returns the pause before the next attempt.
func (b *Backoff) Next() time.Duration {
	b.next = min(max(b.next, b.Min), b.Max)
	pause := b.next/2 + rand.N(b.next/2+1) //nolint:gosec // spreads attempts, keeps no secret
	b.next *= 2
	return pause
}

// Reset starts over after a success.
func (b *Backoff) Reset() { b.next = 0 }

// Wait pauses before the next attempt; false if ctx ended.
func (b *Backoff) Wait(ctx context.Context) bool {
	timer := time.NewTimer(b.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
