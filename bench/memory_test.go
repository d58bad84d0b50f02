package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// BenchmarkResident prints what a sidecar process keeps resident after its warm,
// and at most had resident, for a number of Ed25519 keys, and the size of the
// program.
func BenchmarkResident(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := cluster.Build(ctx, b.TempDir(), false)
	must(b, err)
	c, err := cluster.Start(ctx, bin)
	must(b, err)
	b.Cleanup(func() { must(b, c.Close()) })
	_, err = c.Exec(ctx, `INSERT INTO keysidecar.owners SELECT 'm_' || i FROM generate_series(0, 9999) i`)
	must(b, err)
	have := 0
	for _, keys := range []int{1_000, 100_000, 1_000_000} {
		_, err := c.Exec(ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm, public_key, scopes)
			SELECT 'pk_live_' || lpad(i::text, 10, '0'), 'm_' || i % 10000, 'ed25519',
			       decode('302a300506032b6570032100', 'hex') || sha256(i::text::bytea), '{pay}' FROM generate_series($1::int, $2::int) i`, have+1, keys)
		must(b, err)
		have = keys
		b.Run(fmt.Sprintf("%d keys", keys), func(b *testing.B) {
			for b.Loop() {
				s, err := c.Sidecar(fmt.Sprintf("s%d-%d", keys, time.Now().UnixNano()), fmt.Sprintf("KEYSIDECAR_CACHE_CAPACITY=%d", keys+keys/10))
				must(b, err)
				must(b, s.Ready(ctx))
				now, peak := resident(b, s.Pid())
				b.ReportMetric(now, "MB-resident")
				b.ReportMetric(peak, "MB-peak")
				b.ReportMetric(0, "ns/op")
				_, err = s.Stop()
				must(b, err)
			}
		})
	}
}

// resident reads a process's resident memory, now and at most, in 10^6 bytes.
func resident(b *testing.B, pid int) (now, peak float64) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	must(b, err)
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 64)
		if err != nil {
			continue
		}
		switch name {
		case "VmRSS":
			now = kib * 1024 / 1e6
		case "VmHWM":
			peak = kib * 1024 / 1e6
		}
	}
	return now, peak
}
