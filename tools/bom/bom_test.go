package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/licenseclassifier/v2/assets"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const root = "../.."

// Whoever adds a dependency looks at its licence, or this fails.
func TestLicenceIsNotAllowedOrNotListed(t *testing.T) {
	list, err := listModules(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := refused(list); err != nil {
		t.Error(err)
	}
	var table bytes.Buffer
	if err := writeTable(&table, list); err != nil {
		t.Fatal(err)
	}
	shown, err := os.ReadFile(filepath.Join(root, "docs", "licences.md"))
	if err != nil || !bytes.Equal(shown, table.Bytes()) {
		t.Errorf("docs/licences.md is not what is linked: run make licences (%v)", err)
	}
	var all bytes.Buffer
	if err := writeTexts(&all, list); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"The Go standard library", "github.com/jackc/pgx/v5 v", "Mozilla Public License", "Redistributions in binary form"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("the texts lack %q", want)
		}
	}
}

func TestForbiddenOrUnreadableLicencePasses(t *testing.T) {
	c, err := newClassifier()
	if err != nil {
		t.Fatal(err)
	}
	text := func(name string) string {
		t.Helper()
		b, err := assets.ReadLicenseFile("License/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, test := range map[string]struct {
		file, text string
		ok         bool
	}{
		"MIT":             {"LICENSE", text("MIT/pristine"), true},
		"spelt otherwise": {"Licence.md", text("BSD-3-Clause/pristine"), true},
		"GPL":             {"COPYING", text("GPL-3.0/license"), false},
		"AGPL":            {"LICENSE.txt", text("AGPL-3.0/license"), false},
		"MIT and GPL":     {"LICENSE", text("MIT/pristine") + "\n\n" + text("GPL-2.0/license"), false},
		"own words":       {"LICENSE", "You may use this on Sundays.", false},
		"no file":         {"README", text("MIT/pristine"), false},
		"only a notice":   {"NOTICE", text("MIT/pristine"), false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, test.file), []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := c.of(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := refused([]module{{Path: "x", Licence: l}}); (err == nil) != test.ok {
			t.Errorf("%s: %v is taken for allowed: %v", name, l, err == nil)
		}
	}
}

// The test's own binary stands for the program.
func TestBillOfMaterialsIsNotOfTheBinary(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		if err := writeSBOM(b, binary, "v1.2.3"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two bills of one binary differ")
	}
	var bom struct {
		Metadata struct {
			Component struct{ Name, Version, Purl string }
		}
		Components []struct {
			Name, Version, Purl string
			Hashes              []struct{ Content string }
			Licenses            []struct{ License struct{ ID string } }
		}
	}
	if err := json.Unmarshal(first.Bytes(), &bom); err != nil {
		t.Fatal(err)
	}
	if c := bom.Metadata.Component; c.Name != "keysidecar" || c.Version != "v1.2.3" {
		t.Errorf("it is about %+v", c)
	}
	licences := make(map[string]string)
	for _, c := range bom.Components {
		if c.Version == "" || c.Purl == "" || len(c.Licenses) == 0 || c.Name != "std" && len(c.Hashes) == 0 {
			t.Errorf("says too little: %+v", c)
			continue
		}
		licences[c.Name] = c.Licenses[0].License.ID
	}
	for name, want := range map[string]string{"std": "BSD-3-Clause", "github.com/CycloneDX/cyclonedx-go": "Apache-2.0", "github.com/google/licenseclassifier/v2": "Apache-2.0"} {
		if licences[name] != want {
			t.Errorf("%s: %q, want %s", name, licences[name], want)
		}
	}
	validate(t, first.Bytes())
}

// validate holds a document against the published schema.
func validate(t *testing.T, document []byte) {
	t.Helper()
	cache, err := goEnv("GOMODCACHE")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob(filepath.Join(cache, escape("github.com/CycloneDX/cyclonedx-go")+"@*", "schema"))
	if err != nil || len(folders) == 0 {
		t.Fatalf("no schema: %v", err)
	}
	compiler := jsonschema.NewCompiler()
	for name, file := range map[string]string{"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		data, err := os.ReadFile(filepath.Join(folders[len(folders)-1], file))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("http://cyclonedx.org/schema/"+name, schema); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("not CycloneDX 1.6: %v", err)
	}
}
