package app

import (
	"fmt"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Build says which program this is.
type Build struct {
	Version, Revision string
}

// newRegistry returns a registry of the process's own with what is known about
// the process itself.
func newRegistry(b Build) (*prometheus.Registry, error) {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "keysidecar_build_info",
		Help:        "Always 1; the labels say which program this is.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "goversion": runtime.Version()},
	})
	info.Set(1)
	// Read at each scrape: a running pod's limits can be changed.
	memory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keysidecar_memory_limit_bytes",
		Help: "Memory that the container may use, page cache and memory-backed volumes included; 0 if there is no limit.",
	}, func() float64 {
		limit, _ := cgroupLimit(ownCgroup, cgroupRoot)
		return float64(limit)
	})
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info, memory,
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the process's metrics: %w", err)
		}
	}
	return reg, nil
}
