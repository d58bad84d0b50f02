package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflow is the part of GitHub's workflow files that is looked at.
type workflow struct {
	On          yaml.Node
	Permissions yaml.Node
	Jobs        map[string]struct {
		RunsOn      string `yaml:"runs-on"`
		Uses        string
		Needs       string
		Permissions map[string]string
		Minutes     int `yaml:"timeout-minutes"`
		Steps       []struct {
			Name, Uses, Run, If string
			With                map[string]any
		}
	}
}

func workflows(t *testing.T) map[string]workflow {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, ".github/workflows/*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%q, %v", files, err)
	}
	all := make(map[string]workflow)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(data, &w); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if w.On.IsZero() || len(w.Jobs) == 0 {
			t.Errorf("%s: no events or no jobs", file)
		}
		all[filepath.Base(file)] = w
	}
	return all
}

// A workflow that calls what is not there is found out at the next release.
func TestAWorkflowRunsWhatTheMakefileHasNot(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var targets, called []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, m[1])
	}
	scripts := regexp.MustCompile(`scripts/[\w.-]+`)
	calls := regexp.MustCompile(`\bmake ([a-z-]+)`)
	for name, w := range workflows(t) {
		for job, j := range w.Jobs {
			if local, ok := strings.CutPrefix(j.Uses, "./"); ok {
				if _, err := os.Stat(filepath.Join(root, local)); err != nil {
					t.Errorf("%s: %s: %v", name, job, err)
				}
			}
			if j.Needs != "" && w.Jobs[j.Needs].Uses == "" && w.Jobs[j.Needs].RunsOn == "" {
				t.Errorf("%s: %s needs %s, which is not there", name, job, j.Needs)
			}
			for _, s := range j.Steps {
				for _, m := range calls.FindAllStringSubmatch(s.Run, -1) {
					if called = append(called, m[1]); !slices.Contains(targets, m[1]) {
						t.Errorf("%s: %s: the Makefile has no target %s", name, job, m[1])
					}
				}
				for _, file := range scripts.FindAllString(s.Run, -1) {
					if _, err := os.Stat(filepath.Join(root, file)); err != nil {
						t.Errorf("%s: %s: %v", name, job, err)
					}
				}
			}
		}
	}
	for _, want := range []string{"lint", "test", "fuzz", "test-image", "release", "release-check", "sign"} {
		if !slices.Contains(called, want) {
			t.Errorf("no workflow runs make %s", want)
		}
	}
}

// Whoever can make a workflow do something else owns the release.
func TestAWorkflowTrustsMoreThanItNeeds(t *testing.T) {
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})$`)
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	compiler := regexp.MustCompile(`BUILD_IMAGE=golang:(\d+\.\d+\.\d+)-`).FindSubmatch(dockerfile)
	if compiler == nil {
		t.Fatal("the Dockerfile names no compiler")
	}
	for name, w := range workflows(t) {
		var rights map[string]string
		if err := w.Permissions.Decode(&rights); err != nil || len(rights) != 1 || rights["contents"] != "read" {
			t.Errorf("%s: permissions: want contents: read, have %v, %v", name, rights, err)
		}
		for job, j := range w.Jobs {
			publishes := name == "release.yml" && job == "release"
			for what, right := range j.Permissions {
				if right != "read" && (!publishes || what != "contents") {
					t.Errorf("%s: %s: may %s %s", name, job, right, what)
				}
			}
			if j.Uses == "" && (j.Minutes == 0 || !regexp.MustCompile(`^ubuntu-\d+\.\d+$`).MatchString(j.RunsOn)) {
				t.Errorf("%s: %s: runs on %q for %d minutes at most", name, job, j.RunsOn, j.Minutes)
			}
			for _, s := range j.Steps {
				if s.Uses != "" && !pinned.MatchString(s.Uses) {
					t.Errorf("%s: %s: %s is not pinned to a version", name, job, s.Uses)
				}
				if strings.HasPrefix(s.Uses, "actions/checkout@") && s.With["persist-credentials"] != false {
					t.Errorf("%s: %s: leaves its credentials to every later step", name, job)
				}
				if strings.HasPrefix(s.Uses, "actions/setup-go@") && s.With["go-version"] != string(compiler[1]) {
					t.Errorf("%s: %s: Go %v, and the image has %s", name, job, s.With["go-version"], compiler[1])
				}
				if strings.Contains(s.Run, "${{") {
					t.Errorf("%s: %s: a value is pasted into a script: %s", name, job, s.Run)
				}
			}
		}
	}
}
