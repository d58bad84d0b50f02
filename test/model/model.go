package model

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

//go:embed *.pml
var sources embed.FS

// Tier says when a run is made.
type Tier int

const (
	// Short runs are made by go test, in a minute altogether.
	Short Tier = iota
	// Long runs are made by `make model` only.
	Long
)

// Run is one search of one model.
type Run struct {
	// Name says what holds, or for a mutant which mistake it plants.
	Name string
	// File is the model, without .pml.
	File string
	// Flags are the model's, as in its first comment, without -D.
	Flags string
	// Want is empty if the search must complete without an error. For a mutant it is
	// a part of the failed assertion, or "acceptance cycle".
	Want string
	// LTL names the property whose violation is sought, under weak fairness; empty
	// for a search for failed assertions.
	LTL  string
	Tier Tier
	// Limit ends the search; zero means two minutes.
	Limit time.Duration
}

// Mutant reports whether an error must be found.
func (r Run) Mutant() bool { return r.Want != "" }

// Result is what a completed search found.
type Result struct {
	States int64
	Depth  int64
	Took   time.Duration // of the search, without generating and compiling it
	// Errors are the violated property's words, as pan prints them; empty for none.
	Errors string
}

// memoryMB ends a search that needs more memory, depth one with a longer path;
// shortDepth does in a short one, which would else fill memory it does not need.
const (
	memoryMB   = 7000
	depth      = 20_000_000
	shortDepth = 400_000
)

var (
	statesPat = regexp.MustCompile(`(?m)^\s*([0-9]+) states, stored`)
	errorsPat = regexp.MustCompile(`depth reached ([0-9]+), (?:.*\n)?.*errors: ([0-9]+)`)
	foundPat  = regexp.MustCompile(`(?m)^pan:[0-9]+: (.*)$`)
)

// Do generates, compiles and makes the search in a directory of its own. It
// returns an error when the search did not complete, or did not find what Want
// says: see Judge.
func (r Run) Do(ctx context.Context) (Result, error) {
	dir, err := os.MkdirTemp("", "ksmodel")
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	source, err := sources.ReadFile(r.File + ".pml")
	if err != nil {
		return Result{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "model.pml"), source, 0o600); err != nil {
		return Result{}, err
	}
	limit := r.Limit
	if limit == 0 {
		limit = 2 * time.Minute
	}
	args := []string{"-a"}
	for f := range strings.FieldsSeq(r.Flags) {
		args = append(args, "-D"+f)
	}
	if out, err := command(ctx, dir, "spin", append(args, "model.pml")...); err != nil {
		return Result{}, fmt.Errorf("spin: %w\n%s", err, out)
	}
	// In a short search the compiler's time counts as well.
	optimize := "-O2"
	switch {
	case r.Mutant():
		optimize = "-O0"
	case r.Tier == Short:
		optimize = "-O1"
	}
	compile := []string{optimize, "-w", "-o", "pan", fmt.Sprintf("-DMEMLIM=%d", memoryMB)}
	search := []string{fmt.Sprintf("-m%d", depth)}
	if r.LTL == "" {
		compile = append(compile, "-DSAFETY", "-DNOREDUCE")
		if r.Mutant() { // the models list the rarer steps last, and mistakes need them
			compile = append(compile, "-DT_REVERSE")
		}
	} else {
		compile = append(compile, "-DNFAIR=3")
		search = append(search, "-a", "-f", "-N", r.LTL)
	}
	if r.Tier == Long {
		compile = append(compile, "-DCOLLAPSE")
	} else {
		search[0] = fmt.Sprintf("-m%d", shortDepth)
	}
	if out, err := command(ctx, dir, "gcc", append(compile, "pan.c")...); err != nil {
		return Result{}, fmt.Errorf("gcc: %w\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begun := time.Now()
	out, err := command(ctx, dir, "./pan", search...)
	took := time.Since(begun)
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("not completed within %v", limit)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // pan's exit code says little
		return Result{}, fmt.Errorf("pan: %w", err)
	}
	res, err := read(out)
	res.Took = took
	if err != nil {
		return res, err
	}
	return res, r.Judge(res)
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// read takes a search's report apart, and refuses one that was cut short.
func read(out string) (Result, error) {
	var res Result
	for _, sign := range []string{"max search depth too small", "memory limit", "reached -DMEMLIM", "out of memory", "VECTORSZ is too small", "hash-compact"} {
		if strings.Contains(out, sign) {
			return res, fmt.Errorf("search not complete: %s", sign)
		}
	}
	states, errs := statesPat.FindStringSubmatch(out), errorsPat.FindStringSubmatch(out)
	if states == nil || errs == nil {
		return res, fmt.Errorf("search not complete: no totals in its report:\n%s", out)
	}
	res.States, _ = strconv.ParseInt(states[1], 10, 64)
	res.Depth, _ = strconv.ParseInt(errs[1], 10, 64)
	found := foundPat.FindStringSubmatch(out)
	switch {
	case errs[2] == "0" && strings.Contains(out, "Search not completed"):
		return res, errors.New("search not complete")
	case errs[2] != "0" && found == nil:
		return res, fmt.Errorf("an error without words:\n%s", out)
	case errs[2] != "0":
		res.Errors = strings.TrimSpace(found[1])
	}
	return res, nil
}

// Judge compares what was found with what is wanted.
func (r Run) Judge(res Result) error {
	switch {
	case !r.Mutant() && res.Errors != "":
		return fmt.Errorf("the protocol is broken: %s (%d states)", res.Errors, res.States)
	case r.Mutant() && res.Errors == "":
		return fmt.Errorf("the mistake was not noticed in %d states", res.States)
	case r.Mutant() && !strings.Contains(res.Errors, r.Want):
		return fmt.Errorf("found %q, want %q", res.Errors, r.Want)
	}
	return nil
}
