package subscriber

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keysidecar/keysidecar/internal/rabbit"
)

// queueLost is the reason of a life that ended because its consumer was
// cancelled; all other reasons are rabbit's categories.
const queueLost = "queue_lost"

type metrics struct {
	applied, duplicate, unreadable prometheus.Counter
	gaps                           prometheus.Counter
	connected, fallback            prometheus.Gauge
	reconnects                     map[string]prometheus.Counter // by reason
	rebindTimer, rebindBehind      prometheus.Counter
	lag                            prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	messages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_subscriber_messages_total",
		Help: "Messages taken from the queue. applied: later than the message before it; duplicate: not later, applied all the same; unreadable: answered with a fence.",
	}, []string{"outcome"})
	gaps := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "keysidecar_subscriber_gaps_total",
		Help: "Messages whose predecessor did not come before them; each was answered with a fence.",
	})
	connected := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "keysidecar_subscriber_connected",
		Help: "1 while messages can arrive, else 0: revocations then take up to a fence interval.",
	})
	fallback := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "keysidecar_subscriber_fallback_queue",
		Help: "1 while a queue with a random suffix is used because the instance's own was refused.",
	})
	reconnects := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_subscriber_reconnects_total",
		Help: "Ends of a connection that had delivered messages, by what ended it.",
	}, []string{"reason"})
	rebinds := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_subscriber_rebinds_total",
		Help: "Times the queue was bound again as a precaution. behind: a fence had brought what the queue did not.",
	}, []string{"cause"})
	lag := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:                            "keysidecar_subscriber_delivery_lag_seconds",
		Help:                            "From the change (the database's wall clock, before its commit) to its message being applied (this machine's wall clock): it includes the rest of the transaction, and the difference between the clocks; 0 if negative.",
		Buckets:                         []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	})
	var errs []error
	for _, c := range []prometheus.Collector{messages, gaps, connected, fallback, reconnects, rebinds, lag} {
		errs = append(errs, reg.Register(c))
	}
	m := &metrics{
		applied:      messages.WithLabelValues("applied"),
		duplicate:    messages.WithLabelValues("duplicate"),
		unreadable:   messages.WithLabelValues("unreadable"),
		gaps:         gaps,
		connected:    connected,
		fallback:     fallback,
		reconnects:   map[string]prometheus.Counter{queueLost: reconnects.WithLabelValues(queueLost)},
		rebindTimer:  rebinds.WithLabelValues("timer"),
		rebindBehind: rebinds.WithLabelValues("behind"),
		lag:          lag,
	}
	for _, c := range rabbit.Categories() {
		m.reconnects[string(c)] = reconnects.WithLabelValues(string(c))
	}
	return m, errors.Join(errs...)
}
