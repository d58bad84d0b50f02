package k8s

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	manifests = root + "/deploy/k8s"
)

// typed returns an empty object of the kind, nil for one that is not known here.
func typed(apiVersion, kind string) any {
	switch apiVersion + "/" + kind {
	case "v1/Namespace":
		return new(core.Namespace)
	case "v1/ServiceAccount":
		return new(core.ServiceAccount)
	case "apps/v1/Deployment":
		return new(apps.Deployment)
	case "apps/v1/StatefulSet":
		return new(apps.StatefulSet)
	case "apps/v1/DaemonSet":
		return new(apps.DaemonSet)
	case "batch/v1/Job":
		return new(batch.Job)
	case "policy/v1/PodDisruptionBudget":
		return new(policy.PodDisruptionBudget)
	case "networking.k8s.io/v1/NetworkPolicy":
		return new(networking.NetworkPolicy)
	case "monitoring.coreos.com/v1/PodMonitor":
		return new(monitoring.PodMonitor)
	case "monitoring.coreos.com/v1/PrometheusRule":
		return new(monitoring.PrometheusRule)
	}
	return nil
}

// workload is an object that runs pods.
type workload struct {
	where  string // folder, kind and name
	object any
	pod    *core.PodTemplateSpec
}

// build returns the objects of one kustomization. A field that Kubernetes does not
// know fails the test: it would be ignored, or refused, when it is applied.
func build(t *testing.T, dir string) (objects []any) {
	t.Helper()
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	for _, r := range result.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object := typed(r.GetApiVersion(), r.GetKind())
		if object == nil {
			t.Fatalf("%s: %s %s is of a kind that this test does not know", dir, r.GetKind(), r.GetName())
		}
		if err := yaml.UnmarshalStrict(text, object); err != nil {
			t.Errorf("%s: %s %s: %v", dir, r.GetKind(), r.GetName(), err)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		t.Fatalf("%s makes nothing", dir)
	}
	return objects
}

// kustomizations are those that can be applied: components are parts of others.
func kustomizations(t *testing.T) (dirs []string) {
	t.Helper()
	dirs = append(dirs, manifests+"/base")
	found, err := filepath.Glob(manifests + "/overlays/*")
	if err != nil || len(found) < 4 {
		t.Fatalf("found %v, %v", found, err)
	}
	return append(dirs, found...)
}

func workloads(t *testing.T) (all []workload) {
	t.Helper()
	for _, dir := range kustomizations(t) {
		all = append(all, podsOf(dir, build(t, dir))...)
	}
	return all
}

func podsOf(dir string, objects []any) (all []workload) {
	add := func(object any, kind, name string, pod *core.PodTemplateSpec) {
		all = append(all, workload{fmt.Sprintf("%s: %s %s", strings.TrimPrefix(dir, manifests+"/"), kind, name), object, pod})
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *apps.Deployment:
			add(o, o.Kind, o.Name, &o.Spec.Template)
		case *apps.StatefulSet:
			add(o, o.Kind, o.Name, &o.Spec.Template)
		case *apps.DaemonSet:
			add(o, o.Kind, o.Name, &o.Spec.Template)
		case *batch.Job:
			add(o, o.Kind, o.Name, &o.Spec.Template)
		}
	}
	return all
}

// ours returns the containers of a pod that run keysidecar.
func ours(pod *core.PodSpec) (all []core.Container) {
	for _, c := range append(append([]core.Container{}, pod.InitContainers...), pod.Containers...) {
		if c.Image == "keysidecar" || strings.Contains(c.Image, "/keysidecar:") {
			all = append(all, c)
		}
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestEveryComponentIsPartOfSomethingThatIsBuilt(t *testing.T) {
	components, err := filepath.Glob(manifests + "/components/*")
	if err != nil || len(components) < 6 {
		t.Fatalf("found %v, %v", components, err)
	}
	var used strings.Builder
	for _, dir := range kustomizations(t) {
		used.WriteString(read(t, strings.TrimPrefix(dir, root+"/")+"/kustomization.yaml"))
	}
	for _, c := range components {
		if !strings.Contains(used.String(), "components/"+filepath.Base(c)+"\n") {
			t.Errorf("no overlay builds %s", c)
		}
	}
}

// The component's patch is written as a Deployment; it must fit whatever it is put
// into, and leave what did not ask for it alone.
func TestASidecarIsPutIntoTheWrongWorkload(t *testing.T) {
	component, err := filepath.Abs(manifests + "/components/sidecar")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if component, err = filepath.Rel(dir, component); err != nil { // kustomize takes no absolute path
		t.Fatal(err)
	}
	files := map[string]string{
		"kustomization.yaml": "resources: [asks.yaml, does-not.yaml]\ncomponents: [" + component + "]\n",
		"asks.yaml":          stateful("asks", "true"),
		"does-not.yaml":      stateful("does-not", "false"),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]int{"asks": 1, "does-not": 0}
	for _, o := range build(t, dir) {
		s := o.(*apps.StatefulSet)
		if n := len(ours(&s.Spec.Template.Spec)); n != want[s.Name] {
			t.Errorf("%s has %d sidecars", s.Name, n)
		}
		if c := s.Spec.Template.Spec.Containers; len(c) != 1 || c[0].Name != "app" {
			t.Errorf("%s: containers %v", s.Name, c)
		}
		delete(want, s.Name)
	}
	if len(want) > 0 {
		t.Errorf("not built: %v", want)
	}
}

func stateful(name, inject string) string {
	return `apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: ` + name + `
  labels:
    keysidecar.io/inject: "` + inject + `"
spec:
  serviceName: ` + name + `
  selector:
    matchLabels:
      app: ` + name + `
  template:
    metadata:
      labels:
        app: ` + name + `
    spec:
      containers:
        - name: app
          image: app
`
}
