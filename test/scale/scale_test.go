package scale

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// TestMain lets the test's own program be a receiver of the bare chain.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == ReceiverCommand {
		if err := Receive(os.Getenv("BARE_URL"), os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// What prints the figures in the documents must not rot between releases.
func TestASmallFleetIsMeasured(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, err := cluster.Build(ctx, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Start(ctx, bin, Size{Sidecars: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rest, err := f.Rest(ctx, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if len(rest.Resident) != 3 || rest.Resident[0] < 1<<20 || rest.Processor[0] <= 0 || rest.Connections < 3 {
		t.Errorf("at rest: %+v", rest)
	}
	deny, err := f.Deny(ctx, self, Turns{Rounds: 1, PerRound: 3})
	if err != nil {
		t.Fatal(err)
	}
	if len(deny.Fleet) != 3 || len(deny.Each) != 9 || len(deny.Bare) != 3 {
		t.Errorf("time to deny: %+v", deny)
	}
	rollout, err := f.Rollout(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(rollout.Away) != 3 || len(rollout.Unserved) != 3 || slices.Min(rollout.Unserved) <= 0 || rollout.Connections < 3 || rollout.Connections > rollout.Stated {
		t.Errorf("rollout: %+v", rollout)
	}
	r := Report{Command: "test", Machine: []string{"here"}, Deny: []Deny{deny}, Rest: []Rest{rest}, Rollouts: []Rollout{rollout}}
	if text := r.Markdown(); strings.Count(text, "\n| 3 |") != 3 || strings.Contains(text, "NaN") {
		t.Error(text)
	}
}

func TestMissedPromisesAreNotPassedOver(t *testing.T) {
	t.Parallel()
	slow := Took{time.Second}
	fast := Took{time.Millisecond}
	for name, d := range map[string]Deny{
		"median of each": {Sidecars: 50, Fleet: fast, Each: slow, Bare: fast},
		"p99 of last":    {Sidecars: 50, Fleet: slow, Each: fast, Bare: slow},
		"bare chain":     {Sidecars: 10, Fleet: Took{3 * time.Millisecond}, Each: fast, Bare: fast},
	} {
		if r := (Report{Deny: []Deny{d}}); r.Judge() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if r := (Report{Deny: []Deny{{Sidecars: 50, Fleet: fast, Each: fast, Bare: fast}}}); r.Judge() != nil {
		t.Error(r.Judge())
	}
}
