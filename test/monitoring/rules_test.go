package monitoring

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	root    = "../.."
	runbook = "https://github.com/keysidecar/keysidecar/blob/main/docs/operations.md#"
)

// ruleFile is the part of Prometheus's rule files that is used here.
type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

func readRules(t *testing.T) (f ruleFile) {
	t.Helper()
	readYAML(t, "deploy/prometheus/rules.yml", &f)
	return f
}

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func alerts(f ruleFile) (all []rule) {
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				all = append(all, r)
			}
		}
	}
	return all
}

// promtool parses the expressions, and evaluates them on the faults of
// rules_test.yml.
func TestAnAlertDoesNotFireOrDoesNotResolve(t *testing.T) {
	dir := filepath.Join(root, "deploy/prometheus")
	for _, args := range [][]string{{"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), "promtool", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func TestAnAlertIsNotTested(t *testing.T) {
	var f struct {
		Tests []struct {
			Name           string
			AlertRuleTests []struct {
				AlertName string `yaml:"alertname"`
				ExpAlerts []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, "deploy/prometheus/rules_test.yml", &f)
	fires, resolves := make(map[string]bool), make(map[string]bool)
	for _, test := range f.Tests {
		for _, a := range test.AlertRuleTests {
			if len(a.ExpAlerts) > 0 {
				fires[a.AlertName] = true
			} else if fires[a.AlertName] && test.Name == a.AlertName {
				resolves[a.AlertName] = true
			}
		}
	}
	all := alerts(readRules(t))
	if len(all) < 11 {
		t.Errorf("only %d alerts", len(all))
	}
	for _, a := range all {
		if !fires[a.Alert] || !resolves[a.Alert] {
			t.Errorf("%s: fires in a test: %v, and resolves in it: %v", a.Alert, fires[a.Alert], resolves[a.Alert])
		}
	}
}

// Whoever is woken needs to know how bad it is, what it is, and what to do.
func TestAnAlertLeavesItsReaderAlone(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	grouped := regexp.MustCompile(`\b(by|on) \(([^)]*)\)|\bon \(\)`)
	for _, a := range alerts(readRules(t)) {
		if !slices.Contains([]string{"critical", "warning"}, a.Labels["severity"]) {
			t.Errorf("%s: severity %q", a.Alert, a.Labels["severity"])
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s has no summary or no description", a.Alert)
		}
		if a.Annotations["runbook_url"] != runbook+strings.ToLower(a.Alert) {
			t.Errorf("%s: runbook_url %q", a.Alert, a.Annotations["runbook_url"])
		}
		_, section, found := strings.Cut(string(data), "\n### "+a.Alert+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		for _, part := range []string{"**Meaning.**", "**Look.**", "**Do.**"} {
			if !found || !strings.Contains(section, part) {
				t.Errorf("docs/operations.md: the section %s has no %s", a.Alert, part)
			}
		}
		// One outage is one alert, not one for each pod.
		if !strings.Contains(a.Expr, "workload:") && !strings.Contains(a.Expr, "absent(") && !grouped.MatchString(a.Expr) {
			t.Errorf("%s is not aggregated: %s", a.Alert, a.Expr)
		}
		for _, m := range grouped.FindAllStringSubmatch(a.Expr, -1) {
			if strings.Contains(m[2], "instance") || strings.Contains(m[2], "pod") {
				t.Errorf("%s is raised for each pod: %s", a.Alert, m[0])
			}
		}
	}
}

func TestThePrometheusRuleIsNotTheRules(t *testing.T) {
	var f ruleFile
	var r struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Spec       ruleFile
	}
	readYAML(t, "deploy/prometheus/rules.yml", &f)
	readYAML(t, "deploy/k8s/components/prometheusrule/prometheusrule.yaml", &r)
	if r.Kind != "PrometheusRule" || !reflect.DeepEqual(f, r.Spec) {
		t.Error("deploy/k8s/components/prometheusrule is out of date: run make generate")
	}
}
