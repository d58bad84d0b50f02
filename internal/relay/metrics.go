package relay

import (
	"errors"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keysidecar/keysidecar/internal/rabbit"
)

type metrics struct {
	published                              prometheus.Counter
	republishedRefused, republishedUnknown prometheus.Counter
	givenUpRefused, givenUpUnsendable      prometheus.Counter
	pruned, houseFailures                  prometheus.Counter
	backlog, leader, connected             prometheus.Gauge
	captureIntact                          prometheus.Gauge
	instances, registryComplete            prometheus.Gauge
	instancesBehind                        prometheus.Gauge
	gateHeld, gateWait                     prometheus.Gauge
	instancesPruned                        prometheus.Counter
	reconnects                             map[rabbit.Category]prometheus.Counter
	confirm, lag                           prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	var collectors []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "keysidecar_relay_" + name, Help: help})
		collectors = append(collectors, c)
		return c
	}
	counters := func(name, label, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keysidecar_relay_" + name, Help: help}, []string{label})
		collectors = append(collectors, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "keysidecar_relay_" + name, Help: help})
		collectors = append(collectors, g)
		return g
	}
	histogram := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keysidecar_relay_" + name, Help: help,
			Buckets:                         []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		})
		collectors = append(collectors, h)
		return h
	}
	republished := counters("republished_total", "reason", "Publications repeated. refused: a queue did not take the event; unknown: the connection ended before the confirm.")
	givenUp := counters("given_up_total", "reason", "Events passed over. refused: as often as it was tried; unsendable: no message can hold it.")
	reconnects := counters("reconnects_total", "reason", "Broker connections lost, by what ended them.")
	m := &metrics{
		published:          counter("published_total", "Events confirmed by the broker, repetitions included."),
		republishedRefused: republished.WithLabelValues("refused"),
		republishedUnknown: republished.WithLabelValues("unknown"),
		givenUpRefused:     givenUp.WithLabelValues("refused"),
		givenUpUnsendable:  givenUp.WithLabelValues("unsendable"),
		pruned:             counter("pruned_total", "Events deleted because they were past their retention."),
		houseFailures:      counter("housekeeping_failures_total", "Rounds of housekeeping in which something failed."),
		backlog:            gauge("backlog", "Distance from the mark to the newest event, in numbers of the log (holes included); of the leader."),
		leader:             gauge("leader", "1 while this relay leads, else 0."),
		connected:          gauge("connected", "1 while the leader has a broker, else 0."),
		captureIntact:      gauge("capture_intact", "1 if every trigger that writes the log was in place at the leader's last look, else 0; not a number while this relay does not lead."),
		instances:          gauge("instances", "Sidecars in the registry; not a number while this relay does not lead."),
		registryComplete:   gauge("registry_complete", "1 while the registry is known to hold every sidecar that registers; while it is 0, receipts wait for the longest bound."),
		instancesBehind:    gauge("instances_behind", "Sidecars in the registry that have not reported having read the events older than ten seconds; not a number while this relay does not lead."),
		gateHeld:           gauge("gate_held_seconds", "For how long the transaction that holds the gate now has been seen to hold it, 0 if none does; not a number while this relay does not lead."),
		gateWait:           gauge("gate_wait_seconds", "For how long the first transaction in line has been waiting for the gate, 0 if none is; not a number while this relay does not lead."),
		instancesPruned:    counter("instances_pruned_total", "Sidecars taken out of the registry because they had not reported for long."),
		reconnects:         map[rabbit.Category]prometheus.Counter{},
		confirm:            histogram("confirm_seconds", "From publishing to the broker's confirm."),
		lag:                histogram("publish_lag_seconds", "From the change (before its commit) to the mark that says it is published, both by the database's clock: it includes the rest of the transaction and the wait for the mark."),
	}
	for _, c := range rabbit.Categories() {
		m.reconnects[c] = reconnects.WithLabelValues(string(c))
	}
	m.notLeading()
	var errs []error
	for _, c := range collectors {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// notLeading takes back what only a leader can say.
func (m *metrics) notLeading() {
	m.leader.Set(0)
	m.backlog.Set(0)
	m.captureIntact.Set(math.NaN())
	m.instances.Set(math.NaN())
	m.registryComplete.Set(math.NaN())
	m.instancesBehind.Set(math.NaN())
	m.gateHeld.Set(math.NaN())
	m.gateWait.Set(math.NaN())
}
