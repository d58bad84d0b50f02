package clock

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func kernelBoot(t testing.TB) Instant {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(bootClock, &ts); err != nil {
		t.Fatal(err)
	}
	return Instant(ts.Nano())
}

func TestReadingsStrayFromTheKernelsBootClock(t *testing.T) {
	c := New()
	for range 1000 {
		before := kernelBoot(t)
		got := c.Now()
		after := kernelBoot(t)
		if got.Add(2*time.Millisecond).Before(before) || after.Add(2*time.Millisecond).Before(got) {
			t.Fatalf("Now() = %d, kernel says between %d and %d", got, before, after)
		}
	}
}

func TestSuspendIsNotCounted(t *testing.T) {
	c := New()
	before := c.Now()
	c.Suspend(time.Hour)
	if slept := c.Now().Sub(before); slept < time.Hour || slept > time.Hour+time.Minute {
		t.Fatalf("a one-hour suspend moved the clock by %v", slept)
	}
	if again := c.Now().Sub(before); again < time.Hour {
		t.Fatalf("the suspend was forgotten on the next reading: %v", again)
	}
}

func TestSteppedWallClockMovesReadings(t *testing.T) {
	c := New()
	for _, step := range []time.Duration{time.Hour, -2 * time.Hour} {
		before := kernelBoot(t)
		c.StepWall(step)
		for range 3 {
			if d := c.Now().Sub(before); d < -2*time.Millisecond || d > time.Minute {
				t.Fatalf("a step of the wall clock by %v moved the clock by %v", step, d)
			}
		}
	}
}

func TestAdvanceMovesReadingsBothWays(t *testing.T) {
	c := New()
	before := c.Now()
	c.Advance(5 * time.Second)
	if d := c.Now().Sub(before); d < 5*time.Second {
		t.Fatalf("advanced by 5 s, moved %v", d)
	}
	c.Advance(-10 * time.Second)
	if d := c.Now().Sub(before); d > -4*time.Second {
		t.Fatalf("stepped back by 10 s, moved %v", d)
	}
}

func TestReadingAllocates(t *testing.T) {
	c := New()
	if n := testing.AllocsPerRun(1000, func() { _ = c.Now() }); n != 0 {
		t.Fatalf("Now allocates %v times", n)
	}
}

func BenchmarkNow(b *testing.B) {
	c := New()
	for b.Loop() {
		_ = c.Now()
	}
}

// BenchmarkSystemCall is what Now would cost if it asked the kernel each time.
func BenchmarkSystemCall(b *testing.B) {
	var ts unix.Timespec
	for b.Loop() {
		_ = unix.ClockGettime(bootClock, &ts)
	}
}
