// Package evidence writes what a measurement printed into a document, and says on
// what machine and source it was made.
package evidence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sys/unix"
)

// generated is what heads say of where sections come from.
const generated = `Each section is written by the command that it names, and is
replaced when the command is run again; nothing here is written by hand.

`

// headOf begins a new document, by the name of its file.
func headOf(path string) string {
	if filepath.Base(path) == "benchmarks.md" {
		return `# Benchmarks

keysidecar beside what one would use otherwise, in the same run on the same machine: ratios say something, absolute numbers from
somebody else's machine do not. ` + generated
	}
	return `# Evidence

What was measured, by which command, on which machine. ` + generated
}

// WriteSection puts text into the document at path as the section name, in place of
// an older one; at the end if there is none.
func WriteSection(path, name, text string) error {
	begin, end := "<!-- section: "+name+" -->\n", "<!-- end: "+name+" -->\n"
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	document := string(old)
	if document == "" {
		document = headOf(path)
	}
	section := begin + strings.TrimRight(text, "\n") + "\n" + end
	before, rest, found := strings.Cut(document, begin)
	if found {
		_, after, closed := strings.Cut(rest, end)
		if !closed {
			return fmt.Errorf("%s: the section %q does not end", path, name)
		}
		document = before + section + after
	} else {
		document = strings.TrimRight(document, "\n") + "\n\n" + section
	}
	return os.WriteFile(path, []byte(document), 0o644)
}

// Write writes a section into the document at path, whose folder it makes, or prints
// the text where path is empty, and where the document cannot be written: what was
// measured took long.
func Write(path, name, text string) error {
	if path == "" {
		_, err := fmt.Print(text)
		return err
	}
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = WriteSection(path, name, text)
	}
	if err != nil {
		fmt.Print(text)
	}
	return err
}

// Quantile returns the smallest value of the list that a share q of it does not
// exceed: q 0.5 is the median, 1 the largest. It is 0 for an empty list.
func Quantile[T cmp.Ordered](list []T, q float64) (value T) {
	if len(list) == 0 {
		return value
	}
	sorted := slices.Sorted(slices.Values(list))
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// Machine says in a line each what source ran on what machine, with which Postgres and
// which RabbitMQ (unless amqpURL is empty).
func Machine(ctx context.Context, dsn, amqpURL string) ([]string, error) {
	db, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close(ctx) }()
	var postgres string
	if err := db.QueryRow(ctx, `SHOW server_version`).Scan(&postgres); err != nil {
		return nil, err
	}
	lines := []string{"source " + Revision(ctx), Host(), "PostgreSQL " + postgres}
	if amqpURL == "" {
		return lines, nil
	}
	broker, err := amqp.Dial(amqpURL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = broker.Close() }()
	return append(lines, fmt.Sprint("RabbitMQ ", broker.Properties["version"])), nil
}

// Host describes the processor, the kernel and the compiler in one line.
func Host() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // it cannot fail for a valid address
	return fmt.Sprintf("%d cores (%s), Linux %s, %s", runtime.NumCPU(), cpuModel(), unix.ByteSliceToString(u.Release[:]), runtime.Version())
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// Revision names the source that is measured, as git knows the working directory.
func Revision(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
