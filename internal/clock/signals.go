//go:build faultclock

package clock

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Two real-time signals, which nobody else sends; SIGUSR1 changes the log's level.
const (
	sleepSignal = syscall.Signal(40)
	wallSignal  = syscall.Signal(41)
)

// obeySignals lets the fault suite step the clock of a running process. It exists
// only in programs built with the tag faultclock: signal 40 is a machine sleep of
// FAULTCLOCK_STEP (a duration, 10s if unset), signal 41 steps the wall clock by that
// much, forward and back in turn.
func (c *Clock) obeySignals() {
	step, err := time.ParseDuration(os.Getenv("FAULTCLOCK_STEP"))
	if err != nil {
		step = 10 * time.Second
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, sleepSignal, wallSignal)
	go func() {
		for wall := step; ; {
			if <-signals == sleepSignal {
				c.Suspend(step)
				continue
			}
			c.StepWall(wall)
			wall = -wall
		}
	}()
}
