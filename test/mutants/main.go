// Command mutants shows that the tests would notice if a rule of the protocol were
// broken: for each mutant it copies the module, breaks one rule in the copy, runs
// the tests that must notice, and expects them to fail. It prints a line for each
// and exits with 1 if one was not noticed, or no longer applies.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/evidence"
)

func main() {
	only := flag.String("run", "", "only mutants whose name contains this")
	out := flag.String("out", "", "document of evidence to write the section into, besides printing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only, out string) error {
	dir, err := os.MkdirTemp("", "ksmutants")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := copyModule(dir); err != nil {
		return err
	}
	found, tried := 0, 0
	var missed []error
	var section strings.Builder
	section.WriteString("## Planted faults\n\n    make mutants\n\nEach rule was broken in a copy of the code, and the tests named were run.\n\n| rule broken | noticed after | by |\n|---|---|---|\n")
	for _, m := range mutants {
		if !strings.Contains(m.name, only) {
			continue
		}
		tried++
		took, err := m.try(ctx, dir)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Printf("MISSED  %-60s %v\n", m.name, err)
			missed = append(missed, fmt.Errorf("%s: %w", m.name, err))
			fmt.Fprintf(&section, "| %s | **missed** | %s |\n", m.name, tests(m.test))
			continue
		}
		found++
		fmt.Fprintf(&section, "| %s | %.1f s | %s |\n", m.name, took.Seconds(), tests(m.test))
		fmt.Printf("found   %-60s %5.1f s  %s\n", m.name, took.Seconds(), m.test)
	}
	fmt.Printf("%d passed, %d failed\n", found, tried-found)
	fmt.Fprintf(&section, "\nFound: %d/%d.\n", found, tried)
	if out != "" {
		missed = append(missed, evidence.WriteSection(out, "mutants", section.String()))
	}
	return errors.Join(missed...)
}

// tests are the names in a pattern, for a table.
func tests(pattern string) string {
	return "`" + strings.ReplaceAll(pattern, "|", "`, `") + "`"
}

// copyModule copies the Go sources and what they embed.
func copyModule(to string) error {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return err
	}
	from := filepath.Dir(strings.TrimSpace(string(out)))
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == ".git" || rel == "bin" || rel == "run" {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}

// try breaks the rule, runs the tests, and mends it. It returns nil if the tests
// failed, as they must.
func (m *mutant) try(ctx context.Context, dir string) (time.Duration, error) {
	path := filepath.Join(dir, m.file)
	sound, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if n := bytes.Count(sound, []byte(m.old)); n != 1 {
		return 0, fmt.Errorf("what it replaces occurs %d times in %s", n, m.file)
	}
	broken := bytes.Replace(sound, []byte(m.old), []byte(m.broken), 1)
	if err := os.WriteFile(path, broken, 0o600); err != nil {
		return 0, err
	}
	defer func() { _ = os.WriteFile(path, sound, 0o600) }()
	pkg := "./" + filepath.Dir(m.file)
	if m.in != "" {
		pkg = "./" + m.in
	}
	build := exec.CommandContext(ctx, "go", "vet", pkg)
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("does not build: %s", out)
	}
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "go", "test", "-timeout", "180s", "-run", m.test, pkg)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return 0, errors.New("the tests pass")
	case bytes.Contains(out, []byte("panic: test timed out")):
		return 0, errors.New("the tests did not end in time, which says nothing")
	case !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("panic:")):
		return 0, fmt.Errorf("the tests did not run: %s", out)
	}
	return time.Since(begun), nil
}
