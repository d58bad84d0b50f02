//go:build compose

package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/engine"
)

const (
	root    = "../.."
	project = "keysidecar-test"
)

// stack is the project while it runs.
type stack struct {
	t *testing.T
	e *engine.Engine
	compose
	ports map[string]string // variable -> port
	http  *http.Client
}

func newStack(t *testing.T) *stack {
	e := engine.New(t)
	s := &stack{t: t, e: e, ports: map[string]string{},
		http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: e.Dial}}}
	s.compose = compose{t: t, e: e,
		args: []string{"--project-name", project, "--file", root + "/deploy/docker-compose.yml", "--file", "without-grafana.yml"},
		env: []string{
			"BUILD_IMAGE=" + e.Compiler(root), "KEYSIDECAR_IMAGE=keysidecar-test-stack", "SAMPLE_IMAGE=keysidecar-test-sample",
			"POSTGRES_IMAGE=" + standIn(t, e, "postgres", "postgresql"),
			"RABBITMQ_IMAGE=" + standIn(t, e, "rabbitmq", "rabbitmq-server"),
			"PROMETHEUS_IMAGE=" + standIn(t, e, "prometheus", "prometheus"),
		}}
	for _, name := range []string{"APP_A_PORT", "APP_B_PORT", "PROMETHEUS_PORT", "RABBITMQ_MANAGEMENT_PORT"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, s.ports[name], _ = net.SplitHostPort(l.Addr().String())
		_ = l.Close()
		s.env = append(s.env, name+"="+s.ports[name])
	}
	t.Cleanup(func() { _, _ = e.Try("rmi", "-f", "keysidecar-test-stack", "keysidecar-test-sample") })
	return s
}

func TestTheStackDoesNotComeUpOrARevokedKeyIsUsed(t *testing.T) {
	s := newStack(t)
	t.Log(s.must("version", "--short"))
	begun := time.Now()
	s.must("build")
	t.Logf("built in %v", time.Since(begun))
	t.Cleanup(s.down)
	begun = time.Now()
	if _, err := s.try("up", "-d"); err != nil {
		t.Fatalf("%v\n%s", err, s.logs())
	}
	t.Logf("up -d took %v", time.Since(begun))
	s.settled(begun)

	for _, step := range []struct {
		name string
		do   func(t *testing.T, s *stack)
	}{
		{"the pages show the keys", showsKeys},
		{"containers are hardened", areHardened},
		{"passwords are in files alone", keepsSecrets},
		{"a sidecar's role cannot revoke", refusesSidecar},
		{"a revocation ends the key in both", revokes},
		{"Prometheus has the targets and the rules", isWatched},
		{"RabbitMQ has the queues", hasQueues},
		{"without RabbitMQ a revocation ends a key, too", doesWithoutBroker},
		{"without Postgres it cannot tell, and is back by itself", doesWithoutPostgres},
		{"a second start changes nothing", startsAgain},
		{"it stops in time", stops},
	} {
		t.Log("checking: " + step.name)
		if step.do(t, s); t.Failed() {
			t.Fatalf("not so. The stack's logs:\n%s", s.logs())
		}
	}
}

func (s *stack) logs() string {
	out, err := s.try("logs", "--no-color", "--tail=40")
	if err != nil {
		return err.Error()
	}
	return out
}

// down takes everything away and looks whether anything is left.
func (s *stack) down() {
	s.must("down", "--volumes", "--remove-orphans", "--timeout", "20")
	label := "label=com.docker.compose.project=" + project
	for _, left := range []string{s.e.Must("ps", "-aq", "--filter", label), s.e.Must("volume", "ls", "-q", "--filter", label), s.e.Must("network", "ls", "-q", "--filter", label)} {
		if left != "" {
			s.t.Errorf("left behind: %s", left)
		}
	}
}

// until asks again and again, for a minute and a half at most.
func until(t *testing.T, what string, done func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(90 * time.Second); ; <-tick.C {
		ok, have := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, have)
		}
	}
}

// state is what the engine says about a container.
type state struct {
	Name  string
	State struct {
		Status   string
		ExitCode int
		Health   *struct{ Status string }
	}
	Config struct {
		User   string
		Env    []string
		Labels map[string]string
	}
	HostConfig struct {
		ReadonlyRootfs bool
		Privileged     bool
		CapDrop        []string
		CapAdd         []string
		SecurityOpt    []string
		PidsLimit      int64
		LogConfig      struct {
			Type   string
			Config map[string]string
		}
	}
}

func (c state) service() string { return c.Config.Labels["com.docker.compose.service"] }

// containers returns what the engine says about the project's, by service.
func (s *stack) containers() (all map[string]state) {
	s.t.Helper()
	ids := strings.Fields(s.e.Must("ps", "-aq", "--filter", "label=com.docker.compose.project="+project, "--filter", "label=com.docker.compose.oneoff=False"))
	var list []state
	if err := json.Unmarshal([]byte(s.e.Must(append([]string{"inspect"}, ids...)...)), &list); err != nil {
		s.t.Fatal(err)
	}
	all = make(map[string]state)
	for _, c := range list {
		all[c.service()] = c
	}
	return all
}

// once are the services that do their work and end.
var once = []string{"secrets", "migrate", "admin"}

// settled waits until every service is healthy, or has ended well.
func (s *stack) settled(begun time.Time) {
	until(s.t, "the services", func() (bool, string) {
		var wrong []string
		all := s.containers()
		for service, c := range all {
			switch {
			case slices.Contains(once, service):
				if c.State.Status != "exited" || c.State.ExitCode != 0 {
					wrong = append(wrong, fmt.Sprintf("%s is %s (%d)", service, c.State.Status, c.State.ExitCode))
				}
			case c.State.Health == nil || c.State.Health.Status != "healthy":
				wrong = append(wrong, fmt.Sprintf("%s is %s", service, c.State.Status))
			}
		}
		return len(wrong) == 0 && len(all) == 12, strings.Join(wrong, ", ") + "\n" + s.logs()
	})
	s.t.Logf("healthy after %v", time.Since(begun))
}

func (s *stack) get(t *testing.T, port, path string, change ...func(*http.Request)) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:"+s.ports[port]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(req)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func (s *stack) json(t *testing.T, port, path string, into any, change ...func(*http.Request)) {
	t.Helper()
	status, body := s.get(t, port, path, change...)
	if status != 200 {
		t.Fatalf("%s: %d %s", path, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, body)
	}
}

var apps = []string{"APP_A_PORT", "APP_B_PORT"}

// answers returns what an application's page says of each key: answer and reason.
func (s *stack) answers(t *testing.T, app string) map[string]string {
	t.Helper()
	var page struct {
		Keys []struct {
			KeyID  string `json:"key_id"`
			Answer string
			Code   string
		}
	}
	s.json(t, app, "/keys.json", &page)
	found := make(map[string]string)
	for _, k := range page.Keys {
		found[k.KeyID] = k.Answer + " " + k.Code
	}
	return found
}

func showsKeys(t *testing.T, s *stack) {
	want := map[string]string{"pk_shop_1": "use active", "pk_shop_2": "use active", "pk_books_1": "use active",
		"pk_books_revoked": "refuse revoked", "pk_books_expired": "refuse expired", "pk_nobody": "refuse unknown_key"}
	for _, app := range apps {
		have := s.answers(t, app)
		if len(have) != len(want) {
			t.Errorf("%s shows %v", app, have)
		}
		for key, answer := range want {
			if have[key] != answer {
				t.Errorf("%s: %s: %s", app, key, have[key])
			}
		}
		if status, body := s.get(t, app, "/"); status != 200 || !strings.Contains(string(body), "pk_shop_1</td><td><b>use</b>") {
			t.Errorf("%s: %d %s", app, status, body)
		}
	}
}

func areHardened(t *testing.T, s *stack) {
	for service, c := range s.containers() {
		h := c.HostConfig
		if !h.ReadonlyRootfs || h.Privileged || !slices.Equal(h.CapDrop, []string{"ALL"}) || len(h.CapAdd) > 0 || h.PidsLimit <= 0 ||
			!slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, "no-new-privileges") }) {
			t.Errorf("%s: %+v", service, h)
		}
		if h.LogConfig.Type != "json-file" || h.LogConfig.Config["max-size"] == "" || h.LogConfig.Config["max-file"] == "" {
			t.Errorf("%s: its log grows without end: %+v", service, h.LogConfig)
		}
		if slices.Contains(once, service) {
			continue
		}
		_, processes, _ := strings.Cut(s.e.Must("top", c.Name, "-eo", "uid,pid"), "\n")
		if processes == "" || regexp.MustCompile(`(?m)^\s*0\s`).MatchString(processes) {
			t.Errorf("%s: its processes, by user:\n%s", service, processes)
		}
	}
}

// secrets returns the passwords that the stack has made.
func (s *stack) secrets(t *testing.T) (all []string) {
	t.Helper()
	files := map[string]string{"postgres": "superuser owner relay sidecar shop", "rabbitmq": "admin"}
	for service, names := range files {
		for name := range strings.FieldsSeq(names) {
			p := s.must("exec", "-T", service, "cat", "/run/secrets/"+name)
			if len(p) != 26 {
				t.Fatalf("%s: %q is no password", name, p)
			}
			all = append(all, p)
		}
	}
	return all
}

func keepsSecrets(t *testing.T, s *stack) {
	secrets := s.secrets(t)
	for service, c := range s.containers() {
		places := map[string]string{"what the engine knows": s.e.Must("inspect", c.Name)}
		logs, err := s.e.Command("logs", c.Name).CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		places["log"] = string(logs)
		if !slices.Contains(once, service) {
			places["process list"] = s.e.Must("top", c.Name, "-eo", "pid,args")
		}
		for place, text := range places {
			for _, p := range secrets {
				if strings.Contains(text, p) {
					t.Errorf("%s: a password is in its %s", service, place)
				}
			}
		}
	}
	// A service sees its own files and no others.
	for service, want := range map[string]string{"postgres": "owner relay shop sidecar superuser", "rabbitmq": "admin definitions.json"} {
		if have := strings.Join(strings.Fields(s.must("exec", "-T", service, "ls", "/run/secrets")), " "); have != want {
			t.Errorf("%s sees %s", service, have)
		}
	}
}

func refusesSidecar(t *testing.T, s *stack) {
	out, err := s.try("run", "--rm", "--no-deps", "-T", "sidecar-a", "keys", "revoke", "pk_shop_2")
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("%s, %v", out, err)
	}
	for _, app := range apps {
		if have := s.answers(t, app)["pk_shop_2"]; have != "use active" {
			t.Errorf("%s: %s", app, have)
		}
	}
}

// documented returns the arguments of the command that the stack's page tells people
// to type.
func documented(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(root + "/deploy/compose/README.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^docker compose -f deploy/docker-compose\.yml run --rm --no-deps (admin keys revoke .*)$`).FindSubmatch(text)
	if line == nil {
		t.Fatal("the page names no command")
	}
	return strings.Fields(string(line[1]))
}

func revokes(t *testing.T, s *stack) {
	out := s.must(append([]string{"run", "--rm", "--no-deps", "-T"}, documented(t)...)...)
	t.Log(out)
	// The command has waited for the receipt: from here on, no sidecar accepts it.
	for _, app := range apps {
		if have := s.answers(t, app)["pk_shop_1"]; have != "refuse revoked" {
			t.Errorf("%s: %s", app, have)
		}
		if have := s.answers(t, app)["pk_shop_2"]; have != "use active" {
			t.Errorf("%s: another key: %s", app, have)
		}
	}
	if !strings.Contains(out, "sidecar-a") || !strings.Contains(out, "sidecar-b") {
		t.Errorf("the receipt does not name both sidecars")
	}
}

func isWatched(t *testing.T, s *stack) {
	var targets struct {
		Data struct {
			ActiveTargets []struct {
				Health    string
				LastError string
				Labels    map[string]string
			}
		}
	}
	until(t, "the targets", func() (bool, string) {
		s.json(t, "PROMETHEUS_PORT", "/api/v1/targets?state=active", &targets)
		for _, g := range targets.Data.ActiveTargets {
			if g.Health != "up" {
				return false, fmt.Sprintf("%+v", g)
			}
		}
		return len(targets.Data.ActiveTargets) == 4, fmt.Sprintf("%+v", targets)
	})
	var rules struct {
		Data struct {
			Groups []struct {
				Name  string
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
	}
	until(t, "the rules", func() (bool, string) {
		s.json(t, "PROMETHEUS_PORT", "/api/v1/rules", &rules)
		n := 0
		for _, g := range rules.Data.Groups {
			for _, r := range g.Rules {
				if r.Health != "ok" || r.State == "firing" {
					return false, fmt.Sprintf("%+v", r)
				}
				n++
			}
		}
		return n > 20, fmt.Sprintf("%d rules", n)
	})
	var fresh struct {
		Data struct {
			Result []struct{ Metric map[string]string }
		}
	}
	until(t, "the recording rules", func() (bool, string) {
		s.json(t, "PROMETHEUS_PORT", "/api/v1/query?query=workload:keysidecar_sidecars:count", &fresh)
		return len(fresh.Data.Result) == 2, fmt.Sprintf("%+v", fresh)
	})
}

func hasQueues(t *testing.T, s *stack) {
	password := s.must("exec", "-T", "rabbitmq", "cat", "/run/secrets/admin")
	var queues []struct{ Name string }
	s.json(t, "RABBITMQ_MANAGEMENT_PORT", "/api/queues", &queues, func(r *http.Request) { r.SetBasicAuth("admin", password) })
	have := make([]string, 0, len(queues))
	for _, q := range queues {
		have = append(have, q.Name)
	}
	slices.Sort(have)
	if !slices.Equal(have, []string{"keysidecar.q.sidecar-a", "keysidecar.q.sidecar-b"}) {
		t.Errorf("%v", have)
	}
	if status, _ := s.get(t, "RABBITMQ_MANAGEMENT_PORT", "/api/whoami", func(r *http.Request) { r.SetBasicAuth("guest", "guest") }); status != 401 {
		t.Errorf("guest is let in: %d", status)
	}
}

func doesWithoutBroker(t *testing.T, s *stack) {
	s.must("stop", "--timeout", "20", "rabbitmq")
	s.must("run", "--rm", "--no-deps", "-T", "admin", "keys", "revoke", "--wait", "pk_shop_2")
	for _, app := range apps {
		if have := s.answers(t, app); have["pk_shop_2"] != "refuse revoked" || have["pk_books_1"] != "use active" {
			t.Errorf("%s: %v", app, have)
		}
	}
	s.must("start", "rabbitmq")
	s.settled(time.Now())
}

func doesWithoutPostgres(t *testing.T, s *stack) {
	both := func(want string) {
		until(t, want, func() (bool, string) {
			a, b := s.answers(t, apps[0])["pk_books_1"], s.answers(t, apps[1])["pk_books_1"]
			return strings.HasPrefix(a, want) && strings.HasPrefix(b, want), a + ", " + b
		})
	}
	s.must("pause", "postgres")
	both("cannot tell")
	s.must("unpause", "postgres")
	both("use active")
}

// startsAgain runs the jobs a second time, on the same volumes.
func startsAgain(t *testing.T, s *stack) {
	before := s.secrets(t)
	s.must("up", "-d")
	s.settled(time.Now())
	after := s.secrets(t)
	slices.Sort(before)
	slices.Sort(after)
	if !slices.Equal(before, after) {
		t.Error("passwords have changed")
	}
	for _, app := range apps {
		if have := s.answers(t, app)["pk_shop_1"]; have != "refuse revoked" {
			t.Errorf("%s: %s", app, have)
		}
	}
}

// stops stops who asks before who is asked, as Compose 2 does by itself. docker-compose
// 1.29 stops all at once: a program that is looking up the name of a container which
// has just gone then waits for the resolver, past its two seconds.
func stops(t *testing.T, s *stack) {
	for _, layer := range []string{"app-a app-b prometheus", "sidecar-a sidecar-b relay-1 relay-2", "postgres rabbitmq"} {
		s.must(append([]string{"stop", "--timeout", "20"}, strings.Fields(layer)...)...)
	}
	for service, c := range s.containers() {
		if c.State.ExitCode != 0 {
			t.Errorf("%s ended with %d", service, c.State.ExitCode)
		}
	}
}
