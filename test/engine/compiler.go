package engine

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
	"strings"
	"testing"
)

// Compiler imports an image that a Dockerfile can compile the module in root in, and
// returns its name.
func (e *Engine) Compiler(root string) string {
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
	cmd := e.Command("import", "--change", "ENV PATH=/usr/local/go/bin:/usr/bin:/bin", "--change", "ENV GOPROXY=off", "--change", "ENV GOFLAGS=-mod=readonly",
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
	e.t.Cleanup(func() { _, _ = e.Try("rmi", "-f", name) })
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
