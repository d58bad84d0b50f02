package proc

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProcessorTimeIsThatOfTheProcess(t *testing.T) {
	self := os.Getpid()
	before, err := CPU(self)
	if err != nil {
		t.Fatal(err)
	}
	used := usage(t)
	for usage(t)-used < 50*time.Millisecond {
	}
	after, err := CPU(self)
	// The kernel brings a running thread's time up to date at its ticks.
	if got, want := after-before, usage(t)-used; err != nil || got < want/2 || got > want+20*time.Millisecond {
		t.Errorf("%v, the process itself says %v; %v", got, want, err)
	}
	all, err := Family(os.Getppid())
	if err != nil || len(all) < 2 {
		t.Errorf("%v, %v", all, err)
	}
}

// usage is what the kernel tells a process of itself.
func usage(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestResidentMemoryIsInBytesAndAtMostItsPeak(t *testing.T) {
	t.Parallel()
	now, err1 := Memory(os.Getpid(), "VmRSS")
	peak, err2 := Memory(os.Getpid(), "VmHWM")
	if err1 != nil || err2 != nil || now < 1<<20 || peak < now {
		t.Errorf("%d bytes, at most %d, %v, %v", now, peak, err1, err2)
	}
	if _, err := Memory(os.Getpid(), "VmNothing"); err == nil {
		t.Error("a line that does not exist was read")
	}
}
