package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/proc"
)

// sample is what one sidecar used at one moment.
type usage struct {
	hours                                 float64
	goroutines, descriptors, sockets, rss float64
}

// measures are what a soak looks at, and how much of each may be gained over the
// whole of it before it counts as growth: a part of the mean, or so many, whichever
// is more.
func measures() []measure {
	return []measure{
		{"goroutines", func(u usage) float64 { return u.goroutines }, 0.05, 3},
		{"descriptors", func(u usage) float64 { return u.descriptors }, 0.05, 3},
		{"connections", func(u usage) float64 { return u.sockets }, 0.05, 3},
		{"resident memory, MiB", func(u usage) float64 { return u.rss }, 0.05, 2},
	}
}

type measure struct {
	name  string
	of    func(usage) float64
	share float64
	least float64
}

// SoakCapacity is how many keys a sidecar holds in a soak. There are several times as
// many from the beginning, so that memory is full then and what it grows by is no
// longer keys.
const (
	SoakCapacity = 2000
	soakKeys     = 4 * SoakCapacity
)

// fill makes the keys and restarts every sidecar, so that it loads as many as it holds.
func (w *World) fill(ctx context.Context) error {
	if err := w.Exec(ctx, fmt.Sprintf(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'filler_' || i, '%s', 'opaque' FROM generate_series(1, %d) i`, faultOwner, soakKeys)); err != nil {
		return err
	}
	for _, s := range w.Sidecars {
		if err := errors.Join(s.Kill(), s.Restart()); err != nil {
			return err
		}
	}
	_, err := w.Back(ctx)
	return err
}

// Soak runs load without faults and looks at what every sidecar uses.
func Soak(ctx context.Context, o Options) (section string, err error) {
	samples := map[string][]usage{}
	o.Before = func(ctx context.Context, w *World) error { return w.fill(ctx) }
	o.During = func(ctx context.Context, w *World) error {
		begun := time.Now()
		for time.Since(begun) < o.Duration {
			if err := cluster.Sleep(ctx, max(o.Duration/200, time.Second)); err != nil {
				return err
			}
			for _, s := range w.Sidecars {
				u, err := s.usage(ctx)
				if err != nil {
					return err
				}
				u.hours = time.Since(begun).Hours()
				samples[s.Name] = append(samples[s.Name], u)
			}
		}
		return nil
	}
	res, err := Run(ctx, o)
	if err != nil {
		return "", err
	}
	report, err := Judge(res.History)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "## Load without faults: what a sidecar uses\n\n    %s\n\n", o.Command)
	for _, line := range res.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- %s, %d sidecars, %d requests, %d of them answered 503, %d revocations, %d violations\n\n", res.Took.Round(time.Second), len(o.Fleet),
		report.All.Requests, report.All.Unavailable, report.Claims, report.Total())
	b.WriteString("Memory has room for about 2,000 keys and is full from the beginning. Mean, and slope by least squares per hour, without the first fifth.\n\n| sidecar |")
	for _, m := range measures() {
		fmt.Fprintf(&b, " %s | slope |", m.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|---|", len(measures())) + "\n")
	err = report.Err()
	if len(report.Problems) == 0 && report.Total() == 0 {
		err = nil
	}
	for _, spec := range o.Fleet {
		list := samples[spec.Name]
		list = list[len(list)/5:]
		fmt.Fprintf(&b, "| %s |", spec.Name)
		for _, m := range measures() {
			mean, slope := fit(list, m.of)
			fmt.Fprintf(&b, " %.1f | %+.2f |", mean, slope)
			if gain := slope * (list[len(list)-1].hours - list[0].hours); gain > max(m.least, m.share*mean) {
				err = errors.Join(err, fmt.Errorf("%s: %s grow by %.1f an hour", spec.Name, m.name, slope))
			}
		}
		b.WriteByte('\n')
	}
	b.WriteString("\nFlat means: what the slope adds over the whole time is below 5 % of the mean, or 3 (memory: 2 MiB), whichever is more.\n")
	return b.String(), errors.Join(err, os.Remove(res.History))
}

// fit is the mean and the slope per hour by least squares.
func fit(list []usage, of func(usage) float64) (mean, slope float64) {
	var n, x, y, xx, xy float64
	for _, u := range list {
		v := of(u)
		n, x, y, xx, xy = n+1, x+u.hours, y+v, xx+u.hours*u.hours, xy+u.hours*v
	}
	if n < 2 || n*xx == x*x {
		return y / max(n, 1), 0
	}
	return y / n, (n*xy - x*y) / (n*xx - x*x)
}

// usage asks the process and the kernel.
func (s *Sidecar) usage(ctx context.Context) (u usage, err error) {
	if u.goroutines, err = s.Metric(ctx, "go_goroutines"); err != nil {
		return u, err
	}
	descriptors := fmt.Sprintf("/proc/%d/fd", s.Pid())
	entries, err := os.ReadDir(descriptors)
	if err != nil {
		return u, err
	}
	u.descriptors = float64(len(entries))
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(descriptors, e.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			u.sockets++
		}
	}
	resident, err := proc.Memory(s.Pid(), "VmRSS")
	u.rss = float64(resident) / (1 << 20)
	return u, err
}
