package server

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are one data plane's figures. Every label comes from a closed set, and
// a series is looked up once.
type metrics struct {
	requests    *prometheus.CounterVec // keysidecar_http_requests_total
	durations   [numRoutes]prometheus.Observer
	verdicts    [numCodes]prometheus.Counter
	badRequests *prometheus.CounterVec // keysidecar_http_bad_requests_total
	inFlight    prometheus.Gauge
	panics      prometheus.Counter

	// resolved holds the children of requests, found at their first use.
	resolved [numRoutes][numListeners][maxStatus]atomic.Pointer[prometheus.Counter]

	connections [numListeners]prometheus.Gauge
	refused     [numListeners][numRefusals]prometheus.Counter
	aborted     [numAborts]prometheus.Counter

	receipts    [numReceiptOutcomes]prometheus.Counter
	receiptTime prometheus.Histogram

	signatures    [2][numSignatureResults]prometheus.Counter // by whether it is a JWS
	signatureTime prometheus.Histogram
}

// maxStatus is above every status the server answers.
const maxStatus = 512

// refusal is why a connection was not served.
type refusal uint8

const (
	refusedLimit refusal = iota
	refusedUser
	numRefusals
)

func (r refusal) String() string {
	if r == refusedUser {
		return "user"
	}
	return "limit"
}

// abort is why a connection was cut while it was served.
type abort uint8

const (
	abortSlowReader abort = iota
	abortStopping
	numAborts
)

func (a abort) String() string {
	if a == abortStopping {
		return "stopping"
	}
	return "slow_reader"
}

// receiptOutcome is what a request for a receipt came to.
type receiptOutcome uint8

const (
	receiptComplete receiptOutcome = iota
	receiptIncomplete
	receiptFailed
	numReceiptOutcomes
)

func (o receiptOutcome) String() string {
	return [numReceiptOutcomes]string{"complete", "incomplete", "failed"}[o]
}

// signatureResult is what the verification of a signature came to.
type signatureResult uint8

const (
	signatureValid signatureResult = iota
	signatureInvalidResult
	// signatureMismatch: the key is none that this algorithm, or any, is verified with.
	signatureMismatch
	// signatureShed: too many were under way.
	signatureShed
	numSignatureResults
)

func (r signatureResult) String() string {
	return [numSignatureResults]string{"valid", "invalid", "mismatch", "shed"}[r]
}

// signature counts one.
func (m *metrics) signature(s *signed, r signatureResult) {
	form := 0
	if s.has&hasJWS != 0 {
		form = 1
	}
	m.signatures[form][r].Inc()
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keysidecar_http_requests_total",
			Help: "Requests answered by the data plane, by route, HTTP status and listener.",
		}, []string{"route", "code", "listener"}),
		badRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keysidecar_http_bad_requests_total",
			Help: "Requests answered with a problem that the caller can mend, by the problem's code.",
		}, []string{"reason"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keysidecar_http_requests_in_flight",
			Help: "Requests being answered right now.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keysidecar_http_panics_total",
			Help: "Requests whose handling panicked and that were answered 500.",
		}),
	}
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "keysidecar_http_request_duration_seconds",
		Help: "Time from a complete request to its answer, without the network.",
		Buckets: []float64{
			10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1,
		},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}, []string{"route"})
	verdicts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_verdicts_total",
		Help: "Verdicts given, by code; a batch gives several.",
	}, []string{"code"})
	connections := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "keysidecar_http_connections",
		Help: "Open connections of the data plane.",
	}, []string{"listener"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_http_connections_refused_total",
		Help: "Connections closed unserved: the listener was full, or the user is not among allowed_uids.",
	}, []string{"listener", "reason"})
	aborted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_http_connections_aborted_total",
		Help: "Connections cut while an answer was under way: the client did not read it, or the daemon stopped.",
	}, []string{"reason"})
	receipts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_receipts_total",
		Help: "Receipts asked for, by what was answered; failed ones could not be told.",
	}, []string{"outcome"})
	m.receiptTime = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:                            "keysidecar_receipt_seconds",
		Help:                            "Time from when this sidecar knew of a change to its complete receipt, of receipts answered complete.",
		Buckets:                         []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	})
	signatures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keysidecar_signatures_total",
		Help: "Signatures verified, by form (signature or jws) and result; shed ones were too many at a time and answered 503.",
	}, []string{"form", "result"})
	m.signatureTime = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:                            "keysidecar_signature_seconds",
		Help:                            "Time that computing one signature took, without the wait for its turn.",
		Buckets:                         []float64{25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	})
	for _, c := range []prometheus.Collector{
		signatures, m.signatureTime, receipts, m.receiptTime, m.requests, m.badRequests, m.inFlight, m.panics, durations, verdicts, connections, refused, aborted,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	for r := range m.durations {
		m.durations[r] = durations.WithLabelValues(routeID(r).String())
	}
	for c := range m.verdicts {
		m.verdicts[c] = verdicts.WithLabelValues(code(c).String())
	}
	for l := range m.connections {
		m.connections[l] = connections.WithLabelValues(listenerID(l).String())
		for r := range m.refused[l] {
			m.refused[l][r] = refused.WithLabelValues(listenerID(l).String(), refusal(r).String())
		}
	}
	for o := range m.receipts {
		m.receipts[o] = receipts.WithLabelValues(receiptOutcome(o).String())
	}
	for r := range numSignatureResults {
		m.signatures[0][r] = signatures.WithLabelValues("signature", r.String())
		m.signatures[1][r] = signatures.WithLabelValues("jws", r.String())
	}
	for a := range m.aborted {
		m.aborted[a] = aborted.WithLabelValues(abort(a).String())
	}
	return m, nil
}

// answered counts one answer.
func (m *metrics) answered(r routeID, l listenerID, status int, took time.Duration) {
	child := &m.resolved[r][l][status]
	c := child.Load()
	if c == nil {
		counter := m.requests.WithLabelValues(r.String(), strconv.Itoa(status), l.String())
		c = &counter
		child.Store(c)
	}
	(*c).Inc()
	m.durations[r].Observe(took.Seconds())
}

// refusedRequest counts a problem that the caller can mend.
func (m *metrics) refusedRequest(p *problem) {
	if p.status < 500 || p == errVersion {
		m.badRequests.WithLabelValues(p.code).Inc()
	}
}
