package relay

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/fleet"
)

// reportAs has sidecars say how far they have read.
const reportAs = `UPDATE keysidecar.instances SET cursor_seq = $2, timeline = split_part(keysidecar.registry_identity(), '/', 1), reported_at = clock_timestamp() WHERE instance = $1`

func (s *site) register(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		s.exec(t, `SELECT keysidecar.register(gen_random_uuid(), $1, 3000, 0, 'fail_closed', 'v1')`, name)
	}
}

// fresh looks without waiting for an older look to be over.
func (k *keeper) fresh(search string) *fleet.Report {
	k.t.Helper()
	k.clock.Advance(2 * reportFor)
	report, why := k.Fleet(k.t.Context(), search)
	if why != "" {
		k.t.Fatal(why)
	}
	return report
}

// What is behind must be told apart from what is not, and come first.
func TestTheFleetsStatesAreMixedUp(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	if r := k.fresh(""); r.Sidecars.All != 0 || r.Found != 0 || r.Led || len(r.List)+len(r.Versions)+len(r.Changes) != 0 || !r.CaptureIntact || !r.RegistryComplete {
		t.Errorf("an empty fleet: %+v", r)
	}
	s.register(t, "current", "reading", "behind", "other history", "silent", "starting", "leaving")
	s.issue(t, 2)
	s.exec(t, "UPDATE keysidecar.events SET occurred_at = occurred_at - interval '11 seconds'")
	old := s.head(t)
	s.exec(t, "INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('pk_live_1', 'm_1', 'opaque')")
	s.exec(t, "UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'pk_live_1'")
	s.exec(t, "UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = 'm_1'")
	head := s.head(t)
	s.exec(t, reportAs, "current", head)
	s.exec(t, reportAs, "reading", old)
	s.exec(t, reportAs, "behind", old-1)
	s.exec(t, reportAs, "other history", head)
	s.exec(t, "UPDATE keysidecar.instances SET timeline = '0000FFFF' WHERE instance = 'other history'")
	s.exec(t, reportAs, "silent", head)
	s.exec(t, "UPDATE keysidecar.instances SET reported_at = reported_at - interval '2 minutes' WHERE instance = 'silent'")
	s.exec(t, "UPDATE keysidecar.instances SET marked_at = now(), version = 'v0' WHERE instance = 'leaving'")
	s.exec(t, "UPDATE keysidecar.instances SET version = 'v2' WHERE instance = 'starting'")

	r := k.fresh("")
	if r.Sidecars != (fleet.Counts{All: 7, Current: 1, Reading: 1, Behind: 2, Silent: 1, Starting: 1, Leaving: 1}) || r.Found != 7 {
		t.Errorf("counted: %+v, found %d", r.Sidecars, r.Found)
	}
	var order []string
	for _, i := range r.List {
		order = append(order, i.Name)
		if want := strings.ReplaceAll(i.Name, "other history", "behind"); string(i.State) != want {
			t.Errorf("%s is %s", i.Name, i.State)
		}
		switch i.Name {
		case "behind":
			if i.LagMS < 11_000 || *i.Cursor != old-1 {
				t.Errorf("%+v", i)
			}
		case "current":
			if i.LagMS != 0 || i.BoundMS != 3000 || i.Policy != "fail_closed" || i.Version != "v1" {
				t.Errorf("%+v", i)
			}
		case "starting":
			if i.Cursor != nil {
				t.Errorf("%+v", i)
			}
		}
	}
	if want := []string{"behind", "other history", "silent", "starting", "leaving", "reading", "current"}; !slices.Equal(order, want) {
		t.Errorf("listed as %q", order)
	}
	if !slices.Equal(r.Versions, []fleet.VersionCount{{Version: "v1", Count: 5}, {Version: "v2", Count: 1}}) {
		t.Errorf("versions: %+v", r.Versions)
	}
	if len(r.Changes) != 2 || r.Changes[0].Kind != "owner_changed" || r.Changes[0].Subject != event.Pseudonym("m_1") ||
		r.Changes[1].Kind != "revoked" || r.Changes[1].Subject != event.Pseudonym("pk_live_1") || r.Changes[1].Acknowledged != 2 {
		t.Errorf("changes: %+v", r.Changes)
	}
	if text, err := json.Marshal(r); err != nil || strings.Contains(string(text), "pk_live_1") || strings.Contains(string(text), "m_1") {
		t.Errorf("a key or owner is named: %s %v", text, err)
	}
	if r := k.fresh("HIST"); r.Found != 1 || len(r.List) != 1 || r.List[0].Name != "other history" || r.Sidecars.All != 7 {
		t.Errorf("searched: %+v", r)
	}
	if r := k.fresh("%"); r.Found != 0 {
		t.Errorf("a search is a pattern: %+v", r)
	}
}

func TestALargeFleetIsListedWhole(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	s.exec(t, `INSERT INTO keysidecar.instances (registration, instance, max_staleness_ms, stale_limit_ms, policy, version, cursor_seq, timeline)
		SELECT gen_random_uuid(), 'pod-' || i, 3000, 0, 'fail_closed', 'v' || i % 40, i % 7, split_part(keysidecar.registry_identity(), '/', 1) FROM generate_series(1, 10000) i`)
	s.issue(t, 10)
	begun := time.Now()
	r := k.fresh("")
	t.Logf("a look at 10,000 sidecars took %v", time.Since(begun))
	if len(r.List) != listed || r.Found != 10_000 || r.Sidecars.All != 10_000 || len(r.Versions) != listedRuns {
		t.Errorf("%d listed of %d found of %d, %d versions", len(r.List), r.Found, r.Sidecars.All, len(r.Versions))
	}
	if text, err := json.Marshal(r); err != nil || len(text) > 32<<10 {
		t.Errorf("%d bytes: %v", len(text), err)
	}
}

// Many who look must not mean many questions.
func TestEveryLookAsksTheDatabase(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	first := k.fresh("")
	s.register(t, "a")
	if again, why := k.Fleet(t.Context(), ""); why != "" || again != first {
		t.Errorf("asked again at once: %+v %s", again, why)
	}
	if other, why := k.Fleet(t.Context(), "a"); why != "" || other.Found != 1 {
		t.Errorf("another search: %+v %s", other, why)
	}
}

// A relay says who leads, and a page on a relay without a database says why.
func TestLeadershipIsNotTold(t *testing.T) {
	s := newSite(t)
	k := newKeeper(t, s)
	f := start(t, s, nil)
	f.untilLeader(t)
	r := k.fresh("")
	if !r.Led || r.Leader != f.name {
		t.Errorf("led %v by %q, not %q", r.Led, r.Leader, f.name)
	}
	eventually(t, "a measurement", func() bool { return len(f.History()) > 0 })
	f.stop()
	eventually(t, "the end of the lead", func() bool { return !k.fresh("").Led })
	f.clock.Advance(HistoryOver)
	if n := len(f.History()); n != 0 {
		t.Errorf("%d samples are older than what is drawn", n)
	}
	k.opts.DSN = func() (string, error) { return "", errors.New("no such file") }
	k.clock.Advance(2 * reportFor)
	if r, why := k.Fleet(t.Context(), ""); r != nil || why != "connection" {
		t.Errorf("%v %q", r, why)
	}
}
