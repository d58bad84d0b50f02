package model

import (
	"os/exec"
	"strings"
	"testing"
)

// TestProtocolOrMutantIsMisjudged makes the short searches: the protocol must be
// clean, every planted mistake found.
func TestProtocolOrMutantIsMisjudged(t *testing.T) {
	for _, tool := range []string{"spin", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v; run make deps", err)
		}
	}
	for _, r := range Runs {
		if r.Tier != Short {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			res, err := r.Do(t.Context())
			if err != nil {
				t.Fatalf("%s %s: %v", r.File, r.Flags, err)
			}
			t.Logf("%d states, %.1f s %s", res.States, res.Took.Seconds(), res.Errors)
		})
	}
}

// TestIncompleteSearchPasses feeds reports of searches that were cut short.
func TestIncompleteSearchPasses(t *testing.T) {
	const whole = "State-vector 44 byte, depth reached 99, errors: 0\n    1234 states, stored\n"
	if _, err := read(whole); err != nil {
		t.Error(err)
	}
	for _, cut := range []string{
		"", "error: max search depth too small\n" + whole,
		"pan: reached -DMEMLIM bound\n" + whole,
		"Warning: Search not completed\n" + whole,
	} {
		if _, err := read(cut); err == nil {
			t.Errorf("passes: %q", cut)
		}
	}
	res, err := read("pan:1: assertion violated  !(deny) (at depth 5)\nWarning: Search not completed\n" +
		strings.Replace(whole, "errors: 0", "errors: 1", 1))
	if err != nil || res.Errors == "" {
		t.Errorf("a found error is lost: %+v %v", res, err)
	}
	clean, mutant := Run{}, Run{Want: "deny"}
	if clean.Judge(res) == nil || mutant.Judge(res) != nil || mutant.Judge(Result{}) == nil || (Run{Want: "receipted"}).Judge(res) == nil {
		t.Error("misjudged")
	}
}
