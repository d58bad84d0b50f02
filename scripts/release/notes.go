package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// tagged is what the tag of a release looks like (semver.org).
var tagged = regexp.MustCompile(`^v(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)$`)

// releaseNotes returns the section of the change log for a version: that of a tag,
// which must be there and have its date, or what is not released yet.
func releaseNotes(changelog, version string) (string, error) {
	data, err := os.ReadFile(changelog)
	if err != nil {
		return "", err
	}
	heading := `\[Unreleased\]`
	// v1.2.3-4-gabcdef is what git calls the fourth commit after a tag.
	if m := tagged.FindStringSubmatch(version); m != nil && !regexp.MustCompile(`-\d+-g[0-9a-f]+(-dirty)?$|-dirty$`).MatchString(version) {
		heading = `\[` + regexp.QuoteMeta(m[1]) + `\] - \d{4}-\d{2}-\d{2}`
	}
	at := regexp.MustCompile(`(?m)^## ` + heading + `$`).FindStringIndex(string(data))
	if at == nil {
		return "", fmt.Errorf("%s has no section that matches %q: CONTRIBUTING.md says how to cut a release", changelog, "## "+strings.ReplaceAll(heading, `\`, ""))
	}
	section := string(data)[at[1]:]
	if end := regexp.MustCompile(`(?m)^## |^\[[^\]]+\]: `).FindStringIndex(section); end != nil {
		section = section[:end[0]]
	}
	if section = strings.TrimSpace(section); section == "" {
		return "", fmt.Errorf("%s says nothing about %s", changelog, version)
	}
	return section + "\n", nil
}
