package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/fleet"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/receipt"
	"github.com/keysidecar/keysidecar/internal/ring"
	"github.com/keysidecar/keysidecar/internal/statuspage"
)

// A sidecar is measured every sampleEvery for its chart, which spans sampleOver. The
// JSON has the same in steps of jsonEvery.
const (
	sampleEvery = 2 * time.Second
	sampleOver  = 5 * time.Minute
	jsonEvery   = 10 * time.Second
	jsonSamples = int(sampleOver / jsonEvery)
)

// maxSearch bounds what a sidecar's name is searched for, in bytes: no name is longer.
const maxSearch = 256

// measured is one glance at the keystore, and when it was taken.
type measured struct {
	at clock.Instant
	keystore.Glance
}

// statusz tells the state of the process, as a page to who asks for one and in JSON to
// all others.
type statusz struct {
	opts    *AdminOptions
	page    *statuspage.Page
	clock   *clock.Clock
	history *ring.Ring[measured]
}

func newStatusz(opts *AdminOptions) *statusz {
	return &statusz{opts: opts, page: statuspage.New(), clock: clock.New(), history: ring.New[measured](int(sampleOver / sampleEvery))}
}

// measure fills the history until ctx ends.
func (z *statusz) measure(ctx context.Context) {
	if z.opts.Glance == nil {
		return
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			z.history.Add(measured{z.clock.Now(), z.opts.Glance()})
		}
	}
}

// ServeHTTP answers GET /statusz?format=&q=.
func (z *statusz) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	query := r.URL.Query()
	html := prefersHTML(r.Header.Values("Accept"))
	switch query.Get("format") {
	case "":
	case "html":
		html = true
	case "json":
		html = false
	default:
		http.Error(w, "format is html or json", http.StatusBadRequest)
		return
	}
	search := query.Get("q")
	if len(search) > maxSearch {
		http.Error(w, fmt.Sprintf("q has at most %d bytes", maxSearch), http.StatusBadRequest)
		return
	}
	var err error
	switch {
	case !html:
		err = z.json(w, r, search)
	case z.opts.Fleet != nil:
		f := z.opts.Fleet(r.Context(), search)
		f.Instance, f.Version, f.Revision, f.Now = z.opts.Instance, z.opts.Version, readBuild().Revision, wallClock()
		err = z.page.Fleet(w, f)
	case z.opts.Status != nil:
		err = z.page.Sidecar(w, z.sidecar())
	default:
		err = z.json(w, r, search)
	}
	if err != nil && r.Context().Err() == nil {
		z.opts.Logger.Error("cannot show the status", zap.Error(err))
		http.Error(w, "internal error", http.StatusInternalServerError) // unless something was written
	}
}

// wallClock is the time for people.
func wallClock() time.Time { return time.Now() } //nolint:forbidigo // shown to people; decides nothing

// prefersHTML reports whether an Accept field names HTML and does not like JSON as
// much. Programs that say nothing, or */*, get JSON.
func prefersHTML(accept []string) bool {
	var html, asJSON, whatever int16
	namesJSON := false
	for _, field := range accept {
		for rest := []byte(field); len(rest) > 0; {
			var element []byte
			element, rest = cutElement(rest)
			typ, q, ok := mediaRange(element)
			switch {
			case !ok:
			case typ == "text/html", typ == "application/xhtml+xml":
				html = max(html, q)
			case typ == typeJSON, typ == "application/*":
				asJSON, namesJSON = max(asJSON, q), true
			case typ == "*/*":
				whatever = max(whatever, q)
			}
		}
	}
	if namesJSON {
		return html > asJSON
	}
	return html > 0 && html >= whatever
}

// statuszBody is what /statusz answers in JSON. Members are only ever added.
type statuszBody struct {
	Instance   string         `json:"instance"`
	Version    string         `json:"version"`
	Build      buildBody      `json:"build"`
	Keystore   *statusBody    `json:"keystore,omitempty"`
	Components map[string]any `json:"components,omitempty"`
	// Fleet is what a relay knows of all sidecars; FleetError why it does not.
	Fleet      *fleet.Report `json:"fleet,omitempty"`
	FleetError string        `json:"fleet_error,omitempty"`
	Log        *logBody      `json:"log,omitempty"`
	Lookups    *lookupsBody  `json:"lookups,omitempty"`
	// Receipts are the waits under way, and the last that are over.
	Receipts []statuspage.Receipt `json:"receipts,omitempty"`
	// Events are those applied last, newest first.
	Events  []eventBody  `json:"recent_events,omitempty"`
	History *historyBody `json:"history,omitempty"`
}

type buildBody struct {
	Go       string `json:"go"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
}

// logBody is how far the log was read.
type logBody struct {
	Cursor int64 `json:"cursor_seq"`
	// Head is the newest event that this process has heard of, if only by a message.
	Head int64 `json:"head_seq"`
	// FenceTook is null before the first answer.
	FenceTook *float64 `json:"fence_took_ms"`
}

// lookupsBody counts look-ups since the process started, and in the last minutes.
type lookupsBody struct {
	statuspage.Lookups
	Recent statuspage.Lookups `json:"recent"`
	// RecentOver is the time that Recent spans.
	RecentOver int64 `json:"recent_over_ms"`
}

// historyBody is the chart's, oldest first.
type historyBody struct {
	Every   int64         `json:"every_ms"`
	Samples []historyStep `json:"samples"`
}

type historyStep struct {
	// Oldest is how old what memory answered by became; null without a lease.
	Oldest *int64 `json:"oldest_ms"`
	// State is the worst of fresh, stale and unavailable.
	State string `json:"state"`
}

func (z *statusz) json(w http.ResponseWriter, r *http.Request, search string) error {
	body := statuszBody{Instance: z.opts.Instance, Version: z.opts.Version, Build: readBuild()}
	if z.opts.Status != nil {
		s := z.opts.Status()
		k := newStatusBody(z.opts.Instance, z.opts.Version, &s)
		body.Keystore = &k
		body.Log = &logBody{Cursor: s.AsOf.Seq, Head: max(s.AsOf.Seq, s.Announced)}
		if s.FenceTook > 0 {
			took := float64(s.FenceTook/time.Microsecond) / 1000
			body.Log.FenceTook = &took
		}
	}
	if z.opts.Glance != nil {
		samples := z.samples()
		total := lookupsOf(z.opts.Lookups())
		recent, over := recently(samples, total)
		body.Lookups = &lookupsBody{total, recent, milliseconds(over)}
		body.History = newHistory(samples)
	}
	if z.opts.Receipts != nil {
		body.Receipts = receiptsOf(z.opts.Receipts())
	}
	if z.opts.Activity != nil {
		for _, e := range z.opts.Activity() {
			body.Events = append(body.Events, newEventBody(&e))
		}
	}
	if len(z.opts.Components) > 0 {
		body.Components = make(map[string]any, len(z.opts.Components))
		for name, status := range z.opts.Components {
			body.Components[name] = status()
		}
	}
	if z.opts.Fleet != nil {
		f := z.opts.Fleet(r.Context(), search)
		if body.FleetError = f.DatabaseError; body.FleetError == "" {
			body.Fleet = &f.Report
		}
	}
	b, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the status: %w", err)
	}
	w.Header().Set("Content-Type", typeJSON)
	_, _ = w.Write(append(b, '\n'))
	return nil
}

// sidecar is what the page shows.
func (z *statusz) sidecar() *statuspage.Sidecar {
	s := z.opts.Status()
	p := &statuspage.Sidecar{
		Instance: z.opts.Instance, Version: z.opts.Version, Revision: readBuild().Revision, Now: wallClock(), Store: s.StoreKind,
		Warmed: s.Warmed, Fresh: s.Fresh, ServesStale: s.ServesStale, Complete: s.Complete, CaptureIntact: s.CaptureIntact,
		Age: s.AsOf.Age, HasAge: s.Fresh || s.ServesStale || s.AsOf.Age > 0, MaxStaleness: s.MaxStaleness, StaleLimit: s.StaleLimit,
		FenceError: s.LastFenceError, FenceTook: s.FenceTook, Cursor: s.AsOf.Seq, Head: max(s.AsOf.Seq, s.Announced),
		Entries: s.Entries, Marks: s.Marks, Unknown: s.Negative, Capacity: s.Capacity,
		Every: sampleEvery, Over: sampleOver,
		Audit: statuspage.Audit{Compared: s.Audit.Compared, Differences: s.Audit.Differences, Age: s.Audit.Age, Done: s.Audit.Done},
	}
	if z.opts.Glance != nil {
		p.History = z.samples()
		p.Lookups = lookupsOf(z.opts.Lookups())
		p.Recently, _ = recently(p.History, p.Lookups)
	}
	if z.opts.Postgres != nil {
		p.Postgres = z.opts.Postgres()
	}
	if z.opts.Broker != nil {
		p.Broker = z.opts.Broker()
	}
	if p.HasReceipts = z.opts.Receipts != nil; p.HasReceipts {
		p.Receipts = receiptsOf(z.opts.Receipts())
	}
	if z.opts.Activity != nil {
		for _, e := range z.opts.Activity() {
			b := newEventBody(&e)
			p.Events = append(p.Events, statuspage.Event{
				Seq: b.Seq, Kind: b.Kind, Subject: b.Subject, Path: b.Path, Lag: e.AppliedAt.Sub(e.OccurredAt), AppliedAt: e.AppliedAt,
			})
		}
	}
	return p
}

// samples returns what was measured within sampleOver, oldest first.
func (z *statusz) samples() []statuspage.Sample {
	now := z.clock.Now()
	var list []statuspage.Sample
	for _, m := range z.history.Items() {
		s := statuspage.Sample{Ago: now.Sub(m.at), Oldest: m.Oldest, State: statuspage.Unavailable, Lookups: lookupsOf(m.Lookups)}
		switch {
		case s.Ago > sampleOver:
			continue
		case m.Fresh:
			s.State = statuspage.Fresh
		case m.ServesStale:
			s.State = statuspage.Stale
		}
		list = append(list, s)
	}
	return list
}

func lookupsOf(n keystore.Lookups) statuspage.Lookups {
	return statuspage.Lookups{Memory: n.Memory, Read: n.Read, Stale: n.Stale, Unavailable: n.Unavailable}
}

// recently is what came since the oldest sample.
func recently(samples []statuspage.Sample, total statuspage.Lookups) (statuspage.Lookups, time.Duration) {
	if len(samples) == 0 {
		return total, 0
	}
	return total.Less(samples[0].Lookups), samples[0].Ago
}

// newHistory makes steps of jsonEvery.
func newHistory(samples []statuspage.Sample) *historyBody {
	h := &historyBody{Every: milliseconds(jsonEvery), Samples: make([]historyStep, 0, jsonSamples)}
	worse := map[string]int{statuspage.Fresh: 1, statuspage.Stale: 2, statuspage.Unavailable: 3}
	last := -1
	for _, s := range samples {
		slot := int(s.Ago / jsonEvery)
		if slot != last {
			h.Samples, last = append(h.Samples, historyStep{State: s.State}), slot
		}
		step := &h.Samples[len(h.Samples)-1]
		if worse[s.State] > worse[step.State] {
			step.State = s.State
		}
		if oldest := milliseconds(s.Oldest); s.Oldest > 0 && (step.Oldest == nil || oldest > *step.Oldest) {
			step.Oldest = &oldest
		}
	}
	return h
}

// receiptsOf leaves out which keys they are of, but for a part of their hashes.
func receiptsOf(list []receipt.Progress) []statuspage.Receipt {
	out := make([]statuspage.Receipt, 0, len(list))
	for _, p := range list {
		r := statuspage.Receipt{
			Kind: p.Kind, Done: p.Done, Complete: p.Complete, Acknowledged: p.Acknowledged, Expired: p.Expired, Awaited: p.Awaited,
			WaitedMS: milliseconds(p.Waited), LeftMS: milliseconds(p.Left),
		}
		if id := p.Target.KeyID + p.Target.OwnerID; id != "" { // one of them
			r.Subject = event.Pseudonym(id)
		}
		out = append(out, r)
	}
	return out
}

// readBuild says what the binary was made from.
func readBuild() (b buildBody) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
