package app

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// Where Linux tells about control groups (version 2).
const (
	ownCgroup  = "/proc/self/cgroup"
	cgroupRoot = "/sys/fs/cgroup"
)

// limitMemory tells the garbage collector to keep to 90 % of the container's
// memory, which Go does not find out by itself. GOMEMLIMIT, if set, stands.
func limitMemory(log *zap.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit, ok := cgroupLimit(ownCgroup, cgroupRoot)
	if !ok {
		return
	}
	limit -= limit / 10
	debug.SetMemoryLimit(limit)
	log.Info("memory limit taken from the container", zap.Int64("bytes", limit))
}

// cgroupLimit returns the lowest memory.max of this process's control group and
// those around it (cgroup v2); ok is false if there is none.
func cgroupLimit(self, root string) (limit int64, ok bool) {
	data, err := os.ReadFile(self)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !v2 {
			continue
		}
		for dir := filepath.Clean("/" + path); ; dir = filepath.Dir(dir) {
			if n, found := readLimit(filepath.Join(root, dir, "memory.max")); found && (!ok || n < limit) {
				limit, ok = n, true
			}
			if dir == "/" {
				return limit, ok
			}
		}
	}
	return 0, false
}

func readLimit(file string) (int64, bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64) // "max" is none
	return n, err == nil && n > 0
}

// warmGC is the garbage collector's percentage during a warm. A warm allocates
// little but what it keeps, so that each collection looks at all keys so far for
// almost nothing; with the usual 100 they cost as much as everything else. The
// memory limit holds all the same.
const warmGC = 400

// collectLess makes the collector run less often until it is told to go on as before.
// GOGC, if set, stands.
func collectLess() (goOn func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(warmGC)
	return func() { debug.SetGCPercent(before) }
}
