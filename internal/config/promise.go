package config

import (
	"fmt"
)

// Promise says in plain words what a sidecar with this configuration promises,
// one sentence a line. Valid only for a configuration that Validate accepts.
func (c *Config) Promise() []string {
	f := &c.Freshness
	source := c.storeName()
	limit, setBy := f.MaxStaleness, "freshness.max_staleness"
	if f.OnStale == ServeStale {
		limit, setBy = f.StaleLimit, "freshness.stale_limit"
	}
	lines := []string{
		fmt.Sprintf("a key is refused at most %s after its revocation was acknowledged, whatever fails (%s)", formatDuration(limit), setBy),
		fmt.Sprintf("an outage of %s shorter than %s goes unnoticed", source, formatDuration(f.MaxStaleness-f.FenceInterval)),
	}
	after := fmt.Sprintf("in a longer one requests are answered 503 unavailable until %s is back (freshness.on_stale: %s)", source, FailClosed)
	if f.OnStale == ServeStale {
		after = fmt.Sprintf("in a longer one answers from memory are given, marked stale, for %s, then 503 unavailable (freshness.on_stale: %s)",
			formatDuration(f.StaleLimit), ServeStale)
	}
	lines = append(lines, after)
	if c.Store.Kind == StorePostgres && !c.HasBroker() {
		lines = append(lines, fmt.Sprintf("no broker is configured (amqp.url): revocations are seen every %s, not within milliseconds", formatDuration(f.FenceInterval)))
	}
	return lines
}

func (c *Config) storeName() string {
	if c.Store.Kind == StoreFile {
		return "the key file"
	}
	return "Postgres"
}
