package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// module is one that the program or its tests link.
type module struct {
	Path, Version string
	Dir           string // in the module cache
	// InProgram: it is in the binary; else it serves tests only.
	InProgram bool
	Licence   licence
}

// platforms are those that binaries are made for: what is linked differs.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}

// listModules returns every module that the repository's packages and tests link,
// without the repository's own, each with its licence.
func listModules(root string) ([]module, error) {
	found := make(map[string]module)
	for _, p := range platforms {
		goos, goarch, _ := strings.Cut(p, "/")
		inProgram, err := dependencies(root, goos, goarch, program)
		if err != nil {
			return nil, err
		}
		for _, m := range inProgram {
			m.InProgram = true
			found[m.Path] = m
		}
	}
	inTests, err := dependencies(root, "linux", "amd64", "-test", "./...")
	if err != nil {
		return nil, err
	}
	for _, m := range inTests {
		if _, known := found[m.Path]; !known {
			found[m.Path] = m
		}
	}
	c, err := newClassifier()
	if err != nil {
		return nil, err
	}
	var list []module
	for _, m := range found {
		if m.Licence, err = c.of(m.Dir); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Path, err)
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// dependencies asks the go command for the modules of packages.
func dependencies(root, goos, goarch string, packages ...string) ([]module, error) {
	cmd := exec.Command("go", append([]string{"list", "-deps", "-json=Module"}, packages...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, errOut.String())
	}
	var found []module
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			Module *struct {
				Path, Version, Dir string
				Main               bool
				Replace            *struct{ Path, Version, Dir string }
			}
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		m := pkg.Module
		switch {
		case m == nil, m.Main: // the standard library, or our own
		case m.Replace != nil:
			found = append(found, module{Path: m.Replace.Path, Version: m.Replace.Version, Dir: m.Replace.Dir})
		default:
			found = append(found, module{Path: m.Path, Version: m.Version, Dir: m.Dir})
		}
	}
}
