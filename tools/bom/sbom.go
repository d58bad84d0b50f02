package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"unicode"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeSBOM writes the bill of materials of a binary (CycloneDX 1.6, JSON): what
// the compiler noted in it, with licences from the module cache. The same binary
// gives the same bytes.
func writeSBOM(w io.Writer, binary, version string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("%s: %w", binary, err)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	if version == "" {
		version = info.Main.Version
	}
	sum := sha256.Sum256(content)
	bom := cdx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + uuidFrom(sum[:])
	main := component(cdx.ComponentTypeApplication, info.Main.Path, version)
	main.Name = "keysidecar"
	main.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	main.Licenses = choices("Apache-2.0")
	main.Properties = properties(info)
	bom.Metadata = &cdx.Metadata{Timestamp: setting(info, "vcs.time"), Component: &main}
	parts, err := components(info)
	if err != nil {
		return err
	}
	var refs []string
	dependencies := []cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	for _, p := range parts {
		refs = append(refs, p.BOMRef)
		dependencies = append(dependencies, cdx.Dependency{Ref: p.BOMRef})
	}
	bom.Components, bom.Dependencies = &parts, &dependencies
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// components returns the standard library and every module in the binary.
func components(info *debug.BuildInfo) ([]cdx.Component, error) {
	std := component(cdx.ComponentTypeLibrary, "std", strings.TrimPrefix(info.GoVersion, "go"))
	std.Licenses = choices("BSD-3-Clause")
	parts := []cdx.Component{std}
	c, err := newClassifier()
	if err != nil {
		return nil, err
	}
	cache, err := goEnv("GOMODCACHE")
	if err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		part := component(cdx.ComponentTypeLibrary, m.Path, m.Version)
		if hash, ok := strings.CutPrefix(m.Sum, "h1:"); ok { // SHA-256 of the list of the module's files with theirs
			raw, err := base64.StdEncoding.DecodeString(hash)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.Path, err)
			}
			part.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
		}
		l, err := c.of(filepath.Join(cache, escape(m.Path)+"@"+escape(m.Version)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%s %s is not in the module cache: go mod download", m.Path, m.Version)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", m.Path, err)
		case len(l.Names) > 0:
			part.Licenses = choices(l.Names...)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func component(kind cdx.ComponentType, path, version string) cdx.Component {
	purl := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cdx.Component{Type: kind, BOMRef: purl, PackageURL: purl, Name: path, Version: version}
}

// choices names licences: one by its identifier, several as one expression, because
// all of them hold.
func choices(names ...string) *cdx.Licenses {
	if len(names) == 1 {
		return &cdx.Licenses{{License: &cdx.License{ID: names[0]}}}
	}
	return &cdx.Licenses{{Expression: strings.Join(names, " AND ")}}
}

// properties are how the binary was built.
func properties(info *debug.BuildInfo) *[]cdx.Property {
	list := []cdx.Property{{Name: "keysidecar:build:go", Value: info.GoVersion}}
	for _, s := range info.Settings {
		list = append(list, cdx.Property{Name: "keysidecar:build:" + s.Key, Value: s.Value})
	}
	return &list
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// uuidFrom returns a UUID (version 8) made from a hash.
func uuidFrom(hash []byte) string {
	b := append([]byte(nil), hash[:16]...)
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// escape returns a module's path or version as the cache's folders have it, for
// file systems that take A for a.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsUpper(r) {
			b.WriteRune('!')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

func goEnv(name string) (string, error) {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}
