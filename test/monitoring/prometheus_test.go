package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// prometheus is a private one.
type prometheus struct {
	t    *testing.T
	addr string
}

// startPrometheus scrapes the targets, by job, every second, and evaluates the
// shipped rules as often; alerts fire as soon as their condition holds.
func startPrometheus(t *testing.T, targets map[string][]string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	addr, release, err := testenv.ReserveAddress()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = release() })
	rules, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var scrapes strings.Builder
	for job, hosts := range targets {
		fmt.Fprintf(&scrapes, "  - job_name: %s\n    static_configs: [{targets: ['%s']}]\n", job, strings.Join(hosts, "', '"))
	}
	write(t, filepath.Join(dir, "rules.yml"), regexp.MustCompile(`(?m)^(\s+for:) .*$`).ReplaceAllString(string(rules), "$1 0s"))
	write(t, filepath.Join(dir, "prometheus.yml"),
		"global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n"+scrapes.String())

	cmd := exec.CommandContext(context.Background(), "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=warn")
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Prometheus: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", log.String())
		}
	})
	return &prometheus{t, addr}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// get asks Prometheus's API and decodes the data of its answer.
func (p *prometheus) get(path string, query url.Values, into any) error {
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.addr+"/api/v1/"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Error string
		Data  json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// query evaluates an expression and returns how many series it has.
func (p *prometheus) query(expr string) (int, error) {
	var data struct{ Result []any }
	err := p.get("query", url.Values{"query": {expr}}, &data)
	return len(data.Result), err
}

// until polls.
func (p *prometheus) until(what string, limit time.Duration, met func() bool) {
	p.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !met(); <-tick.C {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

func (p *prometheus) fires(alert string) bool {
	n, err := p.query(fmt.Sprintf("ALERTS{alertname=%q, alertstate=\"firing\"}", alert))
	return err == nil && n > 0
}

// expression is one that is shipped, and where it is.
type expression struct{ where, text string }

func shipped(t *testing.T) (all []expression) {
	t.Helper()
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			all = append(all, expression{"rule " + r.Record + r.Alert, r.Expr})
		}
	}
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			all = append(all, expression{fmt.Sprintf("panel %q, query %s", p.Title, q.RefID), q.Expr})
		}
	}
	for _, v := range d.Templating.List {
		if inner, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			all = append(all, expression{"variable " + v.Name, inner[:strings.LastIndex(inner, ",")]})
		}
	}
	// As Grafana would fill them in, with All chosen.
	filled := strings.NewReplacer("$__rate_interval", "1m", "$namespace", ".*", "$workload", ".*", "$job", ".*", "$relay", ".*")
	for i := range all {
		all[i].text = filled.Replace(all[i].text)
		if strings.Contains(all[i].text, "$") {
			t.Errorf("%s: a variable that is not known: %s", all[i].where, all[i].text)
		}
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\b(?:(?:keysidecar|process|go|container|kube|node)_[a-z0-9_]+|workload:[a-z0-9_:]+)`)
	quoted     = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	grouping   = regexp.MustCompile(`\b(?:by|on|ignoring|without) \([^)]*\)`)
	selector   = regexp.MustCompile(`\b((?:keysidecar|process|go)_[a-z0-9_]+)\{([^}]*)\}`)
)

// A rule or a panel with a name that was changed in the program is silent for ever.
func TestARuleOrPanelNamesAMetricThatDoesNotExist(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c, relay, sidecars := startCluster(ctx, t)
	p := startPrometheus(t, map[string][]string{"sidecars": {sidecars[0].Admin, sidecars[1].Admin}, "relays": {relay.Admin}})
	p.until("the rules to be evaluated on what was scraped", time.Minute, func() bool {
		n, err := p.query("workload:keysidecar_receipt_seconds:p99_5m and on (job) (workload:keysidecar_sidecars:count == 2) and on () keysidecar_relay_leader")
		return err == nil && n > 0
	})

	var known []string
	if err := p.get("label/__name__/values", nil, &known); err != nil {
		t.Fatal(err)
	}
	recorded := make(map[string]bool)
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			recorded[r.Record] = true
		}
	}
	// What workload:keysidecar_memory:ratio is computed from is 0 where no limit is set.
	for _, e := range shipped(t) {
		names := metricName.FindAllString(grouping.ReplaceAllString(quoted.ReplaceAllString(e.text, `""`), ""), -1)
		if len(names) == 0 && !strings.Contains(e.text, "ALERTS") {
			t.Errorf("%s: no metric is named: %s", e.where, e.text)
		}
		for _, name := range names {
			if !slices.Contains(known, name) && !recorded[name] {
				t.Errorf("%s: there is no metric %s", e.where, name)
			}
		}
		// Labels and their values, too, as far as matchers say them.
		for _, m := range selector.FindAllStringSubmatch(e.text, -1) {
			if n, err := p.query("count(" + m[0] + ")"); err != nil || n == 0 {
				t.Errorf("%s: no series matches %s (%v)", e.where, m[0], err)
			}
		}
		if !strings.HasPrefix(e.where, "variable") {
			if _, err := p.query(e.text); err != nil {
				t.Errorf("%s: %v", e.where, err)
			}
		}
	}
	for _, a := range alerts(readRules(t)) {
		if p.fires(a.Alert) {
			t.Errorf("%s fires while all is well", a.Alert)
		}
	}

	// Two faults for real, as a check on the series that rules_test.yml makes up.
	if err := c.PG.Pause(); err != nil {
		t.Fatal(err)
	}
	p.until("KeysidecarFreshnessLapsed, Postgres is paused", 30*time.Second, func() bool { return p.fires("KeysidecarFreshnessLapsed") })
	if err := c.PG.Resume(); err != nil {
		t.Fatal(err)
	}
	p.until("KeysidecarFreshnessLapsed to resolve", 30*time.Second, func() bool { return !p.fires("KeysidecarFreshnessLapsed") })
	if err := relay.Kill(); err != nil {
		t.Fatal(err)
	}
	p.until("KeysidecarRelayAbsent, the relay is dead", 30*time.Second, func() bool { return p.fires("KeysidecarRelayAbsent") })
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	p.until("KeysidecarRelayAbsent to resolve", 30*time.Second, func() bool { return !p.fires("KeysidecarRelayAbsent") })
}

// startCluster starts one relay and two sidecars, asks them for a key, revokes it
// and takes its receipt, so that every kind of figure has been counted.
func startCluster(ctx context.Context, t *testing.T) (*cluster.Cluster, *cluster.Relay, []*cluster.Sidecar) {
	t.Helper()
	bin, err := cluster.Build(ctx, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(ctx, bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	relay, err := c.Relay("relay")
	if err != nil {
		t.Fatal(err)
	}
	var sidecars []*cluster.Sidecar
	for _, name := range []string{"sidecar-1", "sidecar-2"} {
		s, err := c.Sidecar(name)
		if err != nil {
			t.Fatal(err)
		}
		sidecars = append(sidecars, s)
	}
	for _, sql := range []string{
		"INSERT INTO keysidecar.owners (owner_id) VALUES ('m_1')",
		"INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('pk_1', 'm_1', 'opaque')",
	} {
		if _, err := c.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range sidecars {
		if err := s.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Until(ctx, "pk_1", cluster.Code("active")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Exec(ctx, "UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'pk_1'"); err != nil {
		t.Fatal(err)
	}
	for _, s := range sidecars {
		if _, err := s.Until(ctx, "pk_1", cluster.Code("revoked")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Receipt(ctx, "pk_1", 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	return c, relay, sidecars
}
