package recipes

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
	"github.com/keysidecar/keysidecar/test/evidence"
)

// each runs a test for every program, several at once.
func each(t *testing.T, test func(t *testing.T, p program)) {
	t.Run("programs", func(t *testing.T) {
		for _, p := range world.programs {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				test(t, p)
			})
		}
	})
}

func cannotTell(line string) bool { return strings.HasPrefix(line, "cannot tell") }

func TestARecipeTellsValidRevokedAndUnknownApart(t *testing.T) {
	issue(t, "pk_told")
	issue(t, "pk_told_revoked")
	revoke(t, "pk_told_revoked")
	if _, err := world.sidecar.Until(t.Context(), "pk_told_revoked", cluster.Code("revoked")); err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, p program) {
		lines, exit := p.tell(t, world.at, "pk_told", "pk_told_revoked", "pk_told_nobody", "PK_TOLD")
		if want := []string{"yes", "no revoked", "no unknown_key", "no unknown_key"}; !slices.Equal(lines, want) || exit != 1 {
			t.Errorf("%q and exit status %d, want %q and 1", lines, exit, want)
		}
		if lines, exit := p.tell(t, world.at, "pk_told"); lines[0] != "yes" || exit != 0 {
			t.Errorf("%q and exit status %d, want yes and 0", lines, exit)
		}
	})
}

// Ids from outside must not reach another route, another key or a shell, and none
// of them is a key's.
func TestARecipeRefusesHostileIDs(t *testing.T) {
	const good = "pk_hostile"
	issue(t, good)
	hostile := []string{
		"", ".", "..", "../status", "../../v1/status", "/" + good, good + "/", good + "?x", "good?x", good + "#x", good + " ", " " + good,
		good + "%20", good + "%00", "%2e%2e%2fstatus", "..%2Fstatus", good + "\r\nHost: x", good + "\nx: y", good + "\t", "\x7f",
		good + "\\", "*", "[1-3]", "{" + good + "}", "@/etc/passwd", "$(id)", "`id`", "'", `"`, `{"valid":true}`, "ünï", "\xff\xfe",
		"http://example.org/", "//example.org", strings.Repeat("a", 257), strings.Repeat("a", 300), strings.Repeat("%", 300),
	}
	// These could be keys' ids.
	strange := []string{"-h", "--help", "-K", "~", "...", "a:b=c+d", strings.Repeat("a", 256)}
	each(t, func(t *testing.T, p program) {
		lines, exit := p.tell(t, world.at, append(append([]string{good}, hostile...), strange...)...)
		for i, line := range lines[1:] {
			id, want := append(hostile, strange...)[i], "no bad_key_id"
			if i >= len(hostile) {
				want = "no unknown_key"
			}
			if line != want {
				t.Errorf("%q: %s, want %s", id, line, want)
			}
		}
		if lines[0] != "yes" || exit != 1 {
			t.Errorf("the good one: %s; exit status %d", lines[0], exit)
		}
		// What does not fit into a request is not let through either.
		if lines, exit := p.tell(t, world.at, strings.Repeat("a", 20_000)); lines[0] == "yes" || exit == 0 {
			t.Errorf("20,000 bytes: %q and exit status %d", lines, exit)
		}
		// The same over lines.
		s := p.open(t, world.at)
		for _, id := range []string{"", "..", "../status", good + "?x", good + " ", strings.Repeat("a", 300)} {
			if line := s.ask(t, id); line != "no bad_key_id" {
				t.Errorf("%q as a line: %s", id, line)
			}
		}
		if line := s.ask(t, good); line != "yes" {
			t.Errorf("the good one as a line: %s", line)
		}
	})
}

// Whoever believes any 200, any body, or half of one, lets keys pass that nobody
// asked about.
func TestARecipeTakesNothingForAVerdictThatIsNone(t *testing.T) {
	var all sync.WaitGroup
	for _, p := range world.programs {
		s := p.open(t, world.fake)
		all.Go(func() {
			for _, n := range nonsense {
				if n.keyID == "drips" && !p.whole {
					continue
				}
				begun := time.Now()
				if line := s.ask(t, n.keyID); !cannotTell(line) {
					t.Errorf("%s, %s: %s", p.name, n.keyID, line)
				}
				if took := time.Since(begun); took > 10*time.Second {
					t.Errorf("%s, %s: after %v", p.name, n.keyID, took)
				}
			}
			if line := s.ask(t, "honest"); line != "yes" {
				t.Errorf("%s, honest: %s", p.name, line)
			}
		})
	}
	all.Wait()
}

// Nobody can tell while Postgres is silent for longer than the promise, while the
// sidecar hangs, and while there is none; and afterwards everything is as before.
func TestARecipeAcceptsNothingThatCannotBeTold(t *testing.T) {
	issue(t, "pk_told_later")
	var sessions []*session
	for _, p := range world.programs {
		s := p.open(t, world.at)
		if line := s.ask(t, "pk_told_later"); line != "yes" {
			t.Fatalf("%s: %s", p.name, line)
		}
		sessions = append(sessions, s)
	}
	// all asks every program at once.
	all := func(what string, want func(line string) bool, keyIDs ...string) {
		t.Helper()
		var asked sync.WaitGroup
		for i, p := range world.programs {
			asked.Go(func() {
				for _, id := range keyIDs {
					if line := sessions[i].ask(t, id); !want(line) {
						t.Errorf("%s, %s, %s: %s", p.name, what, id, line)
					}
				}
			})
		}
		asked.Wait()
	}
	recovered := func(what string) {
		t.Helper()
		if err := ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, p := range world.programs {
			if err := until(t.Context(), p.name+" accepts again", func() bool { return sessions[i].ask(t, "pk_told_later") == "yes" }); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}

	if err := world.PG.Pause(); err != nil {
		t.Fatal(err)
	}
	_, err := world.sidecar.Until(t.Context(), "pk_told_later", cluster.Code("unavailable"))
	if err == nil {
		all("stale", cannotTell, "pk_told_later", "pk_told_nobody")
	}
	if again := world.PG.Resume(); err != nil || again != nil {
		t.Fatal(err, again)
	}
	recovered("Postgres is back")

	if err := world.sidecar.Pause(); err != nil {
		t.Fatal(err)
	}
	all("hanging", cannotTell, "pk_told_later")
	if err := world.sidecar.Resume(); err != nil {
		t.Fatal(err)
	}
	recovered("the sidecar goes on")

	if err := world.sidecar.Kill(); err != nil {
		t.Fatal(err)
	}
	all("down", cannotTell, "pk_told_later", "pk_told_nobody")
	for _, p := range world.programs {
		if lines, exit := p.tell(t, world.at, "pk_told_later"); !cannotTell(lines[0]) || exit != 2 {
			t.Errorf("%s, down: %q and exit status %d", p.name, lines, exit)
		}
	}
	if err := world.sidecar.Start(); err != nil {
		t.Fatal(err)
	}
	recovered("the sidecar is back")
}

// The time from the acknowledged commit to the first refusal. It writes the table
// of programs in docs/integrations.md.
func TestARevokedKeyStopsAtTheRecipe(t *testing.T) {
	var rows strings.Builder
	row := func(name, transport, file string, took []time.Duration) {
		median, worst := took[len(took)/2], took[len(took)-1]
		if median > fenceInterval/4 {
			t.Errorf("%s: median %v: not because of the message", name, median)
		}
		text := fmt.Sprintf("| %s | %s | [%s](../examples/%s) | `no revoked` | `no unknown_key` | `cannot tell` | %.1f ms (%.1f) | by test |\n",
			name, transport, file, file, median.Seconds()*1000, worst.Seconds()*1000)
		rows.WriteString(text)
		t.Log(strings.TrimSpace(text))
	}
	for i, p := range world.programs {
		s := p.open(t, world.at)
		row(p.name, p.transport(), p.file, revokeAndAsk(t, s, fmt.Sprint("pk_timed_", i), "yes"))
	}
	s, _ := subscribe(t)
	row("Go, own cache, [events](events.md)", "Unix socket, RabbitMQ", "events/main.go", revokeAndAsk(t, s, "pk_timed_cached", fromHere))
	if *write != "" && !t.Failed() {
		text := "| recipe | transport | program | revoked key | unknown key | unavailable sidecar | revocation to refusal, median (worst) | checked |\n" +
			"|---|---|---|---|---|---|---|---|\n" + rows.String() + fmt.Sprintf("\nMeasured on %d cores.\n", runtime.NumCPU())
		if err := evidence.WriteSection(*write, "programs", text); err != nil {
			t.Fatal(err)
		}
	}
}

// revokeAndAsk revokes keys that a program accepts with the line given, one after
// another, and returns how long each was accepted after that, sorted.
func revokeAndAsk(t *testing.T, s *session, prefix, accepted string) (took []time.Duration) {
	t.Helper()
	for i := range 11 {
		id := fmt.Sprintf("%s_%d", prefix, i)
		issue(t, id)
		if err := until(t.Context(), id+" is accepted", func() bool { return s.ask(t, id) == accepted }); err != nil {
			t.Fatal(err)
		}
		committed := revoke(t, id)
		// A millisecond apart: asking without a pause would take the processors from the
		// relay and the broker, which are on this machine, too.
		line := ""
		if err := until(t.Context(), id+" is refused", func() bool {
			line = s.ask(t, id)
			return !strings.HasPrefix(line, "yes")
		}); err != nil || line != "no revoked" || time.Since(committed) > maxStaleness {
			t.Fatalf("%s, %v after the revocation: %s, %v", id, time.Since(committed), line, err)
		}
		took = append(took, time.Since(committed))
	}
	slices.Sort(took)
	return took
}
