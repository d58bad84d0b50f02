// Package fleet is how a relay tells of all sidecars: what the registry and the log
// say at one moment, and what a leader measured over the last minutes. It is plain
// data; internal/relay fills it in and the status page and its JSON show it.
package fleet

import "time"

// Report is what one snapshot of the primary shows. Its JSON is a part of /statusz.
type Report struct {
	// Led: some relay holds the leader's lock. Leader is who led last.
	Led    bool   `json:"led"`
	Leader string `json:"leader,omitempty"`
	// Published and Head are numbers of the log: all up to Published were confirmed by
	// the broker.
	Published int64 `json:"published_seq"`
	Head      int64 `json:"head_seq"`
	// PublishedMS is how long ago that last moved; nil if never.
	PublishedMS *int64 `json:"published_ms_ago"`
	// CaptureIntact: the triggers that write the log are in place.
	CaptureIntact bool `json:"capture_intact"`
	// RegistryComplete: no sidecar that registers can be missing from the registry.
	RegistryComplete bool `json:"registry_complete"`

	Sidecars Counts         `json:"sidecars"`
	Versions []VersionCount `json:"versions"`
	// Search is what a name had to contain, Found how many do, and List the first of
	// them, those that are behind first.
	Search string     `json:"search,omitempty"`
	Found  int        `json:"found"`
	List   []Instance `json:"list"`
	// Changes are the newest that may have ended a key.
	Changes []Change `json:"recent_changes"`
}

// Counts are the sidecars of the registry by state; each has one.
type Counts struct {
	All int `json:"all"`
	// Current have read everything; Reading have not, and nothing that is old.
	Current int `json:"current"`
	Reading int `json:"reading"`
	// Behind have not read what is older than ten seconds, or have read another history.
	Behind int `json:"behind"`
	// Silent have not reported for longer than they ever wait with it.
	Silent int `json:"silent"`
	// Starting have not reported yet.
	Starting int `json:"starting"`
	// Leaving are taken for gone, and counted until nobody can hold what they answered by.
	Leaving int `json:"leaving"`
}

// State is what a sidecar does, as far as the registry knows.
type State string

// The states, as Counts describes them.
const (
	Current  State = "current"
	Reading  State = "reading"
	Behind   State = "behind"
	Silent   State = "silent"
	Starting State = "starting"
	Leaving  State = "leaving"
)

// Add counts n sidecars of a state.
func (c *Counts) Add(s State, n int) {
	c.All += n
	switch s {
	case Current:
		c.Current += n
	case Reading:
		c.Reading += n
	case Behind:
		c.Behind += n
	case Silent:
		c.Silent += n
	case Starting:
		c.Starting += n
	case Leaving:
		c.Leaving += n
	}
}

// Instance is one sidecar.
type Instance struct {
	Name    string `json:"instance"`
	Version string `json:"version"`
	State   State  `json:"state"`
	// Cursor is the last event it has reported, nil before the first report. LagMS is the
	// age of the first one that it has not; 0 if it has all.
	Cursor *int64 `json:"cursor_seq"`
	LagMS  int64  `json:"lag_ms"`
	// ReportedMS is how long ago it reported, BoundMS how old its answers may be.
	ReportedMS int64  `json:"reported_ms_ago"`
	BoundMS    int64  `json:"bound_ms"`
	Policy     string `json:"policy"`
}

// VersionCount is how many sidecars run a version.
type VersionCount struct {
	Version string `json:"version"`
	Count   int    `json:"count"`
}

// Change is one event, and how many sidecars have read it.
type Change struct {
	Seq  int64  `json:"seq"`
	Kind string `json:"kind"`
	// Subject is event.Pseudonym of the key or owner; empty if it is about all.
	Subject string `json:"subject"`
	AgeMS   int64  `json:"age_ms"`
	// Acknowledged have reported it, of those in the registry.
	Acknowledged int `json:"acknowledged"`
}

// Sample is one measurement of a leader.
type Sample struct {
	// Ago is how long ago it was made.
	Ago time.Duration
	// Behind counts as Counts does.
	Behind int
	// Unread is the age of the oldest event that some sidecar has not read.
	Unread time.Duration
	// Backlog is how many numbers of the log are not published.
	Backlog int64
}
