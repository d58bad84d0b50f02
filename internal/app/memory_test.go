package app

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestTheLowestLimitOfTheControlGroupsCounts(t *testing.T) {
	root := t.TempDir()
	self := filepath.Join(root, "self")
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(self, "0::/kubepods/pod1/container\n")
	if _, ok := cgroupLimit(self, root); ok {
		t.Error("found a limit where there is none")
	}
	write(filepath.Join(root, "kubepods/pod1/container/memory.max"), "max\n")
	write(filepath.Join(root, "kubepods/pod1/memory.max"), "67108864\n")
	write(filepath.Join(root, "kubepods/memory.max"), "1073741824\n")
	if limit, ok := cgroupLimit(self, root); !ok || limit != 64<<20 {
		t.Errorf("have %d, %v", limit, ok)
	}
}

// A process that stayed at the percentage of a warm would need several times the
// memory that was asked for.
func TestTheCollectorGoesOnAsBeforeAfterAWarm(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	goOn := collectLess()
	if now := debug.SetGCPercent(warmGC); now != warmGC {
		t.Errorf("%d %% during a warm", now)
	}
	goOn()
	if now := debug.SetGCPercent(100); now != 100 {
		t.Errorf("%d %% after it", now)
	}
	t.Setenv("GOGC", "50")
	collectLess()()
	if now := debug.SetGCPercent(100); now != 100 {
		t.Errorf("GOGC was set, and the percentage is %d", now)
	}
}
