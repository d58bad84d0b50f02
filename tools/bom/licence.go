package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are the licences (SPDX) that what we link may have, and why none of them
// binds who uses keysidecar further than to pass the texts on.
var allowed = map[string]string{
	"Apache-2.0":   "permissive, with a grant of patents",
	"BSD-2-Clause": "permissive",
	"BSD-3-Clause": "permissive",
	"ISC":          "permissive",
	"MIT":          "permissive",
	"MPL-2.0":      "copyleft for its own files, which are linked unchanged; their source is public",
}

// licence is what a module's own files say.
type licence struct {
	// Names are SPDX identifiers, in order. Several mean that parts of the module
	// have different ones, and all of them hold.
	Names []string
	// Files are the names of the files, Texts what is in them.
	Files, Texts []string
}

// String returns an SPDX expression.
func (l licence) String() string { return strings.Join(l.Names, " AND ") }

// licenceFile is the name of a file that has to go with a binary; grantFile of those
// that must name a licence.
var (
	licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-](md|txt|rst|mit|apache|bsd))?$`)
	grantFile   = regexp.MustCompile(`(?i)^(licen[cs]e|copying)`)
)

// texts recognises licences by their words.
type texts struct{ known *classifier.Classifier }

func newClassifier() (*texts, error) {
	known, err := assets.DefaultClassifier()
	if err != nil {
		return nil, fmt.Errorf("load the known licences: %w", err)
	}
	return &texts{known}, nil
}

// of returns the licence of the module in dir. One whose words are not recognised
// has no name, and is refused like one that is not allowed.
func (t *texts) of(dir string) (l licence, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return l, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return l, err
		}
		l.Files, l.Texts = append(l.Files, e.Name()), append(l.Texts, string(text))
		if grantFile.MatchString(e.Name()) {
			l.Names = append(l.Names, t.names(text)...)
		}
	}
	slices.Sort(l.Names)
	l.Names = slices.Compact(l.Names)
	return l, nil
}

func (t *texts) names(text []byte) (names []string) {
	for _, m := range t.known.Match(text).Matches {
		if m.MatchType == "License" || m.MatchType == "Header" { // a notice instead of the text
			names = append(names, m.Name)
		}
	}
	return names
}

// refused returns an error that names every module whose licence is not allowed.
func refused(list []module) error {
	var errs []error
	for _, m := range list {
		if len(m.Licence.Names) == 0 {
			errs = append(errs, fmt.Errorf("%s: no known licence in %v of %s", m.Path, m.Licence.Files, m.Dir))
		}
		for _, name := range m.Licence.Names {
			if allowed[name] == "" {
				errs = append(errs, fmt.Errorf("%s: the licence %s is not on the list of those allowed", m.Path, name))
			}
		}
	}
	return errors.Join(errs...)
}

// writeTable writes the list for people. It has no versions, so that it changes with
// what is linked and not with every update: a binary's versions are in its SBOM.
func writeTable(w io.Writer, list []module) error {
	var b strings.Builder
	b.WriteString("# Licences\n\nWritten by `make licences`; a test fails if it is not what is linked, and on any licence that is not allowed. keysidecar itself\n" +
		"is licensed under the Apache License 2.0. The texts, which go with a binary, are in `third-party-licences.txt` beside it.\n\n" +
		"## Allowed\n\n| licence | |\n|---|---|\n")
	var names []string
	for name := range allowed {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "| %s | %s |\n", name, allowed[name])
	}
	for _, part := range []struct {
		title     string
		inProgram bool
	}{{"In the program", true}, {"In tests only", false}} {
		fmt.Fprintf(&b, "\n## %s\n\n| module | licence |\n|---|---|\n", part.title)
		for _, m := range list {
			if m.InProgram == part.inProgram {
				fmt.Fprintf(&b, "| %s | %s |\n", m.Path, m.Licence)
			}
		}
	}
	b.WriteString("\nThe Go standard library is in the program, too (BSD-3-Clause).\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// writeTexts writes the texts of what is in the program.
func writeTexts(w io.Writer, list []module) error {
	var b strings.Builder
	b.WriteString("keysidecar contains the software named below, each under the licence that follows its name.\n")
	goRoot, err := goEnv("GOROOT")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(goRoot, "LICENSE"))
	if err != nil {
		return fmt.Errorf("the licence of Go: %w", err)
	}
	appendTexts(&b, "The Go standard library", licence{Files: []string{"LICENSE"}, Texts: []string{string(text)}})
	for _, m := range list {
		if m.InProgram {
			appendTexts(&b, m.Path+" "+m.Version, m.Licence)
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func appendTexts(b *strings.Builder, name string, l licence) {
	for i, text := range l.Texts {
		fmt.Fprintf(b, "\n%s\n%s (%s)\n%s\n\n%s\n", strings.Repeat("=", 80), name, l.Files[i], strings.Repeat("=", 80), strings.TrimSpace(text))
	}
}
