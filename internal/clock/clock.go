// Package clock tells the only time that decides anything in keysidecar:
// nanoseconds since boot, including the time the machine was suspended
// (CLOCK_BOOTTIME, see clock_gettime(2)).
//
// # Why not time.Now
//
// A lease is a promise measured in elapsed time. The wall clock can be stepped
// in either direction, and Go's monotonic reading (CLOCK_MONOTONIC on Linux)
// stands still while the machine sleeps: a laptop that wakes after an hour would
// believe its three-second lease still runs. Only CLOCK_BOOTTIME counts both.
// A pause imposed by a hypervisor that stops the guest's clocks too cannot be
// seen by any clock inside the guest; the promise names it as an assumption.
//
// # How a reading stays cheap
//
// Linux serves CLOCK_REALTIME and CLOCK_MONOTONIC without entering the kernel,
// and Go's runtime uses that; CLOCK_BOOTTIME from Go costs a system call, which
// is several times the price of a whole look-up. Now therefore adds a cached
// offset (boottime - monotonic) to the monotonic reading, and uses the cached
// offset only while the difference between the wall clock and the monotonic
// clock is what it was when the offset was read. The kernel adds a sleep to
// CLOCK_REALTIME and CLOCK_BOOTTIME in one step and to CLOCK_MONOTONIC not at
// all (timekeeping_inject_sleeptime), so a suspend always changes that
// difference, and the next reading asks the kernel again. A stepped wall clock
// changes it too and costs one system call. See docs/adr/0006-clock.md.
package clock

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Instant is a reading of the boot clock in nanoseconds. Instants of one machine
// are comparable with each other; they mean nothing on another machine or after
// a reboot. The zero Instant is the moment of boot.
type Instant int64

// Add returns i moved by d.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time elapsed from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Before reports whether i is earlier than j.
func (i Instant) Before(j Instant) bool { return i < j }

// driftTolerance is how far the difference of wall and monotonic clock may stray
// before the cached offset is doubted. Go reads the two clocks one after the
// other, so an interrupted reading shows a difference of its own; doubting it is
// harmless. A suspend shorter than this goes unnoticed until the next one or
// until Sync, and shifts readings by less than this.
const driftTolerance = int64(time.Millisecond)

// calibration is one joint reading of the three clocks. Immutable once published.
type calibration struct {
	wallMinusMono int64 // the tell-tale: changes when the machine sleeps
	bootMinusMono int64 // what Now adds
}

// Clock reads boot time. It is safe for concurrent use. The zero value is not
// usable; call New.
type Clock struct {
	base   time.Time // anchor for Go's monotonic reading
	cal    atomic.Pointer[calibration]
	offset atomic.Int64 // tests only: see Advance
	sleep  atomic.Int64 // tests only: see Suspend
	wall   atomic.Int64 // tests only: see StepWall
}

// New returns a calibrated clock. It panics where the kernel has no
// CLOCK_BOOTTIME (Linux has had it since 2.6.39): without it no promise of this
// program can be kept.
func New() *Clock {
	c := &Clock{base: time.Now()}
	c.Sync()
	c.obeySignals()
	return c
}

// Now returns the boot clock's present reading. It does not allocate and,
// unless the machine was suspended since the last call, makes no system call.
func (c *Clock) Now() Instant {
	now := time.Now()
	mono := int64(now.Sub(c.base))
	cal := c.cal.Load()
	if d := now.UnixNano() + c.sleep.Load() + c.wall.Load() - mono - cal.wallMinusMono; d > driftTolerance || d < -driftTolerance {
		return c.Sync()
	}
	return Instant(mono + cal.bootMinusMono + c.offset.Load())
}

// Uncertainty is how far two readings of one Clock can disagree with the boot
// clock about the time between them: an unnoticed suspend below driftTolerance
// plus the width of a calibration. Whoever holds a lease ends it this much early.
const Uncertainty = 2 * time.Millisecond

// calibrationWidth is how long reading the three clocks may take for the result
// to be believed; the scheduler may stop a goroutine between any two of them.
const calibrationWidth = int64(100 * time.Microsecond)

// Sync asks the kernel for the boot time, refreshes what Now relies on, and
// returns the reading. The fence calls it once per round, which bounds for how
// long a wall-clock step that exactly cancels a suspend could go unnoticed.
func (c *Clock) Sync() Instant {
	var (
		best  calibration
		width = int64(-1)
	)
	for try := 0; try < 16 && (width < 0 || width > calibrationWidth); try++ {
		cal, w := c.calibrate()
		if width < 0 || w < width {
			best, width = cal, w
		}
	}
	c.cal.Store(&best)
	return Instant(int64(time.Since(c.base)) + best.bootMinusMono + c.offset.Load())
}

// calibrate reads the three clocks once, and says how long that took (ns): the
// bound on how much too large the offset it found can be.
func (c *Clock) calibrate() (cal calibration, width int64) {
	var ts unix.Timespec
	before := time.Now()
	err := unix.ClockGettime(bootClock, &ts)
	if err != nil {
		panic(fmt.Sprintf("clock: the kernel does not tell the boot time: %v", err))
	}
	mono := int64(before.Sub(c.base))
	width = int64(time.Since(c.base)) - mono
	slept := c.sleep.Load()
	return calibration{
		wallMinusMono: before.UnixNano() + slept + c.wall.Load() - mono,
		bootMinusMono: ts.Nano() + slept - mono,
	}, width
}

// Advance shifts all later readings by d, which may be negative: a test's way to
// step this process's idea of elapsed time.
func (c *Clock) Advance(d time.Duration) { c.offset.Add(int64(d)) }

// Suspend makes the clock behave as after a machine sleep of d: wall and boot
// time have moved on, the monotonic clock has not. For tests.
func (c *Clock) Suspend(d time.Duration) { c.sleep.Add(int64(d)) }

// StepWall makes the clock behave as after a step of the wall clock by d, which
// may be negative: the other two clocks have not moved. For tests.
func (c *Clock) StepWall(d time.Duration) { c.wall.Add(int64(d)) }
