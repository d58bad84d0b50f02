package statuspage

import (
	"fmt"
	"time"

	"github.com/keysidecar/keysidecar/internal/fleet"
)

// Fleet is what the page of a relay shows, at one moment: itself, and all sidecars.
type Fleet struct {
	// Instance, Version and Revision are the relay's; Now is its wall clock.
	Instance, Version, Revision string
	Now                         time.Time
	// Leads: this relay does.
	Leads bool
	// Connected, Host and BrokerError are about its broker, which only a leader has.
	Connected         bool
	Host, BrokerError string
	// DatabaseError is why there is no Report, from a closed set; empty if there is.
	DatabaseError string
	// GateHeld is for how long a transaction has been seen to hold the gate, by a leader.
	GateHeld time.Duration

	fleet.Report
	// History is what a leader measured, oldest first, every Every; Over is the time
	// drawn.
	History     []fleet.Sample
	Every, Over time.Duration
}

// before is the moment ms before now.
func (f *Fleet) before(ms int64) time.Time { return f.Now.Add(-time.Duration(ms) * time.Millisecond) }

func (f *Fleet) view() *view {
	v := &view{What: "relay", Name: f.Instance, Version: f.Version, Now: f.Now}
	f.state(v)
	f.notes(v)
	v.Footer = []string{"Version " + f.Version}
	if f.Revision != "" {
		v.Footer = append(v.Footer, "Revision "+f.Revision)
	}
	v.Cards = []card{f.leadership()}
	if f.DatabaseError != "" {
		return v
	}
	v.Cards = []card{f.sidecars(v.Level), f.outbox(), f.leadership()}
	if len(f.Versions) > 1 {
		v.Cards = append(v.Cards, f.versions())
	}
	v.Tables = []table{f.instances(), f.changes()}
	return v
}

// state says in words how the fleet is.
func (f *Fleet) state(v *view) {
	n := f.Sidecars
	switch {
	case f.DatabaseError != "":
		v.Level, v.Headline, v.Sentence = bad, "No database", "What this page shows is read from Postgres."
	case !f.Led:
		v.Level, v.Headline = bad, "No relay leads"
		v.Sentence = "Nothing is published and nothing is pruned. Revocations are seen by the next fence, about a second later; no request fails for it."
	case n.All == 0:
		v.Level, v.Headline, v.Sentence = idle, "No sidecar is registered", "None runs, or none has reached this database yet."
	case n.Behind > 0:
		v.Level, v.Headline = warn, plural(n.Behind, "sidecar is", "sidecars are")+" behind"
		v.Sentence = fmt.Sprintf("%s of %s in the registry. Whoever is behind may not answer from memory for longer than its bound, so no revoked key is accepted; receipts wait for it.", amount(n.Behind), amount(n.All))
	case n.Silent > 0:
		v.Level, v.Headline = warn, plural(n.Silent, "sidecar is", "sidecars are")+" silent"
		v.Sentence = "Silent ones have not reported for more than a minute and a half: stopped without saying so, paused, or cut off. They leave the registry by themselves within four minutes."
	default:
		v.Level, v.Headline = good, "All sidecars follow"
		v.Sentence = plural(n.Current+n.Reading, "sidecar reads", "sidecars read") + " every change within seconds. Whether one may answer right now is on its own page."
	}
}

func (f *Fleet) notes(v *view) {
	add := func(level, text, do, run string) { v.Notes = append(v.Notes, Note{level, text, do, run}) }
	if f.DatabaseError != "" {
		v.Notes = append(v.Notes, databaseNote(f.DatabaseError))
		return
	}
	if !f.Led {
		add(bad, "Nobody holds the lock of the leader.", "Look at the relays' logs: each needs a direct connection to the primary.", runLeader)
	}
	if f.Leads && !f.Connected {
		add(warn, "This relay leads and has no broker: "+brokerWords(f.BrokerError)+".", "Nothing is lost: it goes on from its mark. Mend RabbitMQ or the way to it.", runLag)
	}
	if !f.CaptureIntact {
		add(bad, "A capture trigger is missing, disabled or not ENABLE ALWAYS.", "SELECT * FROM keysidecar.capture_problems() names it. Put it back, then SELECT keysidecar.reset().", runCapture)
	}
	if f.GateHeld > 5*time.Second {
		add(bad, "A transaction has held the gate for "+span(f.GateHeld)+", and keeps all others from changing keys.", "Find it in pg_locks; mend the synchronous standby or end the session.", runGate)
	}
	if f.Sidecars.Behind > 0 {
		add(warn, "Sidecars that are behind are paused, cut off from Postgres, or gone.", "Mend or stop them. If you know that one is gone: SELECT keysidecar.forget_instance('NAME').", runBehind)
	}
	if !f.RegistryComplete {
		add(warn, "After a failover or a restore, sidecars may be missing from the registry.", "Receipts wait for the longest bound until it is complete again, by itself.", runReceipts)
	}
	if len(f.Versions) > 1 {
		add(idle, "Sidecars of several versions run.", "They work together. If it lasts, an update has stopped halfway.", runVersions)
	}
}

// sidecars is the registry in one bar, and over time.
func (f *Fleet) sidecars(level string) card {
	n := f.Sidecars
	c := card{ID: "sidecars", Title: "Sidecars", Level: level, Big: amount(n.All), Small: "in the registry", Broad: true}
	shares := []share{
		{Class: bad, Name: "Behind", Count: n.Behind}, {Class: warn, Name: "Silent", Count: n.Silent},
		{Class: idle, Name: "Starting", Count: n.Starting}, {Class: idle, Name: "Leaving", Count: n.Leaving},
		{Class: "reading", Name: "Reading what is new", Count: n.Reading}, {Class: good, Name: "Have read everything", Count: n.Current},
	}
	c.Bar = bar(shares)
	for i := len(shares) - 1; i >= 0; i-- {
		s := shares[i]
		level := s.Class
		if level == "reading" {
			level = idle
		}
		if s.Count > 0 || s.Name == "Behind" || s.Class == good {
			if s.Count == 0 {
				level = ""
			}
			c.Facts = append(c.Facts, fact{s.Name, amount(s.Count), level})
		}
	}
	if len(f.Versions) == 1 {
		c.Facts = append(c.Facts, fact{Name: "Version", Value: f.Versions[0].Version})
	}
	points, highest := make([]point, 0, len(f.History)), time.Duration(0)
	for _, h := range f.History {
		p := point{ago: h.Ago, value: h.Unread.Seconds()}
		if h.Behind > 0 {
			p.class = warn
		}
		highest = max(highest, h.Unread)
		points = append(points, p)
	}
	if len(points) == 0 || !f.Leads {
		c.Text = f.noHistory() // the newest part is missing, if not all
	}
	if len(points) == 0 {
		return c
	}
	top := nice(max(5, highest.Seconds()))
	chart := draw(points, f.Over, f.Every, top)
	chart.TopText, chart.FromText = "oldest change that one of them has not read: up to "+span(time.Duration(top*float64(time.Second))), span(f.Over)+" ago"
	chart.Label = fmt.Sprintf("Age of the oldest change that some sidecar has not read, over the last %s: at most %s.", span(f.Over), span(highest))
	c.Chart = &chart
	return c
}

func (f *Fleet) noHistory() string {
	switch {
	case f.Leads:
		return "The chart begins with the first measurement, in a moment."
	case f.Led:
		return "The chart is on the page of the relay that leads."
	}
	return "Only a relay that leads measures what the chart shows."
}

// outbox is what waits to be published.
func (f *Fleet) outbox() card {
	backlog := max(0, f.Head-f.Published)
	c := card{ID: "outbox", Title: "Outbox", Level: good, Big: amount(backlog), Small: "changes wait to be published"}
	if backlog == 0 {
		c.Big, c.Small = "empty", "Every change has been published."
	}
	if backlog > 1000 || backlog > 0 && (!f.Led || f.Leads && !f.Connected) {
		c.Level = warn
	}
	c.Facts = []fact{{Name: "Published", Value: amount(f.Published)}, {Name: "Head of the log", Value: amount(f.Head)}}
	if f.PublishedMS != nil {
		c.Facts = append(c.Facts, fact{Name: "Last published", Value: ago(f.Now, f.before(*f.PublishedMS))})
	}
	capture := fact{"Capture triggers", "in place", good}
	if !f.CaptureIntact {
		capture = fact{"Capture triggers", "not in place", bad}
	}
	c.Facts = append(c.Facts, capture)
	points, highest := make([]point, 0, len(f.History)), int64(0)
	for _, h := range f.History {
		highest = max(highest, h.Backlog)
		points = append(points, point{ago: h.Ago, value: float64(h.Backlog)})
	}
	if len(points) > 0 {
		top := nice(max(10, float64(highest)))
		chart := draw(points, f.Over, f.Every, top)
		chart.TopText, chart.FromText = "up to "+amount(int64(top)), span(f.Over)+" ago"
		chart.Label = fmt.Sprintf("Changes waiting to be published over the last %s: at most %s.", span(f.Over), amount(highest))
		c.Chart = &chart
	}
	return c
}

// leadership is who leads, and this relay's part in it.
func (f *Fleet) leadership() card {
	c := card{ID: "leadership", Title: "This relay"}
	switch {
	case f.DatabaseError != "":
		c.Level, c.Big, c.Small = bad, "cut off", "It can neither lead nor stand by without Postgres."
	case f.Leads:
		c.Level, c.Big, c.Small = good, "leads", "It publishes changes and keeps the registry."
	case f.Led:
		c.Level, c.Big, c.Small = good, "stands by", "It takes over when the leader is gone."
	default:
		c.Level, c.Big, c.Small = bad, "does not lead", "No other relay leads either."
	}
	switch {
	case f.Leads && f.Connected:
		c.Facts = append(c.Facts, fact{"RabbitMQ", "connected", good}, fact{Name: "Broker", Value: f.Host})
	case f.Leads:
		c.Facts = append(c.Facts, fact{"RabbitMQ", "not connected", warn}, fact{Name: "Reason", Value: brokerWords(f.BrokerError)})
	case f.DatabaseError == "":
		c.Facts = append(c.Facts, fact{Name: "RabbitMQ", Value: "connects when it leads"})
	}
	if f.DatabaseError == "" {
		c.Facts = append(c.Facts, fact{"Postgres", "answers", good})
	}
	switch {
	case f.Led:
		c.Facts = append(c.Facts, fact{Name: "Leader", Value: f.Leader})
	case f.Leader != "":
		c.Facts = append(c.Facts, fact{Name: "Led last", Value: f.Leader})
	}
	return c
}

// versions are those that sidecars run, if not all run the same.
func (f *Fleet) versions() card {
	c := card{ID: "versions", Title: "Versions", Level: good, Big: amount(len(f.Versions)), Small: "versions run side by side"}
	for i, r := range f.Versions {
		if i == 8 {
			rest := 0
			for _, r := range f.Versions[i:] {
				rest += r.Count
			}
			c.Facts = append(c.Facts, fact{Name: "others", Value: plural(rest, "sidecar", "sidecars")})
			break
		}
		c.Facts = append(c.Facts, fact{Name: r.Version, Value: plural(r.Count, "sidecar", "sidecars")})
	}
	return c
}

// stateCell is a state in words.
func stateCell(state fleet.State) cell {
	switch state {
	case fleet.Current:
		return cell{Text: "has read everything", Level: good}
	case fleet.Reading:
		return cell{Text: "reads what is new", Level: good}
	case fleet.Behind:
		return cell{Text: "behind", Level: bad}
	case fleet.Silent:
		return cell{Text: "silent", Level: warn}
	case fleet.Starting:
		return cell{Text: "starting", Level: idle}
	case fleet.Leaving:
		return cell{Text: "leaving", Level: idle}
	}
	return cell{Text: string(state)}
}

func (f *Fleet) instances() table {
	t := table{
		ID: "instances", Title: "Every sidecar", Empty: "No sidecar is registered.",
		Search: true, Searched: f.Search, SearchFor: "Name contains",
		Columns: []column{{"Sidecar", ""}, {"State", ""}, {"Lag", "num"}, {"Version", "wide"}, {"Cursor", "num wide"}, {"Reported", "wide"}, {"Bound", "num wide"}},
	}
	if f.Search != "" {
		t.Empty = "No sidecar has a name that contains this."
	}
	for _, i := range f.List {
		lag, cursor := "–", "–"
		if i.Cursor != nil {
			lag, cursor = span(time.Duration(i.LagMS)*time.Millisecond), amount(*i.Cursor)
			if i.LagMS == 0 {
				lag = "none"
			}
		}
		bound := span(time.Duration(i.BoundMS) * time.Millisecond)
		if i.Policy == "serve_stale" {
			bound += ", stale"
		}
		reported := f.before(i.ReportedMS)
		t.Rows = append(t.Rows, []cell{
			{Text: i.Name}, stateCell(i.State), {Text: lag}, {Text: i.Version}, {Text: cursor},
			{Text: ago(f.Now, reported), Title: machine(reported)}, {Text: bound},
		})
	}
	switch {
	case f.Found > len(f.List):
		t.About = fmt.Sprintf("%s of %s: those that are behind come first.", amount(len(f.List)), plural(f.Found, "sidecar", "sidecars"))
	case f.Found > 0:
		t.About = plural(f.Found, "sidecar", "sidecars") + "; those that are behind come first. One that has read everything reports once a minute."
	}
	return t
}

func (f *Fleet) changes() table {
	t := table{
		ID: "changes", Title: "Last revocations and other changes, and who has read them",
		Empty:   "The newest part of the log has none.",
		Columns: []column{{"Change", ""}, {"Key or owner", "code"}, {"Have read it", "num"}, {"When", "wide"}, {"Number", "num wide"}},
	}
	all, under := f.Sidecars.All, 0
	for _, c := range f.Changes {
		at := f.before(c.AgeMS)
		subject := c.Subject
		if subject == "" {
			subject = "all"
		}
		read := cell{Text: "all " + amount(all), Level: good}
		switch {
		case all == 0:
			read = cell{Text: "–"}
		case c.Acknowledged < all:
			under++
			read = cell{Text: amount(c.Acknowledged) + " of " + amount(all), Level: warn}
		}
		t.Rows = append(t.Rows, []cell{
			{Text: kindWords(c.Kind)}, {Text: subject}, read,
			{Text: ago(f.Now, at), Title: machine(at)}, {Text: amount(c.Seq)},
		})
	}
	if len(t.Rows) > 0 {
		t.About = "Every sidecar of the registry has read them: a receipt for any of them is complete."
		if under == 1 {
			t.About = "One has not been read by all: its receipt is in progress."
		}
		if under > 1 {
			t.About = amount(under) + " have not been read by all: their receipts are in progress."
		}
		if under > 0 {
			if !f.RegistryComplete {
				t.About += " Receipts also wait for the longest bound."
			}
		}
	}
	return t
}
