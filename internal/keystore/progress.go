package keystore

import (
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// warmProgress logs a long warm's progress every so often.
type warmProgress struct {
	log         *zap.Logger
	every       time.Duration
	begun, last clock.Instant
	total       int64
}

func (p *warmProgress) report(loaded int, now clock.Instant) {
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	p.log.Info("warming", zap.Int("keys", loaded), zap.Int64("estimated_total", p.total), zap.Duration("elapsed", now.Sub(p.begun)))
}
