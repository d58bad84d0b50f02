// Package monitoring checks what deploy/prometheus and deploy/grafana ship: the
// rules with Prometheus's own promtool, the dashboard's form, and both against the
// metrics of the real program, scraped by a real Prometheus.
package monitoring

//go:generate go run ./prometheusrule
