package clock

import "golang.org/x/sys/unix"

// bootClock goes on while the machine sleeps; Go's own monotonic clock is another
// one (CLOCK_UPTIME_RAW), which does not.
const bootClock = unix.CLOCK_MONOTONIC
