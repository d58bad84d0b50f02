//go:build faultclock

package clock

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// obeySignals lets the fault suite step the clock of a running process. It exists
// only in programs built with the tag faultclock: SIGUSR1 is a machine sleep of
// FAULTCLOCK_STEP (a duration, 10s if unset), SIGUSR2 steps the wall clock by that
// much, forward and back in turn.
func (c *Clock) obeySignals() {
	step, err := time.ParseDuration(os.Getenv("FAULTCLOCK_STEP"))
	if err != nil {
		step = 10 * time.Second
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for wall := step; ; {
			if <-signals == syscall.SIGUSR1 {
				c.Suspend(step)
				continue
			}
			c.StepWall(wall)
			wall = -wall
		}
	}()
}
