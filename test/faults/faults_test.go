package faults

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The short tier: every kind of fault once, many at a time, with short bounds, so
// that what takes seconds in a long run takes one here. Nothing is asserted about
// how fast anything is: a loaded machine makes sidecars answer 503, and that is
// not what would break the promise.
func TestAnyKindOfFaultBreaksThePromise(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	begun := time.Now()
	kinds := Kinds()
	res, err := Run(ctx, Options{
		Dir: t.TempDir(), Seed: 3, Short: 0.1, AtOnce: 6, InARow: 3, Kinds: kinds, Fleet: Fleet(),
		Promise: Promise{MaxStaleness: 1200 * time.Millisecond, StaleLimit: 1800 * time.Millisecond, FenceInterval: 300 * time.Millisecond},
		Rate:    200, Revocations: 15, Receipts: 0.5, Command: "go test ./test/faults",
		Log: func(format string, args ...any) {
			t.Logf("%7s "+format, append([]any{time.Since(begun).Round(10 * time.Millisecond)}, args...)...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := Judge(res.History)
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	for _, k := range kinds {
		if !hit(res, k.Name) {
			t.Errorf("nothing was done about %q", k.Name)
		}
	}
	if report.UnderFault.Past == 0 {
		t.Error("no pair under a fault was asked about after the bound")
	}
	if err := report.Text(t.Output()); err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("KEEP_HISTORY"); dir != "" && t.Failed() {
		if err := os.Rename(res.History, filepath.Join(dir, filepath.Base(res.History))); err != nil {
			t.Error(err)
		}
	}
}

func hit(res *Result, name string) bool {
	for _, h := range res.Hits {
		if h.Kind == name {
			return true
		}
	}
	return false
}
