package statuspage

import (
	"fmt"
	"time"
)

// Sidecar is what the page of a sidecar shows, at one moment.
type Sidecar struct {
	Instance, Version, Revision string
	// Now is this machine's wall clock.
	Now time.Time
	// Store is "postgres" or "file".
	Store string

	// Warmed: the first load is done. Fresh: answers come from memory. ServesStale: old
	// ones do, by policy. CaptureIntact: the triggers were in place at the last fence.
	Warmed, Fresh, ServesStale, Complete, CaptureIntact bool
	// Age is that of what memory answers by; MaxStaleness its bound, StaleLimit that of
	// serve_stale, 0 under fail_closed. HasAge is false before the first load.
	Age, MaxStaleness, StaleLimit time.Duration
	HasAge                        bool
	// FenceError is a category, empty after success. FenceTook is how long the last
	// answer took.
	FenceError string
	FenceTook  time.Duration
	// Cursor is the last event applied, Head the newest that this process has heard of.
	Cursor, Head int64

	Entries, Marks, Unknown, Capacity int
	// Lookups were answered since the process started, and in the time of History.
	Lookups, Recently Lookups
	// History is what was measured, oldest first, every Every; Over is the time drawn.
	History     []Sample
	Every, Over time.Duration

	// Postgres is nil where keys come from a file, Broker where none is configured.
	Postgres *Postgres
	Broker   *Broker

	Audit  Audit
	Events []Event
	// Receipts are the waits under way, and the last that are over. HasReceipts is false
	// where there is no registry.
	Receipts    []Receipt
	HasReceipts bool
}

// Lookups counts look-ups by how they were answered.
type Lookups struct {
	Memory      uint64 `json:"memory"`
	Read        uint64 `json:"read"`
	Stale       uint64 `json:"stale"`
	Unavailable uint64 `json:"unavailable"`
}

// Less returns what came in addition to was.
func (n Lookups) Less(was Lookups) Lookups {
	return Lookups{n.Memory - was.Memory, n.Read - was.Read, n.Stale - was.Stale, n.Unavailable - was.Unavailable}
}

// All is the number of look-ups.
func (n Lookups) All() uint64 { return n.Memory + n.Read + n.Stale + n.Unavailable }

// Sample is one measurement of a sidecar.
type Sample struct {
	// Ago is how long ago it was made.
	Ago time.Duration
	// Oldest is how old what memory answered by became since the one before.
	Oldest time.Duration
	// State is one of the three below.
	State string
	// Lookups since the process started.
	Lookups Lookups
}

// The states of a sidecar.
const (
	Fresh       = "fresh"
	Stale       = "stale"
	Unavailable = "unavailable"
)

// Postgres is the state of a sidecar's connections to its store.
type Postgres struct {
	// Server is the address of the primary, empty while there is no connection.
	Server string `json:"server,omitempty"`
	Open   int    `json:"open"`
	Most   int    `json:"most"`
}

// Broker is the state of a connection to RabbitMQ.
type Broker struct {
	Connected bool   `json:"connected"`
	Queue     string `json:"queue,omitempty"`
	Host      string `json:"host,omitempty"`
	LastError string `json:"last_error,omitempty"`
}

// Audit is what comparing memory with the store has found.
type Audit struct {
	Compared, Differences int64
	// Age of the last comparison; Done is false before the first.
	Age  time.Duration
	Done bool
}

// Event is one change that was applied.
type Event struct {
	Seq  int64
	Kind string
	// Subject is a part of the hash of a key or owner; empty if it is about all.
	Subject string
	// Path is "queue" or "fence".
	Path      string
	Lag       time.Duration
	AppliedAt time.Time
}

// Receipt is a wait for all sidecars to have read a change.
type Receipt struct {
	// Subject is a part of the hash of the key.
	Subject string `json:"subject"`
	Kind    string `json:"kind,omitempty"`
	// Done: the wait is over. Complete: so is the revocation.
	Done     bool `json:"done"`
	Complete bool `json:"complete"`
	// Acknowledged, Expired and Awaited count sidecars.
	Acknowledged int   `json:"acknowledged"`
	Expired      int   `json:"expired"`
	Awaited      int   `json:"awaited"`
	WaitedMS     int64 `json:"waited_ms"`
	LeftMS       int64 `json:"left_ms"`
}

// bound is how old an answer may be at most.
func (s *Sidecar) bound() time.Duration { return max(s.MaxStaleness, s.StaleLimit) }

func (s *Sidecar) view() *view {
	v := &view{What: "sidecar", Name: s.Instance, Version: s.Version, Now: s.Now}
	s.state(v)
	s.notes(v)
	v.Cards = []card{s.freshness(v.Level), s.log(), s.memory(), s.connections(), s.promise()}
	v.Tables = []table{s.changes()}
	if s.HasReceipts {
		v.Tables = append(v.Tables, s.receipts())
	}
	v.Footer = []string{"Version " + s.Version}
	if s.Revision != "" {
		v.Footer = append(v.Footer, "Revision "+s.Revision)
	}
	return v
}

// state says in words whether this sidecar answers.
func (s *Sidecar) state(v *view) {
	switch {
	case !s.Warmed:
		v.Level, v.Headline = warn, "Loading the keys"
		v.Sentence = "Until that is done every request is answered 503, which says nothing about a key."
		if s.FenceError != "" {
			v.Level, v.Headline = bad, "Cannot load the keys"
		}
	case s.Fresh:
		v.Level, v.Headline = good, "Fresh"
		v.Sentence = fmt.Sprintf("Answers from memory, which may be up to %s behind Postgres and never more.", span(s.MaxStaleness))
		if s.Store == "file" {
			v.Sentence = fmt.Sprintf("Answers from memory, which may be up to %s behind the key file and never more.", span(s.MaxStaleness))
		}
	case s.ServesStale:
		v.Level, v.Headline = warn, "Serving stale answers"
		v.Sentence = fmt.Sprintf("No fence has succeeded for longer than %s. By policy (serve_stale) memory answers all the same, until %s have passed.", span(s.MaxStaleness), span(s.StaleLimit))
	default:
		v.Level, v.Headline = bad, "Unavailable"
		v.Sentence = fmt.Sprintf("No fence has succeeded for longer than %s, so nobody can tell whether a key still counts: every request is answered 503. Revoked keys are not accepted.", span(s.bound()))
	}
}

// notes says what else is not as it should be.
func (s *Sidecar) notes(v *view) {
	if s.FenceError != "" {
		n := fenceNote(s.FenceError, s.Store)
		if s.Fresh && n.Level == bad {
			n.Level = warn // memory still answers
		}
		v.Notes = append(v.Notes, n)
	} else if s.Warmed && !s.CaptureIntact {
		v.Notes = append(v.Notes, fenceNote("capture_lost", s.Store))
	}
	if s.Broker != nil && !s.Broker.Connected {
		v.Notes = append(v.Notes, Note{warn, "No connection to RabbitMQ: " + brokerWords(s.Broker.LastError) + ".",
			"Revocations are seen by the next fence, about a second later. No request fails for it.", runBroker})
	}
	if s.Audit.Differences > 0 {
		v.Notes = append(v.Notes, Note{bad, "Memory differed from the store, and no event explains it (" + plural(int(s.Audit.Differences), "key", "keys") + " so far).",
			"SELECT keysidecar.reset() ends the danger. Then find who changed keys unseen.", runDrift})
	}
	byFence, byQueue := 0, 0
	for _, e := range s.Events {
		switch {
		case s.Now.Sub(e.AppliedAt) > time.Minute:
		case e.Path == "fence":
			byFence++
		default:
			byQueue++
		}
	}
	// Now and then a fence is faster than a message.
	if byFence > 2 && byFence > byQueue && s.Fresh && s.Broker != nil && s.Broker.Connected {
		v.Notes = append(v.Notes, Note{idle, amount(byFence) + " changes of the last minute were brought by fences, not by the queue.",
			"That is slower, and nothing is lost. If it goes on, look at the relay and the queue's binding.", runFastPath})
	}
}

// freshness is how old answers are, now and before.
func (s *Sidecar) freshness(level string) card {
	c := card{ID: "freshness", Title: "Freshness", Broad: true, Level: level, Big: span(s.Age), Small: "since Postgres last answered; " + span(s.MaxStaleness) + " are allowed"}
	if s.Store == "file" {
		c.Small = "since the key file was last read; " + span(s.MaxStaleness) + " are allowed"
	}
	switch {
	case !s.HasAge && s.Warmed:
		c.Big, c.Small = "–", "What memory held was dropped, and is loaded anew."
	case !s.HasAge:
		c.Big, c.Small = "–", "Nothing has been loaded yet."
	}
	points := make([]point, 0, len(s.History))
	var highest time.Duration
	unavailable := 0
	for _, h := range s.History {
		p := point{ago: h.Ago, value: h.Oldest.Seconds(), gap: h.Oldest == 0}
		switch h.State {
		case Unavailable:
			p.class = bad
			unavailable++
		case Stale:
			p.class = warn
		}
		highest = max(highest, h.Oldest)
		points = append(points, p)
	}
	if n := len(s.History); n > 0 && s.Age > s.History[n-1].Oldest {
		now := point{value: s.Age.Seconds()} // it has become older since the last measurement
		if !s.Fresh {
			now.class = bad
		}
		if s.ServesStale {
			now.class = warn
		}
		points, highest = append(points, now), max(highest, s.Age)
	}
	if len(points) == 0 {
		c.Text = "The chart begins with the first measurement, in a moment."
		return c
	}
	chart := draw(points, s.Over, s.Every, s.MaxStaleness.Seconds()/limitAt)
	chart.Limit, chart.LimitText = num(floor*(1-limitAt)), "allowed: "+span(s.MaxStaleness)
	chart.FromText = span(s.Over) + " ago"
	chart.Label = fmt.Sprintf("Age of answers over the last %s: at most %s, of %s allowed.", span(s.Over), span(highest), span(s.MaxStaleness))
	if unavailable > 0 {
		chart.Label += " Unavailable for about " + span(time.Duration(unavailable)*s.Every) + "."
	}
	c.Chart = &chart
	return c
}

// log is how far the log was read.
func (s *Sidecar) log() card {
	c := card{ID: "log", Title: "Log", Level: good, Big: "up to date", Small: "All changes that are known have been applied."}
	if s.Store == "file" {
		c.Small = "All of the key file has been applied."
	}
	behind := max(0, s.Head-s.Cursor)
	switch {
	case !s.HasAge:
		c.Level, c.Big, c.Small = idle, "–", "Nothing that counts has been read."
	case behind > 0:
		c.Level, c.Big, c.Small = warn, amount(behind)+" behind", "Messages have announced what no fence has brought yet."
	case !s.Fresh:
		c.Level, c.Big, c.Small = idle, "not known", "The head cannot be asked for."
	}
	c.Facts = []fact{{Name: "Cursor", Value: amount(s.Cursor)}, {Name: "Known head", Value: amount(max(s.Head, s.Cursor))}}
	if s.FenceTook > 0 {
		c.Facts = append(c.Facts, fact{Name: "Last fence took", Value: span(s.FenceTook)})
	}
	if s.Store != "file" {
		capture := fact{"Capture triggers", "in place", good}
		switch {
		case !s.HasAge && !s.CaptureIntact:
			capture = fact{"Capture triggers", "not looked at", idle}
		case !s.CaptureIntact:
			capture = fact{"Capture triggers", "not in place", bad}
		}
		c.Facts = append(c.Facts, capture)
	}
	return c
}

// memory is the cache.
func (s *Sidecar) memory() card {
	c := card{ID: "memory", Title: "Keys in memory", Level: good, Big: amount(s.Entries), Small: "of room for " + amount(s.Capacity)}
	c.Meter = num(chartWidth * min(1, float64(s.Entries)/float64(max(1, s.Capacity))))
	complete := fact{"All keys are here", "no: unknown keys cost a read", idle}
	if s.Complete {
		complete = fact{"All keys are here", "yes", good}
	}
	c.Facts = append(c.Facts, complete,
		fact{Name: "To be read again", Value: amount(s.Marks)},
		fact{Name: "Remembered as unknown", Value: amount(s.Unknown)})
	hits := func(name string, n Lookups) {
		told := n.Memory + n.Read + n.Stale
		if told == 0 {
			c.Facts = append(c.Facts, fact{Name: name, Value: "none yet"})
			return
		}
		c.Facts = append(c.Facts, fact{Name: name, Value: percent(n.Memory+n.Stale, told)})
	}
	hits("Hit ratio, recently", s.Recently)
	hits("Hit ratio, since start", s.Lookups)
	return c
}

// connections are those to Postgres and RabbitMQ.
func (s *Sidecar) connections() card {
	c := card{ID: "connections", Title: "Connections"}
	if s.Postgres != nil {
		pg := fact{"Postgres", "answers", good}
		switch {
		case s.FenceError == "unreachable" || s.Postgres.Server == "" && s.FenceError == "":
			pg.Value, pg.Level = "not connected", bad
		case s.FenceError != "":
			pg.Value, pg.Level = "no usable answer ("+s.FenceError+")", bad
		}
		c.Facts = append(c.Facts, pg)
		if s.Postgres.Server != "" {
			c.Facts = append(c.Facts, fact{Name: "Primary", Value: s.Postgres.Server})
		}
		c.Facts = append(c.Facts, fact{Name: "Open to Postgres", Value: fmt.Sprintf("%d of %d", s.Postgres.Open, s.Postgres.Most)})
	} else {
		file := fact{"Key file", "read", good}
		if s.FenceError != "" {
			file.Value, file.Level = "not readable ("+s.FenceError+")", bad
		}
		c.Facts = append(c.Facts, file)
	}
	switch b := s.Broker; {
	case b == nil:
		c.Facts = append(c.Facts, fact{"RabbitMQ", "not configured", idle})
		c.Text = "Changes are seen by fences alone."
		if s.Store == "file" {
			c.Text = "A key file needs no broker."
		}
	case b.Connected:
		c.Facts = append(c.Facts, fact{"RabbitMQ", "connected", good}, fact{Name: "Broker", Value: b.Host}, fact{Name: "Queue", Value: b.Queue})
	default:
		c.Facts = append(c.Facts, fact{"RabbitMQ", "not connected", warn}, fact{Name: "Reason", Value: brokerWords(b.LastError)})
	}
	return c
}

// promise is what was configured, and whether memory was found to be right.
func (s *Sidecar) promise() card {
	c := card{ID: "promise", Title: "Promise", Level: good, Big: span(s.bound()), Small: "at most, from a revocation until its key is refused here"}
	policy := "fail_closed"
	if s.StaleLimit > 0 {
		policy = "serve_stale"
	}
	c.Facts = []fact{{Name: "Policy", Value: policy}, {Name: "Keys compared", Value: amount(s.Audit.Compared)}}
	differences := fact{"Differences", amount(s.Audit.Differences), good}
	if s.Audit.Differences > 0 {
		differences.Level = bad
	}
	last := fact{Name: "Last compared", Value: "not yet"}
	if s.Audit.Done {
		last.Value = ago(s.Now, s.Now.Add(-s.Audit.Age))
	} else {
		differences.Level = ""
	}
	c.Facts = append(c.Facts, differences, last)
	return c
}

// shownEvents is how many changes the page lists.
const shownEvents = 12

func (s *Sidecar) changes() table {
	t := table{
		ID: "changes", Title: "Last revocations and other changes",
		Empty:   "Nothing has changed since this process started.",
		Columns: []column{{"Change", ""}, {"Key or owner", "code"}, {"By", "short"}, {"Lag", "num"}, {"Applied", "wide"}, {"Number", "num wide"}},
	}
	for _, e := range s.Events {
		if !ends(e.Kind) {
			continue
		}
		if len(t.Rows) == shownEvents {
			break
		}
		t.Rows = append(t.Rows, s.changeRow(e))
	}
	if len(t.Rows) == 0 && len(s.Events) > 0 {
		for _, e := range s.Events[:min(len(s.Events), shownEvents)] {
			t.Rows = append(t.Rows, s.changeRow(e))
		}
	}
	if len(t.Rows) > 0 {
		t.About = "By the queue within milliseconds, or else by the next fence. Lag is from the change, by the database's clock, until memory followed, by this machine's. Keys and owners go by a part of their hash."
	}
	return t
}

func (s *Sidecar) changeRow(e Event) []cell {
	subject := e.Subject
	if subject == "" {
		subject = "all"
	}
	path := cell{Text: "queue", Level: good}
	if e.Path != "queue" {
		path = cell{Text: "fence", Level: idle}
	}
	return []cell{
		{Text: kindWords(e.Kind)}, {Text: subject}, path, {Text: span(e.Lag)},
		{Text: ago(s.Now, e.AppliedAt), Title: machine(e.AppliedAt)}, {Text: amount(e.Seq)},
	}
}

// shownReceipts is how many waits under way the page lists.
const shownReceipts = 12

func (s *Sidecar) receipts() table {
	t := table{
		ID: "receipts", Title: "Receipts asked of this sidecar",
		Empty:   "Nobody waits for a receipt here.",
		Columns: []column{{"Receipt", ""}, {"Key", "code"}, {"Have read it", "num"}, {"Awaited", "num wide"}, {"Took", "num"}, {"At most", "num wide"}},
	}
	under := 0
	for _, r := range s.Receipts {
		if !r.Done {
			if under++; under > shownReceipts {
				continue
			}
		}
		t.Rows = append(t.Rows, receiptRow(r))
	}
	switch {
	case under == 0 && len(t.Rows) > 0:
		t.About = "None in progress. These were the last ones."
	case under > 0:
		t.About = plural(under, "receipt", "receipts") + " in progress."
	}
	return t
}

func receiptRow(r Receipt) []cell {
	state := "in progress"
	switch {
	case r.Done && r.Complete:
		state = "complete"
	case r.Done && r.Kind == "":
		state = "no change to tell of"
	case r.Done:
		state = "not yet complete"
	}
	left := "–"
	if !r.Complete && r.Kind != "" {
		left = span(time.Duration(r.LeftMS) * time.Millisecond)
	}
	all := r.Acknowledged + r.Expired + r.Awaited
	read := "–"
	if all > 0 {
		read = fmt.Sprintf("%s of %s", amount(r.Acknowledged), amount(all))
	}
	return []cell{
		{Text: state}, {Text: r.Subject}, {Text: read}, {Text: amount(r.Awaited)},
		{Text: span(time.Duration(r.WaitedMS) * time.Millisecond)}, {Text: left},
	}
}
