package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/fleet"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/receipt"
	"github.com/keysidecar/keysidecar/internal/statuspage"
)

// sidecarOptions are those of a sidecar whose every part has something to tell.
func sidecarOptions() AdminOptions {
	return AdminOptions{
		Address: ":0", Gatherer: prometheus.NewRegistry(), Instance: "i-1", Version: "1.2.3",
		Status: func() keystore.Status {
			return keystore.Status{Warmed: true, Fresh: true, CaptureIntact: true, Entries: 7, StoreKind: "postgres", MaxStaleness: 3 * time.Second,
				AsOf: keystore.AsOf{History: "9f2c", Seq: 9, Age: time.Second}, Announced: 11, FenceTook: 1500 * time.Microsecond}
		},
		Activity: func() []keystore.Applied {
			at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			return []keystore.Applied{{Seq: 9, Kind: event.Revoked, KeyID: "pk_live_1", ByQueue: true, OccurredAt: at, AppliedAt: at.Add(1500 * time.Microsecond)}}
		},
		Glance:  func() keystore.Glance { return keystore.Glance{Fresh: true} },
		Lookups: func() keystore.Lookups { return keystore.Lookups{Memory: 30, Read: 10} },
		Receipts: func() []receipt.Progress {
			return []receipt.Progress{{Target: receipt.Target{KeyID: "pk_live_1"}, Kind: "revoked", Acknowledged: 2, Awaited: 1, Waited: 40 * time.Millisecond}}
		},
		Broker:     func() *statuspage.Broker { return &statuspage.Broker{Connected: true, Host: "mq:5672"} },
		Components: map[string]func() any{"broker": func() any { return map[string]bool{"connected": true} }},
	}
}

// relayOptions are those of a relay.
func relayOptions() AdminOptions {
	return AdminOptions{
		Address: ":0", Gatherer: prometheus.NewRegistry(), Instance: "relay-1", Version: "1.2.3",
		Components: map[string]func() any{"relay": func() any { return map[string]bool{"leader": true} }},
		Fleet: func(_ context.Context, search string) *statuspage.Fleet {
			return &statuspage.Fleet{Leads: true, Report: fleet.Report{Led: true, Search: search, Sidecars: fleet.Counts{All: 3, Current: 3}, List: []fleet.Instance{}}}
		},
	}
}

// ask asks an admin listener's handler.
func ask(t *testing.T, opts AdminOptions, method, target, accept string) *http.Response {
	t.Helper()
	a, err := NewAdmin(opts)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, target, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	a.http.Handler.ServeHTTP(w, r)
	return w.Result()
}

// A program that has always read JSON must not find a page one day.
func TestOnlyWhoAsksForAPageGetsOne(t *testing.T) {
	t.Parallel()
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
	for _, tt := range []struct {
		target, accept string
		status         int
		html           bool
	}{
		{"/statusz", "", 200, false},
		{"/statusz", "*/*", 200, false},
		{"/statusz", "application/json", 200, false},
		{"/statusz", "application/json, text/html;q=0.5", 200, false},
		{"/statusz", "text/html;q=0", 200, false},
		{"/statusz", "text/html;q=0.1, */*", 200, false},
		{"/statusz", "image/png", 200, false},
		{"/statusz", browser, 200, true},
		{"/statusz", "TEXT/HTML", 200, true},
		{"/statusz", "text/html, application/json;q=0.5", 200, true},
		{"/statusz?format=json", browser, 200, false},
		{"/statusz?format=html", "", 200, true},
		{"/statusz?format=xml", browser, 400, false},
		{"/statusz?q=" + strings.Repeat("x", maxSearch+1), "", 400, false},
	} {
		for name, opts := range map[string]AdminOptions{"sidecar": sidecarOptions(), "relay": relayOptions()} {
			res := ask(t, opts, http.MethodGet, tt.target, tt.accept)
			html := strings.HasPrefix(res.Header.Get("Content-Type"), "text/html")
			if res.StatusCode != tt.status || html != tt.html {
				t.Errorf("%s: %s with %q: %d, a page: %v", name, tt.target, tt.accept, res.StatusCode, html)
			}
			if tt.status == 200 && !html && res.Header.Get("Content-Type") != typeJSON {
				t.Errorf("%s: %s with %q: %s", name, tt.target, tt.accept, res.Header.Get("Content-Type"))
			}
			for header, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Vary": "Accept"} {
				if res.Header.Get(header) != want {
					t.Errorf("%s: %s with %q: %s is %q", name, tt.target, tt.accept, header, res.Header.Get(header))
				}
			}
			if html == (res.Header.Get("Content-Security-Policy") == "") {
				t.Errorf("%s: %s with %q: the policy is %q", name, tt.target, tt.accept, res.Header.Get("Content-Security-Policy"))
			}
		}
	}
	if res := ask(t, sidecarOptions(), http.MethodPost, "/statusz", ""); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", res.StatusCode)
	}
}

// members returns the names of an object, sorted.
func members(t *testing.T, object json.RawMessage) []string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(object, &m); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Members may be added to the JSON, and none may go.
func TestAMemberOfStatuszHasGone(t *testing.T) {
	t.Parallel()
	decode := func(opts AdminOptions) (body map[string]json.RawMessage) {
		res := ask(t, opts, http.MethodGet, "/statusz?q=check", "")
		if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
			t.Fatal(err)
		}
		return body
	}
	sidecar, relay := decode(sidecarOptions()), decode(relayOptions())
	for _, tt := range []struct {
		what string
		in   json.RawMessage
		want string
	}{
		{"keystore", sidecar["keystore"], "as_of audit capacity capture_intact complete entries fresh instance last_fence_error lease_remaining_ms marks max_staleness_ms negative policy promise serves_stale stale_limit_ms store version warmed"},
		{"log", sidecar["log"], "cursor_seq fence_took_ms head_seq"},
		{"lookups", sidecar["lookups"], "memory read recent recent_over_ms stale unavailable"},
		{"history", sidecar["history"], "every_ms samples"},
		{"fleet", relay["fleet"], "capture_intact found head_seq led list published_ms_ago published_seq recent_changes registry_complete search sidecars versions"},
	} {
		if have := strings.Join(members(t, tt.in), " "); have != tt.want {
			t.Errorf("%s has %s, not %s", tt.what, have, tt.want)
		}
	}
	var events []map[string]any
	if err := json.Unmarshal(sidecar["recent_events"], &events); err != nil || len(events) != 1 {
		t.Fatalf("%v %s", err, sidecar["recent_events"])
	}
	for _, name := range []string{"seq", "kind", "subject", "path", "occurred_at", "applied_at", "applied_unix_us", "lag_ms"} {
		if _, ok := events[0][name]; !ok {
			t.Errorf("events have no %s", name)
		}
	}
	for _, name := range []string{"instance", "version", "build", "components", "receipts"} {
		if _, ok := sidecar[name]; !ok {
			t.Errorf("a sidecar has no %s", name)
		}
	}
	for name, body := range map[string]map[string]json.RawMessage{"sidecar": sidecar, "relay": relay} {
		if text, _ := json.Marshal(body); strings.Contains(string(text), "pk_live_1") {
			t.Errorf("%s: a key's id is shown: %s", name, text)
		}
	}
}

func TestARelayWithoutADatabaseSaysSoInJSON(t *testing.T) {
	t.Parallel()
	opts := relayOptions()
	opts.Fleet = func(context.Context, string) *statuspage.Fleet { return &statuspage.Fleet{DatabaseError: "timeout"} }
	var body map[string]any
	if err := json.NewDecoder(ask(t, opts, http.MethodGet, "/statusz", "").Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if body["fleet_error"] != "timeout" || body["fleet"] != nil {
		t.Errorf("%v", body)
	}
}

// A page shows keys by their hashes only.
func TestAKeysNameStandsInAPage(t *testing.T) {
	t.Parallel()
	res := ask(t, sidecarOptions(), http.MethodGet, "/statusz?format=html", "")
	var b strings.Builder
	if err := res.Write(&b); err != nil {
		t.Fatal(err)
	}
	if page := b.String(); strings.Contains(page, "pk_live_1") || strings.Count(page, event.Pseudonym("pk_live_1")) != 2 {
		t.Errorf("%s", page)
	}
}

// What the chart shows is the worst of its time, and no more than it has room for.
func TestTheHistoryHidesAnOutageOrGrows(t *testing.T) {
	t.Parallel()
	opts := sidecarOptions()
	z := newStatusz(&opts)
	now := z.clock.Now()
	const n = 1000
	for i := range n {
		g := keystore.Glance{Fresh: true, Oldest: time.Second, Lookups: keystore.Lookups{Memory: uint64(i)}}
		if i == n-20 {
			g = keystore.Glance{Oldest: 4 * time.Second, Lookups: g.Lookups}
		}
		z.history.Add(measured{now.Add(-time.Duration(n-i) * sampleEvery), g})
	}
	samples := z.samples()
	if len(samples) < 145 || len(samples) > 150 {
		t.Errorf("%d samples", len(samples))
	}
	h := newHistory(samples)
	if len(h.Samples) > jsonSamples+1 {
		t.Errorf("%d steps", len(h.Samples))
	}
	seen := 0
	for _, s := range h.Samples {
		if s.State == statuspage.Unavailable && s.Oldest != nil && *s.Oldest == 4000 {
			seen++
		}
	}
	if seen != 1 {
		t.Errorf("the outage is seen %d times", seen)
	}
	recent, over := recently(samples, statuspage.Lookups{Memory: n})
	if recent.Memory < 145 || recent.Memory > 151 || over > sampleOver {
		t.Errorf("%d look-ups in %v", recent.Memory, over)
	}
}

func TestTheMeasurerOutlivesTheListener(t *testing.T) {
	t.Parallel()
	opts := sidecarOptions()
	z := newStatusz(&opts)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	z.measure(ctx) // returns
	opts.Glance = nil
	z.measure(t.Context()) // has nothing to measure
}
