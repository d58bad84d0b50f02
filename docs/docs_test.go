// Package docs checks that what the documents say is there: tests, files,
// commands, settings, metrics, links. What they say about behaviour is checked by
// the tests that they name.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/internal/config"
)

const root = ".."

// documents returns the text of every Markdown file, by its path from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md", "examples/*.md"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			texts[strings.TrimPrefix(name, root+"/")] = read(t, name)
		}
	}
	if len(texts) < 10 {
		t.Fatalf("only %d documents found", len(texts))
	}
	return texts
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var (
	fence = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	span  = regexp.MustCompile("`([^`\n]+)`")
)

// code returns what a document sets as code: spans and the lines of blocks.
func code(text string) []string {
	var found []string
	for _, block := range fence.FindAllStringSubmatch(text, -1) {
		found = append(found, strings.Split(block[1], "\n")...)
	}
	for _, s := range span.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		found = append(found, s[1])
	}
	return found
}

// walk calls visit for every file of the repository that name matches.
func walk(t *testing.T, name *regexp.Regexp, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || path == root+"/bin" || path == root+"/run") {
			return filepath.SkipDir
		}
		if !d.IsDir() && name.MatchString(path) {
			visit(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tests returns the test functions of the repository, by folder.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)[A-Z]\w*)\(`)
	found := make(map[string][]string)
	walk(t, regexp.MustCompile(`_test\.go$`), func(path string) {
		folder := strings.TrimPrefix(filepath.Dir(path), root+"/")
		for _, m := range declared.FindAllStringSubmatch(read(t, path), -1) {
			found[folder] = append(found[folder], m[1])
		}
	})
	return found
}

// A guarantee that names a test which is no longer there is not shown by anything.
func TestEveryNamedTestExists(t *testing.T) {
	named := regexp.MustCompile(`^(?:([a-z]+)\.)?((?:Test|Benchmark|Fuzz)[A-Z]\w*)$`)
	all := tests(t)
	exists := func(pkg, name string) bool {
		for folder, names := range all {
			if (pkg == "" || filepath.Base(folder) == pkg) && slices.Contains(names, name) {
				return true
			}
		}
		return false
	}
	count := 0
	for document, text := range documents(t) {
		for _, c := range code(text) {
			if m := named.FindStringSubmatch(c); m != nil {
				count++
				if !exists(m[1], m[2]) {
					t.Errorf("%s: there is no test %s", document, c)
				}
			}
		}
	}
	if count < 100 {
		t.Errorf("only %d tests are named; is the pattern still right?", count)
	}
}

// Commands that print a figure must run something.
func TestNamedGoTestCommandsRunSomething(t *testing.T) {
	option := regexp.MustCompile(`-(run|bench) '?([^' ]+)'?`)
	all := tests(t)
	for document, text := range documents(t) {
		for _, c := range code(text) {
			if !strings.HasPrefix(c, "go test ") || !strings.Contains(c, " ./") {
				continue
			}
			folder := strings.TrimPrefix(c[strings.LastIndex(c, " ./")+1:], "./")
			for _, m := range option.FindAllStringSubmatch(c, -1) {
				if m[2] == "^$" || m[2] == "TestName" {
					continue
				}
				pattern := regexp.MustCompile(m[2])
				kind := map[string]string{"run": "Test", "bench": "Benchmark"}[m[1]]
				if !slices.ContainsFunc(all[folder], func(name string) bool { return strings.HasPrefix(name, kind) && pattern.MatchString(name) }) {
					t.Errorf("%s: %q runs nothing", document, c)
				}
			}
		}
	}
}

func TestNamedFilesExist(t *testing.T) {
	path := regexp.MustCompile(`^\.?/?(?:internal|cmd|docs|test|configs|scripts|bench|tools|deploy|examples)/[\w./-]*$`)
	for document, text := range documents(t) {
		for _, c := range code(text) {
			for word := range strings.FieldsSeq(c) {
				if !path.MatchString(word) {
					continue
				}
				if _, err := os.Stat(filepath.Join(root, word)); err != nil {
					t.Errorf("%s: %v", document, err)
				}
			}
		}
	}
}

func TestLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	texts := documents(t)
	for document, text := range texts {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.HasPrefix(m[1], "https://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := document
			if path != "" {
				target = filepath.Join(filepath.Dir(document), path)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: %v", document, err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(texts[target]), anchor) {
				t.Errorf("%s: %s has no heading #%s", document, target, anchor)
			}
		}
	}
}

// anchors returns the names that GitHub gives to a document's headings.
func anchors(text string) (names []string) {
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped := regexp.MustCompile(`[^a-z0-9 _-]`)
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		names = append(names, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return names
}

func TestEveryDecisionIsIndexedAndComplete(t *testing.T) {
	texts := documents(t)
	index := texts["docs/adr/README.md"]
	title := regexp.MustCompile(`^# (\d{4}): .+\n\nStatus: `)
	for document, text := range texts {
		name := filepath.Base(document)
		if filepath.Dir(document) != "docs/adr" || name == "README.md" {
			continue
		}
		m := title.FindStringSubmatch(text)
		if m == nil || m[1] != name[:4] {
			t.Errorf("%s does not begin with its number, a title and a status", document)
		}
		if !strings.Contains(index, "["+name[:4]+"]("+name+")") {
			t.Errorf("%s is not in the index", document)
		}
		at := 0
		for _, part := range []string{"Context", "Decision", "Consequences", "Alternatives", "Evidence"} {
			i := strings.Index(text[at:], "\n## "+part+"\n")
			if i < 0 {
				t.Errorf("%s: no section %s in its place", document, part)
				continue
			}
			at += i
		}
	}
}

// modules returns the modules that go.mod requires.
func modules(t *testing.T) (found []string) {
	require := regexp.MustCompile(`(?m)^(?:require)?\s+([\w.-]+\.[a-z]+/?\S*) v\S+`)
	for _, m := range require.FindAllStringSubmatch(read(t, root+"/go.mod"), -1) {
		found = append(found, m[1])
	}
	return found
}

// imported returns the modules that the program's own files import, and those
// that only tests and what serves them do.
func imported(t *testing.T) (inProgram, inTests map[string]bool) {
	t.Helper()
	all := modules(t)
	inProgram, inTests = make(map[string]bool), make(map[string]bool)
	walk(t, regexp.MustCompile(`\.go$`), func(path string) {
		if strings.HasPrefix(path, root+"/tools/") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		into := inProgram
		if strings.HasSuffix(path, "_test.go") || regexp.MustCompile(`/(test|bench|testenv|schematest)/`).MatchString(path) {
			into = inTests
		}
		for _, s := range file.Imports {
			if m := moduleOf(all, s); m != "" {
				into[m] = true
			}
		}
	})
	return inProgram, inTests
}

func moduleOf(all []string, s *ast.ImportSpec) (module string) {
	path, err := strconv.Unquote(s.Path.Value)
	if err != nil {
		return ""
	}
	for _, m := range all {
		if (path == m || strings.HasPrefix(path, m+"/")) && len(m) > len(module) {
			module = m
		}
	}
	return module
}

func TestEveryDirectDependencyHasItsReason(t *testing.T) {
	text := read(t, "adr/0008-libraries.md")
	_, text, _ = strings.Cut(text, "\nIn the program:")
	program, rest, found := strings.Cut(text, "\nIn tests only:")
	forTests, _, found2 := strings.Cut(rest, "\n## ")
	if !found || !found2 {
		t.Fatal("the page has no two tables")
	}
	inProgram, inTests := imported(t)
	for m := range inProgram {
		if !strings.Contains(program, "`"+m+"`") {
			t.Errorf("the program imports %s, and the page does not say why", m)
		}
	}
	for m := range inTests {
		if !inProgram[m] && !strings.Contains(forTests, "`"+m+"`") {
			t.Errorf("tests import %s, and the page does not say why", m)
		}
	}
	all := modules(t)
	for _, m := range span.FindAllStringSubmatch(program+forTests, -1) {
		if slices.Contains(all, m[1]) && !inProgram[m[1]] && !inTests[m[1]] {
			t.Errorf("the page names %s, which nothing imports", m[1])
		}
	}
}

func TestNamedCommandsExist(t *testing.T) {
	targets := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(read(t, root+"/Makefile"), -1) {
		targets[m[1]] = true
	}
	commands := map[string]bool{"completion": true, "help": true}
	uses := regexp.MustCompile(`(?:Use:\s+|group\(|ownerChangeCommand\()"([a-z]+)`)
	walk(t, regexp.MustCompile(`/cmd/keysidecar/\w+\.go$`), func(path string) {
		for _, m := range uses.FindAllStringSubmatch(read(t, path), -1) {
			commands[m[1]] = true
		}
	})
	made := regexp.MustCompile(`^\s*make ([a-z-]+)`)
	run := regexp.MustCompile(`^(?:[A-Z_]+='[^']*' )*(?:bin/)?keysidecar (?:--config \S+ )?([a-z|]+)(?: ([a-z|]+))?`)
	for document, text := range documents(t) {
		for _, c := range code(text) {
			if m := made.FindStringSubmatch(c); m != nil && !targets[m[1]] {
				t.Errorf("%s: the Makefile has no target %s", document, m[1])
			}
			m := run.FindStringSubmatch(c)
			if m == nil {
				continue
			}
			words := strings.Split(m[1], "|")
			if slices.Contains([]string{"keys", "owners", "config"}, m[1]) && m[2] != "" {
				words = append(words, strings.Split(m[2], "|")...)
			}
			for _, w := range words {
				if !commands[w] {
					t.Errorf("%s: there is no command %q: %s", document, w, c)
				}
			}
		}
	}
}

func TestNamedSettingsExist(t *testing.T) {
	setting := regexp.MustCompile(`^((?:listen|store|startup|cache|freshness|audit|usage|amqp|fleet|relay|keys|authz|log)\.[a-z_.]+)(?:$|[: ])`)
	known := make(map[string]bool)
	for _, s := range config.Settings() {
		for key := s.Key; key != ""; key = key[:max(0, strings.LastIndex(key, "."))] {
			known[key] = true
		}
	}
	for document, text := range documents(t) {
		for _, c := range code(text) {
			if m := setting.FindStringSubmatch(c); m != nil && !known[m[1]] && !strings.HasSuffix(m[1], ".yaml") {
				t.Errorf("%s: there is no setting %s", document, m[1])
			}
		}
	}
}

// Names of the database and of metrics, as far as they can be recognised.
func TestNamedTablesFunctionsAndMetricsExist(t *testing.T) {
	var source, sql strings.Builder
	walk(t, regexp.MustCompile(`\.(go|sql)$`), func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		text := read(t, path)
		source.WriteString(text)
		if strings.HasSuffix(path, ".sql") {
			sql.WriteString(text)
		}
	})
	inDatabase := regexp.MustCompile(`\bkeysidecar\.([a-z_]+)`)
	metric := regexp.MustCompile(`^keysidecar_(?:relay_|subscriber_)?([a-z_]+)`)
	elsewhere := []string{"sock", "yaml", "lua", "q", "key", "keysidecar_keys"}
	for document, text := range documents(t) {
		for _, c := range code(text) {
			for _, m := range inDatabase.FindAllStringSubmatch(c, -1) {
				if !slices.Contains(elsewhere, m[1]) && !strings.Contains(sql.String(), "keysidecar."+m[1]) {
					t.Errorf("%s: the schema has no %s", document, m[0])
				}
			}
			m := metric.FindStringSubmatch(c)
			if m == nil || slices.Contains(elsewhere, m[0]) || c == "keysidecar_" {
				continue
			}
			if !strings.Contains(source.String(), `"`+m[0]) && !strings.Contains(source.String(), `"`+m[1]+`"`) {
				t.Errorf("%s: there is no metric %s", document, m[0])
			}
		}
	}
}

// The first thing that people do is to paste what the README and make run show.
func TestTheReadmeShowsWhatMakeRunPrints(t *testing.T) {
	readme := read(t, root+"/README.md")
	_, section, _ := strings.Cut(readme, "\n## Try it in a minute\n")
	section, _, _ = strings.Cut(section, "\n## ")
	printed := strings.ReplaceAll(read(t, root+"/scripts/run.sh"), "$socket", "run/keysidecar.sock")
	lines := 0
	for _, block := range fence.FindAllStringSubmatch(section, -1) {
		for line := range strings.Lines(block[1]) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "curl ") && !strings.HasPrefix(line, "bin/") {
				continue
			}
			lines++
			if !strings.Contains(printed, line) {
				t.Errorf("make run does not print: %s", line)
			}
		}
	}
	if lines < 5 {
		t.Errorf("only %d lines to paste", lines)
	}
}

// A block that says where it comes from is what is there, and what tests run there.
func TestBlocksAreWhatTheExamplesHold(t *testing.T) {
	from := regexp.MustCompile("(?ms)^<!-- from (\\S+) -->\n+```[a-z]*\n(.*?)^```")
	count := 0
	for document, text := range documents(t) {
		for _, m := range from.FindAllStringSubmatch(text, -1) {
			count++
			if !strings.Contains(read(t, filepath.Join(root, m[1])), m[2]) {
				t.Errorf("%s: the block is not in %s as it stands", document, m[1])
			}
		}
		if marks := strings.Count(text, "<!-- from "); marks != len(from.FindAllString(text, -1)) {
			t.Errorf("%s: a mark without a block", document)
		}
	}
	if count < 8 {
		t.Errorf("only %d blocks", count)
	}
}
