package k8s

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	podsecurity "k8s.io/pod-security-admission/api"
	standards "k8s.io/pod-security-admission/policy"
)

// The judge is the one that the API server uses. The DaemonSet shares a folder of
// the node, which no standard below privileged allows.
func TestAPodIsRefusedByTheRestrictedStandard(t *testing.T) {
	judge, err := standards.NewEvaluator(standards.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	for _, w := range workloads(t) {
		if strings.HasPrefix(w.where, "overlays/node:") {
			continue
		}
		for _, r := range judge.EvaluatePod(level, &w.pod.ObjectMeta, &w.pod.Spec) {
			if !r.Allowed {
				t.Errorf("%s: %s (%s)", w.where, r.ForbiddenReason, r.ForbiddenDetail)
			}
		}
	}
}

// What the standard does not ask for and people do.
func TestAContainerCouldBeHardened(t *testing.T) {
	seen := 0
	for _, w := range workloads(t) {
		for _, c := range ours(&w.pod.Spec) {
			seen++
			s := c.SecurityContext
			if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
				s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
				t.Errorf("%s: %s: root filesystem, privilege escalation or capabilities", w.where, c.Name)
			}
			if w.pod.Spec.AutomountServiceAccountToken == nil || *w.pod.Spec.AutomountServiceAccountToken {
				t.Errorf("%s: a token for the Kubernetes API is mounted", w.where)
			}
			if w.pod.Spec.HostNetwork || w.pod.Spec.HostPID || w.pod.Spec.HostIPC {
				t.Errorf("%s: shares the node's namespaces", w.where)
			}
		}
	}
	if seen < 7 {
		t.Errorf("only %d containers run keysidecar", seen)
	}
}

func TestAContainerHasNoRequestsOrAProcessorLimit(t *testing.T) {
	for _, w := range workloads(t) {
		for _, c := range ours(&w.pod.Spec) {
			r := c.Resources
			if r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() {
				t.Errorf("%s: %s: requests or the limit of memory are missing", w.where, c.Name)
			}
			if r.Requests.Cpu().MilliValue() > 50 || r.Requests.Memory().Value() > 64<<20 {
				t.Errorf("%s: %s: asks for much: %s, %s", w.where, c.Name, r.Requests.Cpu(), r.Requests.Memory())
			}
			if _, limited := r.Limits[core.ResourceCPU]; limited {
				t.Errorf("%s: %s: a throttled process misses its fences", w.where, c.Name)
			}
		}
	}
}

// settings returns what the README's table says: the default by key.
func settings(t *testing.T) map[string]string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (?:`([^`]*)`|-) \\|")
	found := make(map[string]string)
	for _, m := range row.FindAllStringSubmatch(read(t, "README.md"), -1) {
		found[m[1]] = m[2]
	}
	if len(found) < 40 {
		t.Fatalf("the README's table has %d settings", len(found))
	}
	return found
}

func variable(key string) string {
	return "KEYSIDECAR_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func TestAVariableOrFileDoesNotReachTheProgram(t *testing.T) {
	known := map[string]string{}
	for key := range settings(t) {
		known[variable(key)] = key
	}
	for _, w := range workloads(t) {
		for _, c := range ours(&w.pod.Spec) {
			for _, e := range c.Env {
				if e.Name == "POD_UID" {
					if e.ValueFrom == nil || e.ValueFrom.FieldRef == nil || e.ValueFrom.FieldRef.FieldPath != "metadata.uid" {
						t.Errorf("%s: POD_UID is not the pod's uid", w.where)
					}
					continue
				}
				key, ok := known[e.Name]
				if !ok {
					t.Errorf("%s: the program knows no %s", w.where, e.Name)
				}
				if strings.HasPrefix(e.Value, "/") && !slices.ContainsFunc(c.VolumeMounts, func(m core.VolumeMount) bool {
					return m.MountPath == filepath.Dir(e.Value) && m.SubPath == ""
				}) {
					t.Errorf("%s: %s: nothing is mounted at the folder of %s", w.where, key, e.Value)
				}
			}
			if c.Args[0] != "migrate" && !slices.ContainsFunc(c.Env, func(e core.EnvVar) bool { return e.Name == "POD_UID" }) {
				t.Errorf("%s: the instance has no name of its own", w.where)
			}
			if text := read(t, "cmd/keysidecar/"+c.Args[0]+".go"); !strings.Contains(text, fmt.Sprintf("%q", c.Args[0])) {
				t.Errorf("%s: there is no command %s", w.where, c.Args[0])
			}
		}
	}
}

func TestAProbeAsksForWhatIsNotServed(t *testing.T) {
	_, port, _ := strings.Cut(settings(t)["listen.admin.address"], ":")
	routes := read(t, "internal/server/admin.go")
	for _, w := range workloads(t) {
		for _, c := range ours(&w.pod.Spec) {
			if c.Args[0] == "migrate" {
				continue
			}
			var metrics *core.ContainerPort
			for i := range c.Ports {
				if c.Ports[i].Name == "ks-metrics" {
					metrics = &c.Ports[i]
				}
			}
			if metrics == nil || fmt.Sprint(metrics.ContainerPort) != port {
				t.Errorf("%s: no port ks-metrics, or another one than the program's %s", w.where, port)
			}
			for _, p := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if p == nil {
					continue
				}
				if p.HTTPGet == nil || p.HTTPGet.Port.String() != "ks-metrics" || p.HTTPGet.Host != "" || !strings.Contains(routes, `"GET `+p.HTTPGet.Path+`"`) {
					t.Errorf("%s: a probe asks for %+v", w.where, p.ProbeHandler)
				}
			}
			// livez never asks a dependency, so an outage restarts nothing.
			if c.LivenessProbe == nil || c.LivenessProbe.HTTPGet.Path != "/livez" {
				t.Errorf("%s: liveness", w.where)
			}
		}
	}
}

// The sidecar of an application: found in the three examples.
func TestASidecarWouldHarmItsApplication(t *testing.T) {
	seen := 0
	for _, w := range workloads(t) {
		if !strings.HasPrefix(w.where, "overlays/example") {
			continue
		}
		pod := &w.pod.Spec
		if len(ours(pod)) != 1 {
			t.Fatalf("%s: %d sidecars", w.where, len(ours(pod)))
		}
		seen++
		c := ours(pod)[0]
		if c.ReadinessProbe != nil {
			t.Errorf("%s: a database that is away would take the application out of its Service", w.where)
		}
		if w.pod.Labels["keysidecar.io/enabled"] != "true" {
			t.Errorf("%s: the pods carry no label to be found by", w.where)
		}
		if pod.SecurityContext.FSGroup == nil {
			t.Errorf("%s: no group may use both the socket and the secrets", w.where)
		}
		if pod.Containers[len(pod.Containers)-1].Name != "checkout" || pod.InitContainers[len(pod.InitContainers)-1].Name != "prepare" {
			t.Errorf("%s: the application's containers were changed", w.where)
		}
		sharesSocket(t, w, c)
		if native := pod.InitContainers[0].Name == "keysidecar"; native {
			gatesStart(t, w, pod.InitContainers[0])
		} else if pod.Containers[0].Name != "keysidecar" || c.Lifecycle == nil || c.Lifecycle.PostStart == nil ||
			!slices.Equal(c.Lifecycle.PostStart.Exec.Command[:2], []string{"/keysidecar", "wait"}) {
			t.Errorf("%s: nothing makes the application wait for its keys", w.where)
		}
	}
	if seen != 3 {
		t.Errorf("%d examples", seen)
	}
}

func env(c core.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

func gatesStart(t *testing.T, w workload, c core.Container) {
	t.Helper()
	if c.RestartPolicy == nil || *c.RestartPolicy != core.ContainerRestartPolicyAlways {
		t.Errorf("%s: the sidecar would be waited for as an ordinary init container", w.where)
	}
	wait, err := time.ParseDuration(env(c, "KEYSIDECAR_STARTUP_MAX_WAIT"))
	if err != nil {
		t.Fatalf("%s: startup.max_wait: %v", w.where, err)
	}
	p := c.StartupProbe
	if p == nil || p.HTTPGet.Path != "/startupz" || time.Duration(p.PeriodSeconds*p.FailureThreshold)*time.Second <= wait {
		t.Errorf("%s: the kubelet would kill the sidecar before it has said why it gives up", w.where)
	}
}

// The folder is mounted, never the file in it: a file stays the old socket after a
// restart. It is in memory, and the group of the pod may use it.
func sharesSocket(t *testing.T, w workload, c core.Container) {
	t.Helper()
	dir := filepath.Dir(env(c, "KEYSIDECAR_LISTEN_SOCKET_PATH"))
	mounts := 0
	for _, other := range append(append([]core.Container{}, w.pod.Spec.InitContainers...), w.pod.Spec.Containers...) {
		for _, m := range other.VolumeMounts {
			if m.Name == "keysidecar-socket" {
				mounts++
				if m.MountPath != dir || m.SubPath != "" {
					t.Errorf("%s: %s mounts %s", w.where, other.Name, m.MountPath)
				}
			}
		}
	}
	if mounts != 2 {
		t.Errorf("%s: %d containers share the socket", w.where, mounts)
	}
	for _, v := range w.pod.Spec.Volumes {
		switch {
		case v.Name == "keysidecar-socket" && (v.EmptyDir == nil || v.EmptyDir.Medium != core.StorageMediumMemory || v.EmptyDir.SizeLimit.IsZero()):
			t.Errorf("%s: the socket's folder is not a bounded one in memory", w.where)
		case v.Name == "keysidecar-secrets" && (v.Secret == nil || *v.Secret.DefaultMode != 0o440):
			t.Errorf("%s: the secrets' mode", w.where)
		}
	}
}

func TestThePoolerIsNotToldOfToSidecars(t *testing.T) {
	for _, w := range podsOf("", build(t, manifests+"/overlays/example-pgbouncer")) {
		if mode := env(ours(&w.pod.Spec)[0], "KEYSIDECAR_STORE_POSTGRES_EXEC_MODE"); mode != "cache_describe" {
			t.Errorf("%s: exec_mode %q", w.where, mode)
		}
	}
}

// Two relays that are never both away for something planned.
func TestTheRelaysCanAllBeAwayAtOnce(t *testing.T) {
	var (
		relay  *apps.Deployment
		budget *policy.PodDisruptionBudget
		job    *batch.Job
		net    *networking.NetworkPolicy
	)
	for _, o := range build(t, manifests+"/overlays/relay") {
		switch o := o.(type) {
		case *apps.Deployment:
			relay = o
		case *policy.PodDisruptionBudget:
			budget = o
		case *batch.Job:
			job = o
		case *networking.NetworkPolicy:
			net = o
		case *core.Namespace:
			if o.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
				t.Error("the namespace does not enforce the restricted standard")
			}
		}
	}
	pods := labels.Set(relay.Spec.Template.Labels)
	if *relay.Spec.Replicas != 2 || budget.Spec.MaxUnavailable.IntValue() != 1 || !selects(t, budget.Spec.Selector, pods) {
		t.Errorf("%d relays, a budget of %v", *relay.Spec.Replicas, budget.Spec.MaxUnavailable)
	}
	spread := relay.Spec.Template.Spec.TopologySpreadConstraints
	if len(spread) != 2 || !selects(t, spread[0].LabelSelector, pods) || !selects(t, spread[1].LabelSelector, pods) {
		t.Errorf("spread %+v", spread)
	}
	for _, s := range []labels.Set{pods, job.Spec.Template.Labels} {
		if !selects(t, &net.Spec.PodSelector, s) {
			t.Errorf("the network policy does not select %v", s)
		}
	}
	if selects(t, budget.Spec.Selector, job.Spec.Template.Labels) || selects(t, relay.Spec.Selector, job.Spec.Template.Labels) {
		t.Error("the migration's pods count as relays")
	}
	for _, c := range append(relay.Spec.Template.Spec.Containers, job.Spec.Template.Spec.Containers...) {
		if strings.HasSuffix(c.Image, ":latest") || !strings.Contains(c.Image, "/") {
			t.Errorf("image %s is not pinned", c.Image)
		}
	}
}

func selects(t *testing.T, s *meta.LabelSelector, l labels.Set) bool {
	t.Helper()
	selector, err := meta.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(l)
}

func TestPrometheusDoesNotFindThePods(t *testing.T) {
	var monitors []*monitoring.PodMonitor
	rules := 0
	for _, o := range build(t, manifests+"/overlays/relay") {
		switch o := o.(type) {
		case *monitoring.PodMonitor:
			monitors = append(monitors, o)
		case *monitoring.PrometheusRule:
			for _, g := range o.Spec.Groups {
				rules += len(g.Rules)
			}
		}
	}
	if rules < 20 {
		t.Errorf("%d rules", rules)
	}
	for _, w := range workloads(t) {
		if _, isJob := w.object.(*batch.Job); isJob {
			continue
		}
		found := 0
		for _, m := range monitors {
			if selects(t, &m.Spec.Selector, w.pod.Labels) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%s: found by %d PodMonitors", w.where, found)
		}
	}
	for _, m := range monitors {
		e := m.Spec.PodMetricsEndpoints[0]
		if *e.Port != "ks-metrics" || e.Path != "/metrics" {
			t.Errorf("%s: %s%s", m.Name, *e.Port, e.Path)
		}
		for in, want := range map[string]string{
			"ReplicaSet;checkout-api-7c9f5d8b6d": "checkout-api", "StatefulSet;checkout-api": "checkout-api", "DaemonSet;node-1": "node-1",
		} {
			have := ""
			for _, r := range e.RelabelConfigs {
				if re := regexp.MustCompile("^(?:" + r.Regex + ")$"); re.MatchString(in) && r.TargetLabel == "workload" {
					have = re.ReplaceAllString(in, *r.Replacement)
				}
			}
			if have != want {
				t.Errorf("%s: the workload of %s is %q", m.Name, in, have)
			}
		}
	}
}
