package statuspage

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/fleet"
)

var now = time.Date(2026, 11, 21, 10, 15, 30, 0, time.UTC)

// healthy is a sidecar that nothing is wrong with.
func healthy() *Sidecar {
	s := &Sidecar{
		Instance: "checkout-1", Version: "1.2.3", Now: now, Store: "postgres",
		Warmed: true, Fresh: true, Complete: true, CaptureIntact: true, HasAge: true,
		Age: 412 * time.Millisecond, MaxStaleness: 3 * time.Second, FenceTook: 600 * time.Microsecond,
		Cursor: 1234, Head: 1234, Entries: 1000, Capacity: 100000,
		Lookups: Lookups{Memory: 999, Read: 1}, Recently: Lookups{Memory: 10},
		Every: 2 * time.Second, Over: 5 * time.Minute,
		Postgres: &Postgres{Server: "10.0.0.7:5432", Open: 2, Most: 2},
		Broker:   &Broker{Connected: true, Host: "mq:5672", Queue: "keysidecar.q.checkout-1"},
		Audit:    Audit{Compared: 20, Age: time.Second, Done: true}, HasReceipts: true,
		Events: []Event{{Seq: 1234, Kind: "revoked", Subject: "0a1b2c3d4e5f", Path: "queue", Lag: 2 * time.Millisecond, AppliedAt: now.Add(-3 * time.Second)}},
	}
	for i := range 150 {
		s.History = append(s.History, Sample{Ago: time.Duration(150-i) * 2 * time.Second, Oldest: time.Second, State: Fresh})
	}
	return s
}

// following is a fleet of n that nothing is wrong with.
func following(n int) *Fleet {
	published := int64(200)
	f := &Fleet{
		Instance: "relay-1", Version: "1.2.3", Now: now, Leads: true, Connected: true, Host: "mq:5672", Every: 2 * time.Second, Over: 10 * time.Minute,
		Report: fleet.Report{
			Led: true, Leader: "relay-1/7", Published: 1234, Head: 1234, PublishedMS: &published, CaptureIntact: true, RegistryComplete: true,
			Sidecars: fleet.Counts{All: n, Current: n}, Versions: []fleet.VersionCount{{Version: "1.2.3", Count: n}}, Found: n,
			Changes: []fleet.Change{{Seq: 1234, Kind: "revoked", Subject: "0a1b2c3d4e5f", AgeMS: 1000, Acknowledged: n}},
		},
		History: []fleet.Sample{{Ago: 4 * time.Second}, {Ago: 2 * time.Second, Backlog: 3}},
	}
	cursor := int64(1234)
	for i := range min(n, 50) {
		f.List = append(f.List, fleet.Instance{Name: fmt.Sprintf("checkout-%d", i), Version: "1.2.3", State: fleet.Current, Cursor: &cursor, ReportedMS: 1000, BoundMS: 3000, Policy: "fail_closed"})
	}
	return f
}

func show(t *testing.T, write func(http.ResponseWriter) error) (string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	if err := write(w); err != nil {
		t.Fatal(err)
	}
	return w.Body.String(), w.Header()
}

func (s *Sidecar) show(t *testing.T) string {
	t.Helper()
	p := New()
	body, _ := show(t, func(w http.ResponseWriter) error { return p.Sidecar(w, s) })
	return text(body)
}

func (f *Fleet) show(t *testing.T) string {
	t.Helper()
	p := New()
	body, _ := show(t, func(w http.ResponseWriter) error { return p.Fleet(w, f) })
	return text(body)
}

// text is what a page says, in one line.
func text(body string) string {
	_, main, _ := strings.Cut(body, "<main>")
	main, _, _ = strings.Cut(main, "</main>")
	main = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(main, " ")
	return strings.Join(strings.Fields(strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&#43;", "+").Replace(main)), " ")
}

// A style or script that the policy does not allow is one that the browser does not
// use, and one that it allows besides could be anybody's.
func TestThePolicyFitsWhatStandsInThePage(t *testing.T) {
	t.Parallel()
	p := New()
	for name, write := range map[string]func(http.ResponseWriter) error{
		"sidecar": func(w http.ResponseWriter) error { return p.Sidecar(w, healthy()) },
		"fleet":   func(w http.ResponseWriter) error { return p.Fleet(w, following(3)) },
	} {
		body, header := show(t, write)
		policy := header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'", "connect-src 'self'"} {
			if !slices.Contains(strings.Split(policy, "; "), want) {
				t.Errorf("%s: the policy lacks %s: %s", name, want, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Errorf("%s: the policy allows too much: %s", name, policy)
		}
		for _, element := range []string{"style", "script"} {
			found := regexp.MustCompile(`(?s)<`+element+`[^>]*>(.*?)</`+element+`>`).FindAllStringSubmatch(body, -1)
			if len(found) != 1 || !strings.Contains(policy, element+"-src "+hash(found[0][1])) {
				t.Errorf("%s: the %s is not the one that the policy allows", name, element)
			}
		}
		if m := regexp.MustCompile(`(?i)\s(style|on[a-z]+|src|srcset)=`).FindString(body); m != "" {
			t.Errorf("%s: the page has an attribute%s", name, m)
		}
		for _, m := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(body, -1) {
			if to := html.UnescapeString(m[1]); !strings.HasPrefix(to, "?") && !strings.HasPrefix(to, "data:image/svg+xml,") {
				t.Errorf("%s: the page links to %s", name, m[1])
			}
		}
		if header.Get("X-Frame-Options") != "DENY" || header.Get("Referrer-Policy") != "no-referrer" || header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: headers %v", name, header)
		}
	}
}

// fill sets every string that v holds.
func fill(v reflect.Value, with string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fill(v.Elem(), with)
		}
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok {
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), with)
		}
	case reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i), with)
		}
	case reflect.String:
		v.SetString(with)
	default:
	}
}

// Names of sidecars come from whoever starts one, and searches from whoever writes a
// link.
func TestWhatIsShownCannotBecomeAPartOfThePage(t *testing.T) {
	t.Parallel()
	p := New()
	for _, evil := range []string{`"><script>alert(1)</script>`, `'><img onerror=alert(1)>`, `</title></style><b>`, "javascript:alert(1)", "{{.}}", "\x00\xff"} {
		s, f := healthy(), following(3)
		s.Receipts = []Receipt{{}}
		fill(reflect.ValueOf(s), evil)
		fill(reflect.ValueOf(f), evil)
		f.DatabaseError = ""
		broken := following(0)
		broken.DatabaseError = evil
		for name, write := range map[string]func(http.ResponseWriter) error{
			"sidecar": func(w http.ResponseWriter) error { return p.Sidecar(w, s) },
			"fleet":   func(w http.ResponseWriter) error { return p.Fleet(w, f) },
			"broken":  func(w http.ResponseWriter) error { return p.Fleet(w, broken) },
		} {
			body, _ := show(t, write)
			if strings.Count(body, "<script") != 1 || strings.Contains(body, "<img") || strings.Contains(body, "<b>") || strings.Count(body, "</title>") != 1 ||
				regexp.MustCompile(`(?i)(href|src|action)="[^"?]*javascript:`).MatchString(body) {
				t.Errorf("%s: %q stands in the page", name, evil)
			}
		}
	}
}

// Whoever opens the page at night must read what is wrong and where to go on.
func TestASidecarsStatesAreSaidInWords(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Sidecar)
		want   []string
	}{
		"fresh":   {func(*Sidecar) {}, []string{"● Fresh", "up to 3 s behind Postgres", "412 ms", "up to date", "0a1b2c3d4e5f", "queue", "Nobody waits for a receipt here."}},
		"loading": {func(s *Sidecar) { *s = Sidecar{Now: now, Store: "postgres", MaxStaleness: time.Second} }, []string{"Loading the keys", "answered 503", "Nothing has been loaded yet.", "Nothing has changed since this process started."}},
		"cannot load": {func(s *Sidecar) {
			*s = Sidecar{Now: now, Store: "postgres", MaxStaleness: time.Second, FenceError: "schema"}
		}, []string{"■ Cannot load the keys", "Run keysidecar migrate", "“When something is wrong”"}},
		"unavailable": {func(s *Sidecar) { s.Fresh, s.FenceError = false, "unreachable" },
			[]string{"■ Unavailable", "Revoked keys are not accepted", "Postgres cannot be reached.", "docs/operations.md, section “KeysidecarFreshnessLapsed”"}},
		"stale": {func(s *Sidecar) {
			s.Fresh, s.ServesStale, s.StaleLimit, s.FenceError = false, true, time.Minute, "timeout"
		},
			[]string{"▲ Serving stale answers", "until 1 min have passed", "serve_stale"}},
		"one fence failed": {func(s *Sidecar) { s.FenceError = "timeout" }, []string{"● Fresh", "▲ Postgres does not answer in time."}},
		"capture lost": {func(s *Sidecar) {
			s.Fresh, s.HasAge, s.CaptureIntact, s.FenceError = false, false, false, "capture_lost"
		}, []string{"“KeysidecarCaptureLost”", "keysidecar.reset()", "dropped"}},
		"no broker":  {func(s *Sidecar) { s.Broker = &Broker{LastError: "auth"} }, []string{"● Fresh", "user or password was refused", "“KeysidecarBrokerDisconnected”"}},
		"broker off": {func(s *Sidecar) { s.Broker = nil }, []string{"not configured", "by fences alone"}},
		"drift":      {func(s *Sidecar) { s.Audit.Differences = 2 }, []string{"2 keys so far", "“KeysidecarDriftFound”"}},
		"by fence": {func(s *Sidecar) {
			e := s.Events[0]
			e.Path = "fence"
			s.Events = []Event{e, e, e}
		}, []string{"3 changes of the last minute were brought by fences", "“KeysidecarFastPathDegraded”"}},
		"announced":  {func(s *Sidecar) { s.Head = 1240 }, []string{"6 behind", "1,240"}},
		"incomplete": {func(s *Sidecar) { s.Complete = false }, []string{"no: unknown keys cost a read"}},
		"receipt": {func(s *Sidecar) {
			s.Receipts = []Receipt{{Subject: "ffff", Kind: "revoked", Acknowledged: 2, Awaited: 1, WaitedMS: 40, LeftMS: 2900}, {Subject: "eeee", Kind: "revoked", Done: true, Complete: true, Acknowledged: 3}}
		}, []string{"1 receipt in progress.", "in progress ffff 2 of 3", "2.9 s", "complete eeee 3 of 3"}},
		"file": {func(s *Sidecar) { s.Store, s.Postgres, s.Broker, s.HasReceipts = "file", nil, nil, false }, []string{"behind the key file", "A key file needs no broker."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := healthy()
			test.change(s)
			have := s.show(t)
			for _, want := range test.want {
				if !strings.Contains(have, want) {
					t.Errorf("the page does not say %q:\n%s", want, have)
				}
			}
		})
	}
}

func TestAFleetsStatesAreSaidInWords(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change      func(*Fleet)
		want, never []string
	}{
		"healthy": {func(*Fleet) {}, []string{"● All sidecars follow", "3 sidecars read every change", "leads", "Every change has been published.", "all 3", "a receipt for any of them is complete"}, []string{"docs/operations.md"}},
		"stands by": {func(f *Fleet) { f.Leads, f.Connected, f.History = false, false, nil },
			[]string{"stands by", "relay-1/7", "The chart is on the page of the relay that leads."}, []string{"docs/operations.md"}},
		"no leader": {func(f *Fleet) { f.Led, f.Leads, f.Connected, f.History = false, false, false, nil },
			[]string{"■ No relay leads", "by the next fence", "“KeysidecarNoLeader”", "Led last"}, nil},
		"no database": {func(f *Fleet) { *f = Fleet{Now: now, DatabaseError: "connection"} }, []string{"■ No database", "cannot reach Postgres", "cut off", "“KeysidecarNoLeader”"}, []string{"No sidecar is registered"}},
		"pooled":      {func(f *Fleet) { *f = Fleet{Now: now, DatabaseError: "pooled"} }, []string{"through a pooler", "relay.dsn"}, nil},
		"no broker":   {func(f *Fleet) { f.Connected, f.BrokerError = false, "unreachable" }, []string{"leads and has no broker: it cannot be reached", "“KeysidecarRelayLag”"}, nil},
		"behind": {func(f *Fleet) {
			f.Sidecars.Current, f.Sidecars.Behind, f.Changes[0].Acknowledged = 2, 1, 2
			f.List[0].State, f.List[0].LagMS = fleet.Behind, 12000
		}, []string{"▲ 1 sidecar is behind", "“KeysidecarSidecarsBehind”", "checkout-0 ■ behind 12 s", "2 of 3", "One has not been read by all"}, nil},
		"silent":         {func(f *Fleet) { f.Sidecars.Current, f.Sidecars.Silent = 1, 2 }, []string{"▲ 2 sidecars are silent", "within four minutes"}, nil},
		"nobody":         {func(f *Fleet) { *f = *following(0); f.Changes = nil }, []string{"○ No sidecar is registered", "has none."}, nil},
		"capture":        {func(f *Fleet) { f.CaptureIntact = false }, []string{"“KeysidecarCaptureLost”", "not in place"}, nil},
		"gate":           {func(f *Fleet) { f.GateHeld = time.Minute }, []string{"“KeysidecarGateHeld”", "held the gate for 1 min"}, nil},
		"after failover": {func(f *Fleet) { f.RegistryComplete = false }, []string{"“KeysidecarReceiptsSlow”"}, nil},
		"two versions":   {func(f *Fleet) { f.Versions = append(f.Versions, fleet.VersionCount{Version: "1.3.0", Count: 1}) }, []string{"2 versions run side by side", "“KeysidecarVersionSkew”"}, nil},
		"nothing found":  {func(f *Fleet) { f.Search, f.Found, f.List = "x", 0, nil }, []string{"No sidecar has a name that contains this."}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := following(3)
			test.change(f)
			have := f.show(t)
			for _, want := range test.want {
				if !strings.Contains(have, want) {
					t.Errorf("the page does not say %q:\n%s", want, have)
				}
			}
			for _, never := range test.never {
				if strings.Contains(have, never) {
					t.Errorf("the page says %q:\n%s", never, have)
				}
			}
		})
	}
}

// A page that lists ten thousand sidecars is of no use to anybody.
func TestAPageOfALargeFleetStaysSmall(t *testing.T) {
	t.Parallel()
	f := following(10_000)
	for i := range 300 {
		f.History = append(f.History, fleet.Sample{Ago: time.Duration(600-2*i) * time.Second, Backlog: int64(i)})
	}
	for i := range 12 {
		f.Changes = append(f.Changes, fleet.Change{Seq: int64(i), Kind: "revoked", Subject: "0a1b2c3d4e5f"})
	}
	p := New()
	body, _ := show(t, func(w http.ResponseWriter) error { return p.Fleet(w, f) })
	if len(body) > 80<<10 {
		t.Errorf("the page has %d bytes", len(body))
	}
	if have := text(body); !strings.Contains(have, "50 of 10,000 sidecars: those that are behind come first.") {
		t.Errorf("it does not say how many are not listed:\n%s", have)
	}
}

// Whoever follows the name of a runbook must find it.
func TestEveryRunbookIsAHeadingOfTheDocuments(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(data), -1) {
		headings[m[1]] = true
	}
	named := []string{runLapsed, runCapture, runDrift, runLeader, runLag, runFastPath, runBroker, runBehind, runGate, runReceipts, runVersions, runWrong}
	for _, category := range []string{"unreachable", "timeout", "standby", "capture_lost", "unregistered", "schema", "history_over", "reset", "bad_row", "file", "new"} {
		for _, store := range []string{"postgres", "file"} {
			n := fenceNote(category, store)
			if n.Text == "" || n.Do == "" {
				t.Errorf("%s has no words", category)
			}
			named = append(named, n.Runbook)
		}
	}
	for _, category := range []string{"standby", "pooled", "bad_dsn", "timeout", "connection", "sqlstate_28P01"} {
		named = append(named, databaseNote(category).Runbook)
	}
	for _, name := range named {
		if !headings[name] {
			t.Errorf("docs/operations.md has no heading %q", name)
		}
	}
}
