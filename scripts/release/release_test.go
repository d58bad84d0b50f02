package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const root = "../.."

// Whoever does not trust a release builds it again and compares.
func TestTwoBuildsOfOneSourceDiffer(t *testing.T) {
	elsewhere := copySource(t)
	dir := t.TempDir()
	licences := filepath.Join(dir, "licences.txt")
	if err := os.WriteFile(licences, []byte("what is linked\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, source := range []string{root, elsewhere} {
		out := filepath.Join(dir, filepath.Base(source), "dist")
		err := run(t.Context(), []string{
			"-root", source, "-out", out, "-version", "v0.0.0-2-gabcdef0", "-commit", "0123abc", "-epoch", "1700000000",
			"-platforms", runtime.GOOS + "/" + runtime.GOARCH, "-within", licences,
		}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, out)
	}
	name := "keysidecar_v0.0.0-2-gabcdef0_" + runtime.GOOS + "_" + runtime.GOARCH
	first, second := read(t, made[0], name+".tar.gz"), read(t, made[1], name+".tar.gz")
	if !bytes.Equal(first, second) {
		t.Error("two builds of the same source in two folders differ")
	}

	program := unpack(t, first, name)
	file := filepath.Join(dir, "keysidecar")
	if err := os.WriteFile(file, program, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), file, "version", "-o", "json").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"version":"v0.0.0-2-gabcdef0"`) || !strings.Contains(string(out), `"revision":"0123abc"`) {
		t.Errorf("the program says %s, %v", out, err)
	}

	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = made[0]
	if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK\n") != 2 {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	if len(read(t, made[0], "RELEASE_NOTES.md")) == 0 {
		t.Error("no notes")
	}
}

// copySource copies what the program is built from into another folder.
func copySource(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "somewhere")
	for _, part := range append([]string{"go.mod", "go.sum", "cmd", "internal"}, samples...) {
		target := filepath.Join(to, part)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "cp", "-R", filepath.Join(root, part), target).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return to
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// unpack looks at every file of an archive, and returns the program.
func unpack(t *testing.T, data []byte, folder string) (program []byte) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(h.Name, folder+"/"))
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 1700000000 || h.Mode != 0o644 && h.Mode != 0o755 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		if program == nil {
			if program, err = io.ReadAll(r); err != nil || h.Mode != 0o755 {
				t.Fatal(err, h.Mode)
			}
		}
	}
	want := append([]string{"keysidecar"}, append(samples, "licences.txt")...)
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("the archive holds %q", names)
	}
	return program
}

func TestAReleaseWithoutItsNotesIsMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "CHANGELOG.md")
	text := "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- Soon.\n\n## [1.2.0] - 2026-03-01\n\n### Fixed\n\n- A thing.\n\n## [1.1.0]\n\n- No date.\n\n## [1.0.0] - 2026-01-01\n\n[1.0.0]: https://example.org\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{
		"v1.2.0":                "### Fixed\n\n- A thing.\n",
		"devel":                 "### Added\n\n- Soon.\n",
		"v1.2.0-3-gabc1234":     "### Added\n\n- Soon.\n",
		"v1.2.0-dirty":          "### Added\n\n- Soon.\n",
		"v1.1.0":                "", // no date
		"v1.0.0":                "", // nothing said
		"v2.0.0":                "", // not there
		"v1.2.0-rc.1":           "", // not there
		"v1.2.0-3-gabc12-dirty": "### Added\n\n- Soon.\n",
	} {
		have, err := releaseNotes(file, version)
		if have != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", version, have, err)
		}
	}
}

// A signature that nobody can verify, or that is made of nothing, is worse than none.
func TestSignedChecksumsCannotBeVerified(t *testing.T) {
	home, err := os.MkdirTemp("", "ksgpg") // its agent's socket wants a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	tool := func(name string, args ...string) ([]byte, error) {
		return exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput()
	}
	t.Cleanup(func() {
		if out, err := tool("gpgconf", "--kill", "all"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		_ = os.RemoveAll(home)
	})
	if out, err := tool("gpg", "--batch", "--passphrase", "", "--quick-gen-key", "releases@example.org", "ed25519", "sign", "1d"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dist := t.TempDir()
	sign := filepath.Join(root, "scripts/sign.sh")
	if out, err := tool(sign, dist, "releases@example.org"); err == nil || !strings.Contains(string(out), "make release first") {
		t.Errorf("signed nothing: %v\n%s", err, out)
	}
	sums := filepath.Join(dist, "SHA256SUMS")
	if err := os.WriteFile(sums, []byte("0123  file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := tool(sign, dist, ""); err == nil || !strings.Contains(string(out), "SIGN_KEY must name") {
		t.Errorf("signed by nobody: %v\n%s", err, out)
	}
	if out, err := tool(sign, dist, "releases@example.org"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(sums, []byte("4567  file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := tool("gpg", "--batch", "--verify", sums+".asc", sums); err == nil {
		t.Errorf("the signature fits other checksums\n%s", out)
	}
}
