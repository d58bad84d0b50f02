package proc

import (
	"os"
	"testing"
	"time"
)

func TestProcessorTimeIsThatOfTheProcess(t *testing.T) {
	t.Parallel()
	self := os.Getpid()
	before, err := CPU(self)
	if err != nil {
		t.Fatal(err)
	}
	busy := time.Now()
	for time.Since(busy) < 50*time.Millisecond {
	}
	after, err := CPU(self)
	if err != nil || after-before < 20*time.Millisecond {
		t.Errorf("%v of 50 ms, %v", after-before, err)
	}
	all, err := Family(os.Getppid())
	if err != nil || len(all) < 2 {
		t.Errorf("%v, %v", all, err)
	}
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
