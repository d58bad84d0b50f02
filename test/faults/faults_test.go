package faults

import (
	"context"
	"os"
	"testing"
	"time"
)

func TestTrial(t *testing.T) {
	dir := os.Getenv("TRIAL_DIR")
	if dir == "" {
		t.Skip()
	}
	d, _ := time.ParseDuration(os.Getenv("TRIAL_FOR"))
	res, err := Run(context.Background(), Options{Dir: dir, Seed: 1, Duration: d, Fleet: Fleet(), Kinds: Kinds(), AtOnce: 3, Rate: 900, Revocations: 25, Log: t.Logf, Short: 0.2})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
}
