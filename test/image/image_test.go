//go:build image

package image

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/engine"
)

const (
	root    = "../.."
	tag     = "keysidecar-test"
	version = "9.9.9-test"
	maxSize = 25 << 20
)

var otherArch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]

func build(t *testing.T, e *engine.Engine, name string, args ...string) time.Duration {
	t.Helper()
	begun := time.Now()
	t.Cleanup(func() { _, _ = e.Try("rmi", "-f", name) })
	e.Must(append(append([]string{"build", "--network=none", "-t", name, "--build-arg", "VERSION=" + version, "--build-arg", "REVISION=abcdef"}, args...), root)...)
	return time.Since(begun)
}

func TestTheImageDoesNotRunInProduction(t *testing.T) {
	e := engine.New(t)
	compiler := e.Compiler(root)
	t.Logf("built in %v", build(t, e, tag, "--build-arg", "BUILD_IMAGE="+compiler))

	t.Run("says what it is and is small", func(t *testing.T) { describes(t, e) })
	t.Run("holds nothing else", func(t *testing.T) { holdsNothingElse(t, e) })
	t.Run("can be built again to the same bytes", func(t *testing.T) { isReproducible(t, e) })
	t.Run("answers a container of another user and stops in time", func(t *testing.T) { answers(t, e) })
	t.Run("is built for the other architecture", func(t *testing.T) {
		build(t, e, tag+"-other", "--build-arg", "BUILD_IMAGE="+compiler, "--platform", "linux/"+otherArch)
		f, err := elf.Open(binary(t, e, tag+"-other"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		want := map[string]elf.Machine{"arm64": elf.EM_AARCH64, "amd64": elf.EM_X86_64}[otherArch]
		if f.Machine != want {
			t.Errorf("the program is for %v", f.Machine)
		}
	})
}

func describes(t *testing.T, e *engine.Engine) {
	var images []struct {
		Size   int64
		Config struct {
			User        string
			Entrypoint  []string
			Cmd         []string
			Labels      map[string]string
			Healthcheck struct{ Test []string }
		}
	}
	if err := json.Unmarshal([]byte(e.Must("image", "inspect", tag)), &images); err != nil {
		t.Fatal(err)
	}
	i := images[0]
	t.Logf("%.1f MB", float64(i.Size)/1e6)
	if i.Size > maxSize {
		t.Errorf("%d bytes", i.Size)
	}
	if i.Config.User != "65532:65532" || strings.Join(append(i.Config.Entrypoint, i.Config.Cmd...), " ") != "/keysidecar serve" ||
		strings.Join(i.Config.Healthcheck.Test, " ") != "CMD /keysidecar healthcheck --live" {
		t.Errorf("configuration: %+v", i.Config)
	}
	for label, want := range map[string]string{"version": version, "revision": "abcdef", "licenses": "Apache-2.0", "title": "keysidecar"} {
		if have := i.Config.Labels["org.opencontainers.image."+label]; have != want {
			t.Errorf("label %s: %q", label, have)
		}
	}
	if out := e.Must("run", "--rm", "--network=none", tag, "version"); !strings.Contains(out, version) {
		t.Errorf("version: %s", out)
	}
}

// create makes a container that is never run, to look into the image.
func create(t *testing.T, e *engine.Engine, image string) string {
	t.Helper()
	id := e.Must("create", "--network=none", image)
	t.Cleanup(func() { _, _ = e.Try("rm", "-f", id) })
	return id
}

func binary(t *testing.T, e *engine.Engine, image string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keysidecar")
	e.Must("cp", create(t, e, image)+":/keysidecar", file)
	return file
}

func holdsNothingElse(t *testing.T, e *engine.Engine) {
	out, err := e.Command("export", create(t, e, tag)).Output()
	if err != nil {
		t.Fatal(err)
	}
	list := exec.CommandContext(t.Context(), "tar", "--numeric-owner", "-tv")
	list.Stdin = bytes.NewReader(out)
	text, err := list.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	// What the engine itself puts into every container.
	engines := []string{".dockerenv", "dev/", "dev/console", "dev/pts/", "dev/shm/", "proc/", "sys/", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab"}
	ours := map[string]string{
		"LICENSE": "0/0", "keysidecar": "0/0", "etc/": "0/0", "etc/group": "0/0", "etc/passwd": "0/0", "etc/ssl/": "0/0", "etc/ssl/certs/": "0/0",
		"etc/ssl/certs/ca-certificates.crt": "0/0", "run/": "0/0", "run/keysidecar/": "65532/65532",
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		name, owner := fields[5], fields[1]
		if slices.Contains(engines, name) {
			continue
		}
		want, expected := ours[name]
		if !expected {
			t.Errorf("the image has %s", name)
		} else if owner != want {
			t.Errorf("%s belongs to %s", name, owner)
		}
		delete(ours, name)
	}
	for name := range ours {
		t.Errorf("the image has no %s", name)
	}
}

func isReproducible(t *testing.T, e *engine.Engine) {
	again := filepath.Join(t.TempDir(), "again")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", again, "./cmd/keysidecar")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	here, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	there, err := os.ReadFile(binary(t, e, tag))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(here, there) {
		t.Errorf("%d bytes here, %d in the image, and not the same", len(here), len(there))
	}
}

// hardened is how a cluster with the restricted standard runs it.
var hardened = []string{"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"}

func answers(t *testing.T, e *engine.Engine) {
	const volume = "keysidecar-test-socket"
	e.Must("volume", "create", volume)
	defer func() { _, _ = e.Try("volume", "rm", volume) }()
	keys, err := filepath.Abs(filepath.Join(root, "configs/dev-keys.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	id := e.Must(append(append([]string{"run", "-d"}, hardened...), "-v", volume+":/run/keysidecar", "-v", keys+":/keys.yaml:ro",
		"-e", "KEYSIDECAR_STORE_KIND=file", "-e", "KEYSIDECAR_STORE_FILE_PATH=/keys.yaml", tag)...)
	defer func() { _, _ = e.Try("rm", "-f", id) }()

	// A second container, of another user, that shares the group and mounts the
	// folder read-only; and one that does not share the group.
	ask := func(user string, args ...string) (string, error) {
		run := append(append([]string{"run", "--rm"}, hardened...), "--user", user, "-v", volume+":/run/keysidecar:ro", tag)
		return e.Try(append(run, args...)...)
	}
	if out, err := ask("1000:65532", "wait", "--timeout", "30s"); err != nil {
		t.Fatalf("%v\n%s", err, e.Must("logs", id))
	} else {
		t.Log("ready", out)
	}
	if out, err := ask("1000:65532", "verify", "pk_demo_good"); err != nil || !strings.Contains(out, "valid") {
		t.Errorf("a good key: %v\n%s", err, out)
	}
	if out, err := ask("1000:65532", "verify", "pk_demo_revoked"); exitCode(err) != 1 || !strings.Contains(out, "revoked") {
		t.Errorf("a revoked key: %v\n%s", err, out)
	}
	if out, err := ask("1000:1000", "verify", "pk_demo_good"); exitCode(err) != 2 || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a user of another group: %v\n%s", err, out)
	}
	if out, err := e.Try("exec", id, "/keysidecar", "healthcheck", "--ready"); err != nil {
		t.Errorf("health: %v\n%s", err, out)
	}
	if out, err := e.Try("exec", id, "/bin/sh"); err == nil {
		t.Errorf("there is a shell: %s", out)
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); e.Must("inspect", "-f", "{{.State.Health.Status}}", id) != "healthy"; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("the engine does not find it healthy: %s", e.Must("inspect", "-f", "{{json .State.Health}}", id))
		}
	}

	begun := time.Now()
	e.Must("kill", "--signal=TERM", id)
	code, err := strconv.Atoi(e.Must("wait", id))
	took := time.Since(begun)
	t.Logf("stopped in %v", took)
	if err != nil || code != 0 || took > 2*time.Second {
		t.Errorf("exit code %d after %v, %v\n%s", code, took, err, e.Must("logs", id))
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if err == nil {
		return 0
	}
	if !errors.As(err, &exit) {
		return -1
	}
	return exit.ExitCode()
}
