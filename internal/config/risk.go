package config

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Values beyond these work, and are worth a word.
const (
	longBound     = time.Minute
	shortFence    = 100 * time.Millisecond
	shortTTL      = time.Minute
	manyConns     = 8
	longAudit     = 15 * time.Minute // the alert on an audit that has stopped
	shortLog      = 24 * time.Hour
	othersMayAsk  = 0o006
	othersMayEdit = 0o022
)

// Risks returns Warnings, and what else is legal in role and takes something away:
// the latter with the setting, its value and where it came from.
func (c *Config) Risks(role Role) []string {
	w := warner{config: c}
	if role == ForSidecar || role == ForRelay {
		w.warnings = c.Warnings()
	}
	w.postgres(role)
	w.broker()
	w.secretFiles()
	switch role {
	case ForSidecar:
		w.listeners()
		w.freshness()
		w.reads()
		w.fleet()
	case ForRelay:
		w.relay()
	default:
		return w.warnings
	}
	if c.Listen.Admin.Address == "" && c.Store.Kind == StorePostgres {
		w.warn("listen.admin.address", "there are no metrics and no probes: nobody sees from outside whether this process is well")
	}
	if c.Instance == "localhost" {
		w.warn("instance", "many machines have this name, and it must be unique in the fleet: set POD_UID or instance")
	}
	if c.Log.Level == "debug" {
		w.warn("log.level", "key ids are logged, and much of everything; SIGUSR1 turns it on for a while instead")
	}
	return w.warnings
}

// warner collects warnings.
type warner struct {
	config   *Config
	warnings []string
}

func (w *warner) warn(key, format string, args ...any) {
	s := findSetting(key)
	m := Mistake{Setting: key, Value: strconv.Quote(s.text(w.config)), Origin: w.config.originOf(key), Problem: fmt.Sprintf(format, args...)}
	switch {
	case s.text(w.config) == "":
		m.Value = "not set"
	case s.Secret, s.mayHoldSecret() && !isPath(s.text(w.config)):
		m.Value = "(secret)"
	}
	w.warnings = append(w.warnings, m.Error())
}

// postgres looks at the connection string that role uses. Files that cannot be read
// are CheckFiles's business.
func (w *warner) postgres(role Role) {
	c := w.config
	if c.Store.Kind != StorePostgres || role == ForClient {
		return
	}
	key := "store.postgres.dsn"
	if c.Store.Postgres.DSNFile != "" {
		key = "store.postgres.dsn_file"
	}
	dsn, err := c.StoreDSN()
	if role == ForRelay && (c.Relay.DSN != "" || c.Relay.DSNFile != "") {
		key = "relay.dsn"
		if c.Relay.DSN == "" {
			key = "relay.dsn_file"
		}
		dsn, err = c.RelayDSN()
	}
	if err != nil || dsn == "" {
		return
	}
	if p, err := pgconn.ParseConfig(dsn); err == nil && p.Password != "" && strings.HasSuffix(key, "dsn") && !isLoopback(p.Host) {
		w.warn(key, "it holds a password, which cannot be changed while this runs, and can be read in the environment of the process: use %s_file", key)
	}
}

func (w *warner) broker() {
	urls, err := w.config.BrokerURLs()
	if err != nil {
		return
	}
	key := "amqp.url"
	if w.config.AMQP.URLFile != "" {
		key = "amqp.url_file"
	}
	for _, u := range urls {
		if CheckURL(u, true) == nil && CheckURL(u, false) != nil {
			w.warn(key, "connections to the broker may be unencrypted (allow_insecure): the password and who revokes what can be read on the way")
			return
		}
	}
}

// secretFiles looks who could change a secret.
func (w *warner) secretFiles() {
	for i := range settings() {
		s := &settings()[i]
		if !strings.HasSuffix(s.Key, "_file") || s.text(w.config) == "" {
			continue
		}
		if info, err := os.Stat(s.text(w.config)); err == nil && info.Mode().Perm()&othersMayEdit != 0 {
			w.warn(s.Key, "others may write this file (mode %04o): chmod go-w it", info.Mode().Perm())
		}
	}
}

func (w *warner) listeners() {
	c := w.config
	if s := &c.Listen.Socket; s.Path != "" && s.Mode&othersMayAsk != 0 && len(s.AllowedUIDs) == 0 {
		w.warn("listen.socket.mode", "every user of the machine may ask: use 0660 and a common group, or listen.socket.allowed_uids")
	}
	if c.Startup.Require == RequireNone {
		w.warn("startup.require", "the application is started before a key can be judged, and gets 503 until then")
	}
}

func (w *warner) freshness() {
	c := w.config
	f := &c.Freshness
	if f.MaxStaleness > longBound {
		w.warn("freshness.max_staleness", "a revoked key can be accepted for up to %s when something is broken", formatDuration(f.MaxStaleness))
	}
	if f.FenceInterval < shortFence && c.Store.Kind == StorePostgres {
		w.warn("freshness.fence_interval", "each sidecar asks the primary %.0f times a second, also at rest", float64(time.Second)/float64(f.FenceInterval))
	}
}

func (w *warner) reads() {
	c := w.config
	if c.Cache.FillTimeout > c.Freshness.MaxStaleness {
		w.warn("cache.fill_timeout", "what is read later than freshness.max_staleness (%s) after its question is thrown away, and the caller has waited for nothing",
			formatDuration(c.Freshness.MaxStaleness))
	}
	if ttl := c.Cache.MaxTTL; ttl != 0 && ttl < shortTTL {
		w.warn("cache.max_ttl", "every key that is in use is read again after this time; revocations do not need it")
	}
	if p := &c.Store.Postgres; c.Store.Kind == StorePostgres && p.MaxConns > manyConns {
		w.warn("store.postgres.max_conns", "each sidecar may open so many: 100 sidecars, %d connections", 100*p.MaxConns)
	}
	switch every := c.Audit.Interval; {
	case every == 0:
		w.warn("audit.interval", "memory is never compared with the store: a key that was changed unseen stays as it was")
	case every > longAudit:
		w.warn("audit.interval", "the alert KeysidecarAuditStopped rings after %s without a comparison", formatDuration(longAudit))
	}
}

func (w *warner) fleet() {
	c := w.config
	if !c.Fleet.Report && c.Store.Kind == StorePostgres {
		w.warn("fleet.report", "this sidecar answers only while the database allows its bound (keysidecar.allow_unreported), and every receipt waits that long")
	}
}

func (w *warner) relay() {
	if r := &w.config.Relay; r.Retention < shortLog {
		w.warn("relay.retention", "whoever was away for longer has to load everything anew, and a replay begins no earlier; the newest 10,000 events stay in any case")
	}
}
