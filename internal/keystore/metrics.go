package keystore

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type fillOutcome string

const (
	fillInserted  fillOutcome = "inserted"
	fillAbsent    fillOutcome = "unknown_key"
	fillOvertaken fillOutcome = "overtaken"
	fillUnclean   fillOutcome = "unclean"
	fillFailed    fillOutcome = "failed"
)

type fenceOutcome string

const (
	fenceFresh       fenceOutcome = "fresh"
	fencePage        fenceOutcome = "page"
	fenceFailed      fenceOutcome = "failed"
	fenceHistoryOver fenceOutcome = "history_over"
	fenceReset       fenceOutcome = "reset"
	fenceCaptureLost fenceOutcome = "capture_lost"
	fenceVoid        fenceOutcome = "void"
)

type path string

const (
	pathQueue path = "queue"
	pathFence path = "fence"
)

var (
	allCodes    = []Code{Unavailable, Active, UnknownKey, Revoked, Expired, NotYetValid, OwnerSuspended}
	allOrigins  = []Origin{FromCache, FromDatabase, FromStale}
	allReasons  = []Reason{ReasonUnregistered, ReasonWarming, ReasonLeaseOver, ReasonFillFailed, ReasonFillLimit, ReasonMissRate, ReasonStopping}
	allFills    = []fillOutcome{fillInserted, fillAbsent, fillOvertaken, fillUnclean, fillFailed}
	allFences   = []fenceOutcome{fenceFresh, fencePage, fenceFailed, fenceHistoryOver, fenceReset, fenceCaptureLost, fenceVoid}
	allRequests = []string{FenceForMessage, FenceForGap, FenceForUnreadable, FenceForReconnect, FenceForRequest, FenceForSource, FenceForReport}
)

// metrics are a store's own; children are resolved once, so that a look-up costs
// one atomic addition.
type metrics struct {
	answers      [7][3]prometheus.Counter // by Code, Origin
	notCached    prometheus.Counter
	sets         map[string]prometheus.Counter // by result
	setReads     map[fillOutcome]prometheus.Counter
	reasons      map[Reason]prometheus.Counter
	fills        map[fillOutcome]prometheus.Counter
	fillDuration prometheus.Histogram

	fences        map[fenceOutcome]prometheus.Counter
	fenceDuration prometheus.Histogram
	requests      map[string]prometheus.Counter
	historyEnded  prometheus.Counter
	rewritten     prometheus.Counter
	reports       prometheus.Counter
	refills       prometheus.Counter
	registrations prometheus.Counter
	capture       atomic.Bool

	events  map[path]prometheus.Counter
	marked  prometheus.Counter
	missing prometheus.Counter

	warms        map[bool]prometheus.Counter
	warmDuration prometheus.Histogram
	warmRows     prometheus.Gauge
}

// registry collects what a family of New... calls makes, and the first error.
type registry struct {
	to  prometheus.Registerer
	err error
}

func (r *registry) add(c prometheus.Collector) {
	r.err = errors.Join(r.err, r.to.Register(c))
}

func (r *registry) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	r.add(c)
	return c
}

func counters[K ~string](r *registry, name, help, label string, values []K) map[K]prometheus.Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	r.add(vec)
	out := make(map[K]prometheus.Counter, len(values))
	for _, v := range values {
		out[v] = vec.WithLabelValues(string(v))
	}
	return out
}

func (r *registry) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	})
	r.add(h)
	return h
}

func (r *registry) gauge(name, help string, f func() float64) {
	r.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
}

func newMetrics(to prometheus.Registerer, s *Store) (*metrics, error) {
	r := &registry{to: to}
	m := &metrics{}
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_lookups_total", Help: "Look-ups answered, by verdict and by where the answer came from.",
	}, []string{"code", "source"})
	r.add(lookups)
	for _, c := range allCodes {
		for _, o := range allOrigins {
			m.answers[c][o] = lookups.WithLabelValues(c.String(), o.String())
		}
	}
	m.notCached = r.counter("keysidecar_lookups_not_cached_total", "Look-ups with only-if-cached that memory could not answer.")
	m.reasons = counters(r, "keysidecar_lookups_unavailable_total", "Look-ups answered \"cannot tell\", by reason.", "reason", allReasons)
	m.fills = counters(r, "keysidecar_fills_total", "Reads of one key from the store, by what became of them.", "outcome", allFills)
	m.sets = counters(r, "keysidecar_key_sets_total", "Key sets asked for, by what became of it.", "result", setResults)
	m.setReads = counters(r, "keysidecar_key_set_reads_total", "Reads of an owner's keys from the store, by what became of them.", "outcome", allFills)
	m.fillDuration = r.histogram("keysidecar_fill_duration_seconds", "Time one read of a key took.",
		[]float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5})
	m.fences = counters(r, "keysidecar_fences_total", "Questions to the store for the head of the log, by outcome.", "outcome", allFences)
	m.fenceDuration = r.histogram("keysidecar_fence_duration_seconds", "Time from asking a fence's question to its answer.",
		[]float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5})
	m.requests = counters(r, "keysidecar_fence_requests_total", "Fences asked for outside their interval, by why.", "why", allRequests)
	m.historyEnded = r.counter("keysidecar_histories_ended_total", "Times the log no longer held this sidecar's cursor, or a standby was promoted.")
	m.rewritten = r.counter("keysidecar_log_rewritten_total", "Times the log lacked an event that was read from it: a failover lost commits, a backup was restored, or the log was pruned past this sidecar.")
	m.reports = r.counter("keysidecar_reports_total", "Fences that reported how far this sidecar has read the log.")
	m.refills = r.counter("keysidecar_refills_total", "Reads of changed keys ahead of their next request.")
	m.registrations = r.counter("keysidecar_registrations_total", "Times this process entered the registry of sidecars.")
	m.events = counters(r, "keysidecar_events_applied_total", "Events applied to memory, by the path they came.", "path", []path{pathQueue, pathFence})
	m.marked = r.counter("keysidecar_message_marks_total", "Messages that made memory distrust a key or owner it held.")
	m.missing = r.counter("keysidecar_events_missing_from_queue_total", "Events a fence brought and the queue did not deliver within its grace period.")
	warms := counters(r, "keysidecar_warms_total", "Warms, by outcome.", "outcome", []string{"done", "failed"})
	m.warms = map[bool]prometheus.Counter{true: warms["done"], false: warms["failed"]}
	m.warmDuration = r.histogram("keysidecar_warm_duration_seconds", "Time a complete warm took.",
		[]float64{1e-3, 5e-3, 10e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10, 30, 60, 120})
	m.warmRows = prometheus.NewGauge(prometheus.GaugeOpts{Name: "keysidecar_warm_keys", Help: "Keys loaded by the warm under way, or by the last one."})
	r.add(m.warmRows)
	m.gauges(r, s)
	s.audit.metrics = newAuditMetrics(r, s)
	return m, r.err
}

func (m *metrics) gauges(r *registry, s *Store) {
	r.add(&cacheCollector{store: s, desc: prometheus.NewDesc("keysidecar_cache_entries",
		"What memory holds: keys, marks (keys to be read again) and unknown keys.", []string{"kind"}, nil)})
	r.gauge("keysidecar_cache_capacity", "Keys that memory has room for.", func() float64 { return float64(s.opts.Capacity) })
	r.gauge("keysidecar_cache_complete", "1 while absence from memory is an answer by itself.", func() float64 { return gauge(s.mem.Load().complete.Load()) })
	r.gauge("keysidecar_cursor_seq", "Number of the last event applied through a fence.", func() float64 { return float64(max(s.mem.Load().cursor.Load().Seq, 0)) })
	r.gauge("keysidecar_lease_fresh", "1 while answers may come from memory.", func() float64 { return gauge(s.mem.Load().lease.Load().covers(s.clock.Now(), 0)) })
	r.gauge("keysidecar_freshness_age_seconds", "Time since the question of the last successful fence was sent; 0 before the first.", func() float64 {
		l := s.mem.Load().lease.Load()
		if l == nil {
			return 0
		}
		return s.clock.Now().Sub(l.asked).Seconds()
	})
	r.gauge("keysidecar_max_staleness_seconds", "L: the longest a revoked key may be accepted.", func() float64 {
		return max(s.opts.MaxStaleness, s.opts.StaleLimit).Seconds()
	})
	r.gauge("keysidecar_capture_intact", "1 if the last fence found every capture trigger in place.", func() float64 { return gauge(m.capture.Load()) })
	r.gauge("keysidecar_key_sets_cached", "Key sets in memory, empty ones among them.", func() float64 { n, _ := s.mem.Load().sets.size(); return float64(n) })
	r.gauge("keysidecar_key_sets_bytes", "Memory that key sets take.", func() float64 { _, n := s.mem.Load().sets.size(); return float64(n) })
	r.gauge("keysidecar_fills_in_flight", "Reads of single keys under way.", func() float64 { return float64(len(s.fillSlots)) })
}

func gauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) lookup(a Answer)       { m.answers[a.Code][a.Origin].Inc() }
func (m *metrics) fence(o fenceOutcome)  { m.fences[o].Inc() }
func (m *metrics) captureIntact(ok bool) { m.capture.Store(ok) }
func (m *metrics) applied(p path, n int) { m.events[p].Add(float64(n)) }
func (m *metrics) fill(o fillOutcome, d time.Duration) {
	m.fills[o].Inc()
	m.fillDuration.Observe(d.Seconds())
}

func (m *metrics) fenceRequested(why string) {
	if c := m.requests[why]; c != nil {
		c.Inc()
	}
}

func (m *metrics) unavailable(err error) {
	var u *UnavailableError
	switch {
	case errors.As(err, &u):
		m.reasons[u.Reason].Inc()
	case errors.Is(err, ErrNotCached):
		m.notCached.Inc()
	}
}

// What a request for a key set came to, beside the origins.
const (
	setUnavailable = "unavailable"
	setNotCached   = "not_cached"
	setTooLarge    = "too_large"
)

// setResults is read-only.
var setResults = []string{FromCache.String(), FromDatabase.String(), FromStale.String(), setUnavailable, setNotCached, setTooLarge}

func (m *metrics) keySet(set *KeySet, err error) {
	result := set.Origin.String()
	switch {
	case err == nil:
	case errors.Is(err, ErrSetTooLarge):
		result = setTooLarge
	case errors.Is(err, ErrNotCached):
		result = setNotCached
	default:
		result = setUnavailable
	}
	m.sets[result].Inc()
}

func (m *metrics) warm(err error, took time.Duration, keys int) {
	m.warms[err == nil].Inc()
	m.warmRows.Set(float64(keys))
	if err == nil {
		m.warmDuration.Observe(took.Seconds())
	}
}

// cacheCollector counts entries at scrape time rather than on every change.
type cacheCollector struct {
	store *Store
	desc  *prometheus.Desc
}

func (c *cacheCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *cacheCollector) Collect(ch chan<- prometheus.Metric) {
	entries, marks, absent := c.store.mem.Load().count()
	for kind, n := range map[string]int{"key": entries - marks, "mark": marks, "unknown_key": absent} {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), kind)
	}
}
