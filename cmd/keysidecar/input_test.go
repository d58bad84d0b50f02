package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInputThatIsTooLargeIsRefusedBeforeItIsRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(name, make([]byte, maxInputBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readInput(name, nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("have %v", err)
	}
}
