package usage

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Why a use was not written.
const (
	droppedFull    = "full"    // more keys than there is room for
	droppedStopped = "stopped" // not written before the process ended
)

type metrics struct {
	written, pruned prometheus.Counter
	dropped         map[string]prometheus.Counter
	rounds          map[bool]prometheus.Counter // by success
	duration        prometheus.Histogram
}

func newMetrics(to prometheus.Registerer, r *Recorder) (*metrics, error) {
	m := &metrics{
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keysidecar_usage_keys_written_total", Help: "Keys whose last use was sent to the database.",
		}),
		pruned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keysidecar_usage_keys_pruned_total", Help: "Last uses deleted because their keys are gone.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keysidecar_usage_write_duration_seconds", Help: "Time a round of writing took, with its connection.",
			Buckets:                     []float64{1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_usage_dropped_total", Help: "Uses of keys that will not be written, by reason.",
	}, []string{"reason"})
	rounds := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_usage_writes_total", Help: "Rounds of writing, by outcome.",
	}, []string{"outcome"})
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keysidecar_usage_waiting_keys", Help: "Keys with a use that is not written yet.",
	}, func() float64 { return float64(r.Status().Waiting) })
	var err error
	for _, c := range []prometheus.Collector{m.written, m.pruned, m.duration, dropped, rounds, waiting} {
		err = errors.Join(err, to.Register(c))
	}
	if err != nil {
		return nil, fmt.Errorf("usage: register metrics: %w", err)
	}
	m.dropped = map[string]prometheus.Counter{
		droppedFull: dropped.WithLabelValues(droppedFull), droppedStopped: dropped.WithLabelValues(droppedStopped),
	}
	m.rounds = map[bool]prometheus.Counter{true: rounds.WithLabelValues("done"), false: rounds.WithLabelValues("failed")}
	return m, nil
}

func (m *metrics) round(err error, took time.Duration) {
	m.rounds[err == nil].Inc()
	m.duration.Observe(took.Seconds())
}
