// Command release makes what a release consists of: for each platform an archive
// with the program, its licence, the change log and sample configurations; what it
// is handed besides (a bill of materials, the licences of what is linked); the
// checksums of all of them; and the release's section of the change log.
//
// The same source, version and compiler give the same bytes, on any machine and in
// any folder: the compiler is told no paths and no state of the repository, and
// archives have fixed owners, modes, order and times.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// release is what is to be made.
type release struct {
	root, out       string
	version, commit string
	// modified is the time of every file in the archives.
	modified  time.Time
	platforms []platform
	// beside are files that are put beside the archives, within those that are put
	// into each of them, too.
	beside, within []string
}

// platform is what Go calls an operating system and an architecture.
type platform struct{ os, arch string }

func run(ctx context.Context, args []string, log io.Writer) error {
	var r release
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.StringVar(&r.root, "root", ".", "the repository")
	flags.StringVar(&r.out, "out", "dist", "the folder to make; what is in it is removed")
	flags.StringVar(&r.version, "version", "devel", "the version; one like v1.2.3 must have a section in CHANGELOG.md")
	flags.StringVar(&r.commit, "commit", "", "the commit, which the program tells")
	epoch := flags.Int64("epoch", 0, "the time of all files, in seconds since 1970: that of the commit")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64,darwin/arm64", "what to build for")
	beside := flags.String("beside", "", "files to put beside the archives")
	within := flags.String("within", "", "files to put into the archives, and beside them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r.modified = time.Unix(*epoch, 0).UTC()
	r.beside, r.within = list(*beside), list(*within)
	for _, p := range list(*platforms) {
		system, arch, ok := strings.Cut(p, "/")
		if !ok {
			return fmt.Errorf("%q is no platform, such as linux/amd64", p)
		}
		r.platforms = append(r.platforms, platform{system, arch})
	}
	return r.make(ctx, log)
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

func (r *release) make(ctx context.Context, log io.Writer) error {
	notes, err := releaseNotes(filepath.Join(r.root, "CHANGELOG.md"), r.version)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil { //nolint:gosec // for everybody to read
		return err
	}
	for _, p := range r.platforms {
		fmt.Fprintf(log, "release: %s for %s/%s\n", r.version, p.os, p.arch)
		if err := r.archive(ctx, p); err != nil {
			return fmt.Errorf("%s/%s: %w", p.os, p.arch, err)
		}
	}
	for _, file := range slices.Concat(r.beside, r.within) {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := r.write("keysidecar_"+r.version+"_"+filepath.Base(file), data); err != nil {
			return err
		}
	}
	sums, err := checksums(r.out)
	if err != nil {
		return err
	}
	if err := r.write("SHA256SUMS", []byte(sums)); err != nil {
		return err
	}
	fmt.Fprint(log, sums)
	return r.write("RELEASE_NOTES.md", []byte(notes))
}

func (r *release) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(r.out, name), data, 0o644) //nolint:gosec // for everybody to read
}

// build compiles the program for p and returns it.
func (r *release) build(ctx context.Context, p platform) ([]byte, error) {
	dir, err := os.MkdirTemp("", "keysidecar-release")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "keysidecar")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", //nolint:gosec // what to build is the caller's to say
		"-ldflags", "-s -w -buildid= -X main.version="+r.version+" -X main.commit="+r.commit, "-o", file, "./cmd/keysidecar")
	cmd.Dir = r.root
	// What would change the program from machine to machine is not left to them.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFLAGS="+parallel(os.Getenv("GOFLAGS")))
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	return os.ReadFile(file)
}

// parallel returns the part of GOFLAGS that has no influence on what is built.
func parallel(flags string) string {
	var kept []string
	for f := range strings.FieldsSeq(flags) {
		if strings.HasPrefix(f, "-p=") || strings.HasPrefix(f, "-mod=") {
			kept = append(kept, f)
		}
	}
	return strings.Join(kept, " ")
}

// checksums lists the files of a folder as sha256sum does, and checks.
func checksums(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(data)
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(sum[:]), e.Name())
	}
	return b.String(), nil
}
