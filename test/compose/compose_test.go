package compose

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

const (
	root   = "../.."
	folder = root + "/deploy"
)

// load reads the file as Compose does, strictly: a field that it does not know, and a
// service, network or volume that is not there, are errors. Variables are those given,
// and none of this process.
func load(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{folder + "/docker-compose.yml"}, cli.WithName("keysidecar"), cli.WithEnv(env))
	if err != nil {
		t.Fatal(err)
	}
	p, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Services) != 13 {
		t.Fatalf("there are %d services: %v", len(p.Services), slices.Sorted(maps.Keys(p.Services)))
	}
	return p
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// once are the services that do their work and end; the others have to stay healthy.
var once = []string{"admin", "migrate", "secrets"}

func TestAServiceStartsBeforeWhatItNeeds(t *testing.T) {
	p := load(t)
	needs := map[string][]string{
		"secrets": nil, "postgres": {"secrets"}, "rabbitmq": {"secrets"}, "migrate": {"postgres"}, "admin": {"migrate"},
		"relay-1": {"migrate", "rabbitmq"}, "relay-2": {"migrate", "rabbitmq"}, "sidecar-a": {"migrate", "rabbitmq"}, "sidecar-b": {"migrate", "rabbitmq"},
		"app-a": {"admin", "sidecar-a"}, "app-b": {"admin", "sidecar-b"},
		"prometheus": {"relay-1", "relay-2", "sidecar-a", "sidecar-b"}, "grafana": {"prometheus", "secrets"},
	}
	for name, s := range p.Services {
		want, known := needs[name]
		if have := slices.Sorted(maps.Keys(s.DependsOn)); !known || !slices.Equal(have, want) {
			t.Errorf("%s waits for %v", name, have)
		}
		for other, d := range s.DependsOn {
			gate := types.ServiceConditionHealthy
			if slices.Contains(once, other) {
				gate = types.ServiceConditionCompletedSuccessfully
			}
			if d.Condition != gate {
				t.Errorf("%s waits until %s is %s", name, other, d.Condition)
			}
		}
		job := slices.Contains(once, name)
		if check := s.HealthCheck; !job && (check == nil || check.Disable || len(check.Test) < 2 || check.Test[0] != "CMD" || check.Interval == nil || check.Timeout == nil || check.Retries == nil) {
			t.Errorf("%s: nobody can tell whether it is healthy", name)
		}
		if want := map[bool]string{true: "", false: "unless-stopped"}[job]; s.Restart != want {
			t.Errorf("%s: restart is %q", name, s.Restart)
		}
	}
}

func TestAContainerCouldBeHardened(t *testing.T) {
	for name, s := range load(t).Services {
		if !s.ReadOnly || s.Privileged || !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: root filesystem, privileges or capabilities", name)
		}
		if user, _, _ := strings.Cut(s.User, ":"); user == "" || user == "0" || user == "root" {
			t.Errorf("%s runs as %q", name, s.User)
		}
		if s.PidsLimit <= 0 || s.Logging == nil || s.Logging.Driver != "json-file" || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("%s: its processes or its log have no limit", name)
		}
		if s.NetworkMode == "host" || s.Pid != "" || s.Ipc != "" || len(s.Devices) > 0 {
			t.Errorf("%s shares the machine's namespaces or devices", name)
		}
		if strings.Contains(s.Image, "keysidecar") && s.MemLimit <= 0 {
			t.Errorf("%s: its memory has no limit", name)
		}
		if tag := s.Image[strings.LastIndex(s.Image, ":")+1:]; !strings.Contains(s.Image, ":") || tag == "latest" {
			t.Errorf("%s: image %s", name, s.Image)
		}
	}
}

func TestAPortIsOpenToTheNetwork(t *testing.T) {
	ports := map[string]string{}
	for name, s := range load(t).Services {
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" || port.Published == "" {
				t.Errorf("%s: %+v", name, port)
			}
			if other := ports[port.Published]; other != "" {
				t.Errorf("%s and %s both want port %s", name, other, port.Published)
			}
			ports[port.Published] = name
		}
	}
	want := []string{"15672", "3000", "8081", "8082", "9090"}
	if have := slices.Sorted(maps.Keys(ports)); !slices.Equal(have, want) {
		t.Errorf("published: %v", have)
	}
}

// Who holds no password of Postgres or RabbitMQ has no business on their network.
func TestAServiceReachesMoreThanItNeeds(t *testing.T) {
	p := load(t)
	networks := map[string]string{
		"secrets": "", "postgres": "data", "rabbitmq": "consoles data", "migrate": "data", "admin": "data",
		"relay-1": "data metrics", "relay-2": "data metrics", "sidecar-a": "data metrics", "sidecar-b": "data metrics",
		"app-a": "pages", "app-b": "pages", "prometheus": "consoles metrics", "grafana": "consoles metrics",
	}
	for name, s := range p.Services {
		if have := strings.Join(slices.Sorted(maps.Keys(s.Networks)), " "); have != networks[name] {
			t.Errorf("%s is on %s", name, have)
		}
		if s.Ports != nil && !slices.ContainsFunc(slices.Collect(maps.Keys(s.Networks)), func(n string) bool { return !p.Networks[n].Internal }) {
			t.Errorf("%s: a port of an internal network cannot be reached", name)
		}
	}
	if p.Services["secrets"].NetworkMode != "none" || !p.Networks["data"].Internal || !p.Networks["metrics"].Internal {
		t.Error("data, metrics or secrets can reach the outside")
	}
}

func TestAFileThatIsMountedIsNotThere(t *testing.T) {
	p := load(t)
	mounted := 0
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			switch v.Type {
			case types.VolumeTypeBind:
				mounted++
				if _, err := os.Stat(v.Source); err != nil || !v.ReadOnly {
					t.Errorf("%s: %s (read-only: %v), %v", name, v.Source, v.ReadOnly, err)
				}
			case types.VolumeTypeVolume:
				if _, declared := p.Volumes[v.Source]; !declared {
					t.Errorf("%s: volume %s", name, v.Source)
				}
			default:
				t.Errorf("%s: mounts a %s", name, v.Type)
			}
		}
		if s.Build == nil {
			continue
		}
		dockerfile, err := os.ReadFile(filepath.Join(s.Build.Context, s.Build.Dockerfile))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for arg := range s.Build.Args {
			if !regexp.MustCompile(`(?m)^ARG ` + arg + `\b`).Match(dockerfile) {
				t.Errorf("%s: its Dockerfile has no argument %s", name, arg)
			}
		}
	}
	if mounted < 7 {
		t.Errorf("only %d files are mounted", mounted)
	}
}

// Each image is built by a service that starts before all others that use it, so that
// docker-compose does not look for it in a registry.
func TestAnImageOfOursIsLookedForInARegistry(t *testing.T) {
	p := load(t)
	var before func(name string) []string
	before = func(name string) (all []string) {
		for other := range p.Services[name].DependsOn {
			all = append(append(all, other), before(other)...)
		}
		return all
	}
	for name, s := range p.Services {
		if !strings.HasPrefix(s.Image, "keysidecar") || s.Build != nil {
			continue
		}
		if !slices.ContainsFunc(before(name), func(other string) bool { o := p.Services[other]; return o.Build != nil && o.Image == s.Image }) {
			t.Errorf("%s: nobody has built %s before it starts", name, s.Image)
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

func TestAVariableDoesNotReachTheProgram(t *testing.T) {
	known := map[string]bool{}
	for key := range settings(t) {
		known["KEYSIDECAR_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = true
	}
	instances := map[string]bool{}
	for name, s := range load(t).Services {
		for variable, value := range s.Environment {
			if !strings.HasPrefix(variable, "KEYSIDECAR_") {
				continue
			}
			if !known[variable] || value == nil || *value == "" {
				t.Errorf("%s: %s: the program knows no such variable, or it is empty", name, variable)
			}
		}
		if i := s.Environment["KEYSIDECAR_INSTANCE"]; i != nil {
			if *i != name || instances[*i] {
				t.Errorf("%s calls itself %s", name, *i)
			}
			instances[*i] = true
		}
	}
	if len(instances) != 4 {
		t.Errorf("instances: %v", instances)
	}
}

// made runs the program of the service secrets, and returns which files it makes in
// which folder, with their text.
func made(t *testing.T, folders []string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range folders {
		if err := os.Mkdir(filepath.Join(dir, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "./deploy/compose/secrets", dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := map[string]string{}
	for _, f := range folders {
		names, err := filepath.Glob(filepath.Join(dir, f, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[f+"/"+filepath.Base(name)] = string(text)
		}
	}
	return files
}

const secretsFolder = "/run/secrets"

func TestASecretIsNotWhereItsServiceLooks(t *testing.T) {
	p := load(t)
	var folders []string
	volume := map[string]string{} // volume -> folder
	for _, v := range p.Services["secrets"].Volumes {
		if v.ReadOnly || filepath.Dir(v.Target) != "/volumes" || !strings.HasSuffix(v.Source, "-secrets") {
			t.Errorf("secrets mounts %s at %s", v.Source, v.Target)
		}
		volume[v.Source] = filepath.Base(v.Target)
		folders = append(folders, filepath.Base(v.Target))
	}
	for _, f := range folders {
		if !slices.Contains(strings.Fields(read(t, "deploy/compose/Dockerfile")), "/volumes/"+f) {
			t.Errorf("the image has no folder /volumes/%s, which gives the volume its owner", f)
		}
	}
	files := made(t, folders)
	used := map[string]bool{"rabbitmq/admin": true, "relay/amqp-password": true, "sidecar/amqp-password": true} // for people, and for the next start
	look := func(name, folder, text string) {
		for _, m := range regexp.MustCompile(secretsFolder+`/([\w.-]+)`).FindAllStringSubmatch(text, -1) {
			file := folder + "/" + m[1]
			used[file] = true
			if _, there := files[file]; !there {
				t.Errorf("%s reads %s, which nobody makes", name, m[0])
			}
		}
	}
	owners := map[string][]string{}
	for name, s := range p.Services {
		mounted := ""
		for _, v := range s.Volumes {
			if name == "secrets" || v.Type != types.VolumeTypeVolume || !strings.HasSuffix(v.Source, "-secrets") {
				continue
			}
			if v.Target != secretsFolder || !v.ReadOnly || mounted != "" {
				t.Errorf("%s mounts %s at %s", name, v.Source, v.Target)
			}
			mounted = volume[v.Source]
			owners[v.Source] = append(owners[v.Source], s.Image)
		}
		for variable, value := range s.Environment {
			if value != nil {
				look(name+": "+variable, mounted, *value)
			}
			// What has a file is not said in the environment.
			if regexp.MustCompile(`(?i)(password|dsn|url|secret|token)$`).MatchString(variable) {
				t.Errorf("%s: %s is in the environment", name, variable)
			}
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind && filepath.Ext(v.Source) != "" && !strings.Contains(v.Source, "dashboards") {
				text, err := os.ReadFile(v.Source)
				if err != nil {
					t.Fatal(err)
				}
				look(name+": "+filepath.Base(v.Source), mounted, string(text))
			}
		}
	}
	for v, images := range owners {
		if len(slices.Compact(images)) > 1 {
			t.Errorf("%s is mounted in %v", v, images)
		}
	}
	for file := range files {
		if !used[file] {
			t.Errorf("%s is made, and nobody reads it", file)
		}
	}
}

// What the roles are called in files that cannot be checked by a compiler.
func TestARoleIsMadeThatNobodyConnectsAs(t *testing.T) {
	files := made(t, []string{"postgres", "rabbitmq", "migrate", "relay", "sidecar", "shop", "grafana"})
	sql := read(t, "deploy/compose/postgres/roles.sql")
	for file, groups := range map[string]string{"migrate/dsn": "", "relay/dsn": " IN ROLE keysidecar_relay", "sidecar/dsn": " IN ROLE keysidecar_sidecar", "shop/dsn": " IN ROLE keysidecar_app"} {
		role, _, _ := strings.Cut(strings.TrimPrefix(files[file], "postgres://"), ":")
		if !strings.Contains(sql, "CREATE ROLE "+role+" LOGIN PASSWORD :'"+role+"'"+groups+";") {
			t.Errorf("%s connects as %s", file, role)
		}
	}
	if regexp.MustCompile(`(?i)superuser|createrole|createdb|bypassrls|replication`).MatchString(regexp.MustCompile(`(?m)--.*$`).ReplaceAllString(sql, "")) {
		t.Error("a role may more than it needs")
	}
	// The rights of the broker's users are those that the operations page gives.
	page := strings.ReplaceAll(read(t, "docs/operations.md"), `\|`, "|")
	for _, m := range regexp.MustCompile(`"(?:configure|write|read)": "([^"]*)"`).FindAllStringSubmatch(files["rabbitmq/definitions.json"], -1) {
		if right := strings.ReplaceAll(m[1], `\\`, `\`); right != ".*" && !strings.Contains(page, "`"+right+"`") {
			t.Errorf("the operations page knows no right %s", right)
		}
	}
}

func TestPrometheusOrGrafanaLooksForWhatIsNotThere(t *testing.T) {
	p := load(t)
	var c struct {
		RuleFiles []string `yaml:"rule_files"`
		Scrape    []struct {
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/compose/prometheus/prometheus.yml")), &c); err != nil {
		t.Fatal(err)
	}
	mounts := func(service, path string) bool {
		return slices.ContainsFunc(p.Services[service].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == path })
	}
	if len(c.RuleFiles) != 1 || !mounts("prometheus", c.RuleFiles[0]) {
		t.Errorf("rules: %v", c.RuleFiles)
	}
	var targets []string
	for _, s := range c.Scrape {
		for _, g := range s.Static {
			targets = append(targets, g.Targets...)
		}
	}
	slices.Sort(targets)
	if want := []string{"relay-1:9476", "relay-2:9476", "sidecar-a:9476", "sidecar-b:9476"}; !slices.Equal(targets, want) {
		t.Errorf("targets: %v", targets)
	}
	boards := read(t, "deploy/grafana/provisioning/dashboards/keysidecar.yml")
	path := regexp.MustCompile(`path: (\S+)`).FindStringSubmatch(boards)
	if path == nil || !mounts("grafana", path[1]) || !mounts("grafana", "/etc/grafana/provisioning") {
		t.Errorf("dashboards: %v", path)
	}
	if source := read(t, "deploy/grafana/provisioning/datasources/keysidecar.yml"); !strings.Contains(source, "url: http://prometheus:9090") {
		t.Error("the datasource is not the service prometheus")
	}
}

func TestThePageShowsKeysThatWereNotImported(t *testing.T) {
	var seed struct {
		Keys []struct {
			KeyID string `yaml:"key_id"`
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/compose/keys.yaml")), &seed); err != nil {
		t.Fatal(err)
	}
	want := []string{"pk_nobody"} // to show what an unknown key is answered
	for _, k := range seed.Keys {
		want = append(want, k.KeyID)
	}
	slices.Sort(want)
	p := load(t)
	for name, sidecar := range map[string]string{"app-a": "sidecar-a", "app-b": "sidecar-b"} {
		s := p.Services[name]
		i := slices.Index(s.Command, "-keys")
		if i < 0 || i+1 >= len(s.Command) {
			t.Fatalf("%s: %v", name, s.Command)
		}
		have := strings.Split(s.Command[i+1], ",")
		slices.Sort(have)
		if !slices.Equal(have, want) {
			t.Errorf("%s shows %v", name, have)
		}
		// They meet in one folder, which the application may not write to, by the group.
		if len(s.Volumes) != 1 || !s.Volumes[0].ReadOnly || s.Volumes[0].Target != "/run/keysidecar" ||
			!slices.ContainsFunc(p.Services[sidecar].Volumes, func(v types.ServiceVolumeConfig) bool {
				return v.Source == s.Volumes[0].Source && v.Target == "/run/keysidecar" && !v.ReadOnly
			}) {
			t.Errorf("%s and %s share no socket", name, sidecar)
		}
		_, group, _ := strings.Cut(p.Services[sidecar].User, ":")
		if uid, gid, _ := strings.Cut(s.User, ":"); gid != group || uid == "65532" {
			t.Errorf("%s runs as %s", name, s.User)
		}
	}
}

// The command that people are told to type is the same everywhere; test/stack runs it.
func TestTheDocumentedRevocationDiffers(t *testing.T) {
	const command = "docker compose -f deploy/docker-compose.yml run --rm --no-deps admin keys revoke --wait pk_shop_1"
	for _, name := range []string{"README.md", "deploy/compose/README.md", "deploy/compose/app/page.html"} {
		if !strings.Contains(read(t, name), command) {
			t.Errorf("%s does not say: %s", name, command)
		}
	}
}

// docker-compose 1.29 is what Debian has: what newer versions brought must stay out.
func TestDockerCompose129DoesNotUnderstandTheFile(t *testing.T) {
	var file struct {
		Services map[string]map[string]any
		Networks map[string]map[string]any
		Volumes  map[string]map[string]any
		Rest     map[string]any `yaml:",inline"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/docker-compose.yml")), &file); err != nil {
		t.Fatal(err)
	}
	for key := range file.Rest {
		if !strings.HasPrefix(key, "x-") {
			t.Errorf("the file has %s", key)
		}
	}
	understood := strings.Fields(`build cap_drop command depends_on entrypoint environment healthcheck hostname image logging mem_limit
		network_mode networks pids_limit ports read_only restart security_opt tmpfs user volumes`)
	short := map[string]bool{"ports": true, "volumes": true, "tmpfs": true, "networks": true}
	for name, s := range file.Services {
		for key, value := range s {
			if !slices.Contains(understood, key) {
				t.Errorf("%s: %s", name, key)
			}
			if list, ok := value.([]any); short[key] && (!ok || slices.ContainsFunc(list, func(v any) bool { _, text := v.(string); return !text })) {
				t.Errorf("%s: %s is not a list of words", name, key)
			}
		}
		for _, part := range []struct {
			key        string
			understood []string
		}{{"build", []string{"context", "dockerfile", "args"}}, {"healthcheck", []string{"test", "interval", "timeout", "retries"}}} {
			if group, ok := s[part.key].(map[string]any); ok {
				for key := range group {
					if !slices.Contains(part.understood, key) {
						t.Errorf("%s: %s.%s", name, part.key, key)
					}
				}
			}
		}
	}
	for name, v := range file.Volumes {
		if len(v) > 0 {
			t.Errorf("volume %s: %v", name, v)
		}
	}
}

// Variables choose images and ports; an empty one counts as none.
func TestAVariableOfTheFileIsNotUsed(t *testing.T) {
	p := load(t, "POSTGRES_IMAGE=mirror.example/postgres@sha256:0", "KEYSIDECAR_IMAGE=mirror.example/keysidecar:1", "APP_A_PORT=18081", "BUILD_IMAGE=mirror.example/golang:1", "GRAFANA_PORT=")
	if p.Services["postgres"].Image != "mirror.example/postgres@sha256:0" || p.Services["relay-1"].Image != "mirror.example/keysidecar:1" ||
		p.Services["migrate"].Image != "mirror.example/keysidecar:1" || p.Services["app-a"].Ports[0].Published != "18081" || p.Services["grafana"].Ports[0].Published != "3000" {
		t.Error("an image or a port is not the chosen one")
	}
	for _, name := range []string{"secrets", "migrate"} {
		if have := p.Services[name].Build.Args["BUILD_IMAGE"]; have == nil || *have != "mirror.example/golang:1" {
			t.Errorf("%s is built in %v", name, have)
		}
	}
}
