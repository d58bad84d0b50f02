package config

import (
	"path/filepath"
	"testing"
)

// Every file in configs/ that is a configuration must stay one.
func TestEveryShippedFileLoadsAndIsValid(t *testing.T) {
	clearEnv(t)
	roles := map[string]Role{"dev.yaml": ForSidecar, "sidecar.yaml": ForSidecar, "relay.yaml": ForRelay}
	files, err := filepath.Glob("../../configs/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if name == "dev-keys.yaml" { // a key file, loaded by the test scripts
			continue
		}
		role, known := roles[name]
		if !known {
			t.Errorf("%s: say here what it is for", name)
			continue
		}
		delete(roles, name)
		c, warnings, err := Load(file, nil)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %v", name, err, warnings)
			continue
		}
		if err := c.Validate(role); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name := range roles {
		t.Errorf("%s is gone", name)
	}
}
