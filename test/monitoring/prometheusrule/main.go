// Command prometheusrule writes the rules of deploy/prometheus as the
// PrometheusRule of deploy/k8s, for Prometheus Operator. It is run by go generate.
package main

import (
	"fmt"
	"os"
	"strings"
)

const (
	rules  = "../../deploy/prometheus/rules.yml"
	target = "../../deploy/k8s/components/prometheusrule/prometheusrule.yaml"
	head   = `# Made from deploy/prometheus/rules.yml by make generate. Do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: keysidecar
  labels:
    app.kubernetes.io/name: keysidecar
    app.kubernetes.io/component: monitoring
spec:
`
)

func main() {
	if err := write(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write() error {
	data, err := os.ReadFile(rules)
	if err != nil {
		return err
	}
	_, groups, found := strings.Cut(string(data), "\ngroups:\n")
	if !found {
		return fmt.Errorf("%s has no groups", rules)
	}
	var b strings.Builder
	b.WriteString(head + "  groups:\n")
	for line := range strings.Lines(groups) {
		if line != "\n" {
			b.WriteString("  ")
		}
		b.WriteString(line)
	}
	return os.WriteFile(target, []byte(b.String()), 0o600)
}
