//go:build image

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// engine is a Docker engine, reached with the program docker.
type engine struct {
	t      *testing.T
	docker string // the program
	host   string // DOCKER_HOST; empty for docker's own choice
}

// client returns a docker that can speak to BuildKit: with the plug-in buildx, or of
// a version that did without.
func client(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"docker", "/usr/bin/docker"} {
		if exec.CommandContext(t.Context(), name, "buildx", "version").Run() == nil {
			return name
		}
		out, err := exec.CommandContext(t.Context(), name, "--version").Output()
		if err == nil && strings.HasPrefix(string(out), "Docker version 20.") {
			return name
		}
	}
	t.Fatal("no docker with buildx is installed (Debian: docker.io)")
	return ""
}

// newEngine returns the engine that answers, or starts one.
func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{t: t, docker: client(t)}
	if _, err := e.try("info", "--format", "{{.ServerVersion}}"); err == nil {
		return e
	}
	return startEngine(t, e.docker)
}

// startEngine starts dockerd with folders and a socket of its own, and without any
// network: nothing of the machine is changed.
func startEngine(t *testing.T, docker string) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "ksdocker")
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: what the engine mounts there must be gone before it is removed.
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	cmd := exec.CommandContext(context.Background(), "dockerd", "--host=unix://"+socket, "--data-root="+dir+"/data", "--exec-root="+dir+"/exec",
		"--pidfile="+dir+"/pid", "--storage-driver=vfs", "--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("no engine answers, and none can be started: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	e := &engine{t: t, docker: docker, host: "unix://" + socket}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		out, err := e.try("info", "--format", "{{.ServerVersion}}")
		if err == nil {
			t.Logf("started Docker %s", strings.TrimSpace(out))
			return e
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("dockerd does not answer: %v\n%s", err, text)
		}
	}
}

func (e *engine) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), e.docker, args...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	if e.host != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+e.host)
	}
	return cmd
}

func (e *engine) try(args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := e.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("docker %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (e *engine) must(args ...string) string {
	e.t.Helper()
	out, err := e.try(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// compiler imports an image that the Dockerfile can compile in, and returns its name.
func (e *engine) compiler() string {
	e.t.Helper()
	modules := e.t.TempDir()
	fetch := exec.CommandContext(e.t.Context(), "go", "mod", "download")
	fetch.Dir = root
	fetch.Env = append(os.Environ(), "GOMODCACHE="+modules, "GOFLAGS=-modcacherw", "GOSUMDB=off",
		"GOPROXY=file://"+filepath.Join(goEnv(e.t, "GOMODCACHE"), "cache/download"))
	if out, err := fetch.CombinedOutput(); err != nil {
		e.t.Fatalf("collect the modules: %v\n%s", err, out)
	}
	const name = "keysidecar-test-compiler"
	cmd := e.command("import", "--change", "ENV PATH=/usr/local/go/bin:/usr/bin:/bin", "--change", "ENV GOPROXY=off", "--change", "ENV GOFLAGS=-mod=readonly",
		"--change", "ENV GOMODCACHE=/go/pkg/mod", "--change", "ENV HOME=/root", "-", name)
	in, err := cmd.StdinPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	err = writeCompiler(tar.NewWriter(in), goEnv(e.t, "GOROOT"), modules)
	_ = in.Close()
	e.t.Cleanup(func() { _, _ = e.try("rmi", "-f", name) })
	if waited := cmd.Wait(); err != nil || waited != nil {
		e.t.Fatalf("import the compiler: %v, %v\n%s", err, waited, out.String())
	}
	return name
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// writeCompiler writes Go, the modules, a shell with three commands and what they
// are linked to.
func writeCompiler(w *tar.Writer, goroot, modules string) error {
	tree := []struct{ from, to string }{
		{goroot + "/bin", "usr/local/go/bin"}, {goroot + "/pkg/tool", "usr/local/go/pkg/tool"}, {goroot + "/pkg/include", "usr/local/go/pkg/include"},
		{goroot + "/src", "usr/local/go/src"}, {goroot + "/go.env", "usr/local/go/go.env"}, {goroot + "/VERSION", "usr/local/go/VERSION"},
		{modules, "go/pkg/mod"}, {"/etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/ca-certificates.crt"},
	}
	for _, p := range []string{"/bin/sh", "/bin/cp", "/bin/mkdir"} {
		tree = append(tree, struct{ from, to string }{p, "bin/" + filepath.Base(p)})
		out, err := exec.CommandContext(context.Background(), "ldd", p).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", p, err)
		}
		for word := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(word, "/") {
				tree = append(tree, struct{ from, to string }{word, strings.TrimPrefix(word, "/")})
			}
		}
	}
	seen := map[string]bool{}
	for _, dir := range []string{"tmp/", "root/"} {
		if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
			return err
		}
	}
	for _, n := range tree {
		if seen[n.to] {
			continue
		}
		seen[n.to] = true
		if err := addTree(w, n.from, n.to); err != nil {
			return err
		}
	}
	return w.Close()
}

func addTree(w *tar.Writer, from, to string) error {
	resolved, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	return filepath.WalkDir(resolved, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path) // links are followed: the image has no other files
		if err != nil || strings.HasSuffix(path, "_test.go") || d.Name() == "testdata" && d.IsDir() {
			if d.IsDir() {
				return fs.SkipDir
			}
			return err
		}
		rest, err := filepath.Rel(resolved, path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: filepath.Join(to, rest), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Typeflag: tar.TypeDir}
		if info.IsDir() {
			h.Name += "/"
			return w.WriteHeader(h)
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, err = io.Copy(w, f)
		return err
	})
}

var otherArch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
