//go:build compose

package stack

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/test/engine"
)

// shell is what an entry point, and the scripts of RabbitMQ, need beside the package.
var shell = []string{"base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "findutils", "gawk", "grep", "hostname", "libc-bin", "mawk", "procps", "sed", "util-linux"}

// standIn builds an image from installed packages and a stage of images/Dockerfile,
// and returns its name.
func standIn(t *testing.T, e *engine.Engine, stage string, packages ...string) string {
	t.Helper()
	base, name := "keysidecar-test-packages-"+stage, "keysidecar-test-"+stage
	t.Cleanup(func() { _, _ = e.Try("rmi", "-f", name, base) })
	paths := filesOf(t, closure(t, append(packages, shell...)))

	pack := exec.CommandContext(t.Context(), "tar", "--create", "--directory=/", "--no-recursion", "--numeric-owner", "--null", "--files-from=-")
	pack.Stdin = strings.NewReader(strings.Join(paths, "\x00"))
	load := e.Command("import", "--change", "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "-", base)
	var said bytes.Buffer
	pack.Stderr, load.Stderr = &said, &said
	var err error
	if load.Stdin, err = pack.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	if err := pack.Run(); err != nil {
		t.Fatalf("pack %s: %v\n%s", stage, err, said.String())
	}
	if err := load.Wait(); err != nil {
		t.Fatalf("import %s: %v\n%s", stage, err, said.String())
	}
	e.Must("build", "--network=none", "--target", stage, "--build-arg", "PACKAGES="+base, "-t", name, "images")
	return name
}

// closure returns the packages and all that they depend on, as far as it is installed:
// of alternatives, those that are.
func closure(t *testing.T, wanted []string) (all []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg-query", "--show", "--showformat=${db:Status-Status}\t${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := func(list string) (found []string) {
		for _, n := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '|' }) {
			if n = strings.TrimSpace(n); n != "" {
				n, _, _ = strings.Cut(n, " ")
				n, _, _ = strings.Cut(n, ":")
				found = append(found, n)
			}
		}
		return found
	}
	needs, provider := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if f[0] != "installed" {
			continue
		}
		needs[f[1]] = names(f[3])
		for _, p := range names(f[2]) {
			provider[p] = f[1]
		}
	}
	seen := map[string]bool{}
	for todo := wanted; len(todo) > 0; todo = todo[1:] {
		name := todo[0]
		if _, installed := needs[name]; !installed {
			name = provider[name]
		}
		if name == "" && slices.Contains(wanted, todo[0]) && !slices.Contains(shell, todo[0]) {
			t.Fatalf("the package %s is not installed: run make deps", todo[0])
		}
		if name == "" || seen[name] {
			continue
		}
		seen[name] = true
		all = append(all, name)
		todo = append(slices.Clone(todo[:1]), append(slices.Clone(todo[1:]), needs[name]...)...)
	}
	return all
}

// filesOf returns the packages' files without what is only for reading, and what
// their scripts and the system add: users, alternatives, the linker's cache. Paths
// are relative to the root.
func filesOf(t *testing.T, packages []string) (paths []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg-query", append([]string{"--listfiles"}, packages...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Fields(string(out))
	list = append(list, "/bin", "/lib", "/lib64", "/sbin", "/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/alternatives")
	alternatives, err := filepath.Glob("/etc/alternatives/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alternatives { // and the commands that they stand for
		list = append(list, a, "/usr/bin/"+filepath.Base(a))
	}
	seen := map[string]bool{}
	for _, path := range list {
		info, err := os.Lstat(path)
		if err != nil || seen[path] || readingOnly(path) {
			continue
		}
		seen[path] = true
		// /bin and the like are links: what a package has in /bin lies in /usr/bin.
		if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil && path != "/" {
			path = filepath.Join(dir, filepath.Base(path))
		}
		if info.Mode().IsRegular() || info.IsDir() || info.Mode()&os.ModeSymlink != 0 {
			paths = append(paths, strings.TrimPrefix(path, "/"))
		}
	}
	if len(paths) < 500 {
		t.Fatalf("only %d files", len(paths))
	}
	slices.Sort(paths) // folders first
	return slices.DeleteFunc(slices.Compact(paths), func(p string) bool { return p == "" || p == "." })
}

func readingOnly(path string) bool {
	for _, dir := range []string{"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/locale", "/usr/share/lintian", "/var/lib/postgresql/", "/var/lib/rabbitmq/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}
