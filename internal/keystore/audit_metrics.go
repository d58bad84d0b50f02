package keystore

import "github.com/prometheus/client_golang/prometheus"

// auditMetrics count what comparisons with the source found.
type auditMetrics struct {
	compared, newer prometheus.Counter
	differences     map[Difference]prometheus.Counter
	failed, skipped prometheus.Counter
}

func newAuditMetrics(r *registry, s *Store) *auditMetrics {
	entries := counters(r, "keysidecar_audit_entries_total",
		"Entries of memory held against the store: compared, or newer than could be compared.", "outcome", []string{"compared", "newer"})
	m := &auditMetrics{
		compared: entries["compared"], newer: entries["newer"],
		differences: counters(r, "keysidecar_audit_differences_total",
			"Keys on which memory differed from the store though no event was due; anything but 0 is an alarm.", "kind", allDifferences),
		failed:  r.counter("keysidecar_audit_failed_total", "Audits that the store did not answer."),
		skipped: r.counter("keysidecar_audit_skipped_total", "Samples left out: no lease, no free connection, or history moved on."),
	}
	r.gauge("keysidecar_audit_age_seconds", "Time since memory was last compared with the store, or since the start; 0 if audit.interval is 0.", func() float64 {
		if s.opts.Audit.Interval == 0 {
			return 0
		}
		return s.audit.age(s.clock.Now()).Seconds()
	})
	return m
}
