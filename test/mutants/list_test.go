package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A mutant whose place in the code has changed would be found out only by the long
// run.
func TestMutantNoLongerApplies(t *testing.T) {
	for _, m := range mutants {
		code, err := os.ReadFile(filepath.Join("..", "..", m.file))
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		if n := bytes.Count(code, []byte(m.old)); n != 1 {
			t.Errorf("%s: what it replaces occurs %d times in %s", m.name, n, m.file)
		}
	}
}
