package app

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LevelSignal switches a running process's log to debug, and back to the level
// that was configured.
const LevelSignal = syscall.SIGUSR1

// Level is how much a running process logs.
type Level struct {
	configured zapcore.Level
	current    zap.AtomicLevel
}

func newLevel(configured zapcore.Level) *Level {
	return &Level{configured: configured, current: zap.NewAtomicLevelAt(configured)}
}

// Run obeys LevelSignal until ctx ends. Its first signal would otherwise end the
// process, so it runs for as long as the process has anything to do.
func (l *Level) Run(ctx context.Context, log *zap.Logger) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, LevelSignal)
	defer signal.Stop(signals)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
			l.toggle(log)
		}
	}
}

// toggle changes the level and says so. It is said while the level is debug, so
// that every configured level lets the line through.
func (l *Level) toggle(log *zap.Logger) {
	from, to := l.current.Level(), zapcore.DebugLevel
	if from == zapcore.DebugLevel {
		to = l.configured
	}
	l.current.SetLevel(zapcore.DebugLevel)
	log.Info("log level changed", zap.Stringer("from", from), zap.Stringer("to", to), zap.Stringer("configured", l.configured))
	l.current.SetLevel(to)
}
