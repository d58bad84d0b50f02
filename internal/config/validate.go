package config

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Role is what a configuration is to be used for; it decides which settings must
// be there.
type Role int

const (
	// ForSidecar: keysidecar serve.
	ForSidecar Role = iota
	// ForRelay: keysidecar relay.
	ForRelay
	// ForAdmin: a command that works on the store (keys, owners, migrate).
	ForAdmin
	// ForDatabase: a command on the database that the relay reads (migrate, relay
	// --replay-from).
	ForDatabase
	// ForClient: a command that asks a running sidecar (verify, status, wait).
	ForClient
)

// maxSocketPath is the size of sun_path less its final zero (unix(7)).
const maxSocketPath = 107

// Validate reports every value that cannot work in role, without looking at
// anything outside c. The error joins all of them and wraps ErrInvalid.
func (c *Config) Validate(role Role) error {
	v := validator{config: c}
	switch role {
	case ForSidecar:
		v.store(role)
		v.instance()
		v.listen()
		v.startup()
		v.cache()
		v.freshness()
		v.audit()
		v.usage()
		v.authz()
		v.broker(false)
	case ForRelay:
		v.store(role)
		v.instance()
		v.adminAddress()
		v.relay()
		v.broker(true)
	case ForAdmin:
		v.store(role)
	case ForDatabase:
		v.store(role)
		v.relayDSN()
	case ForClient:
		v.listen()
	}
	v.allowInsecure()
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, FormatJSON, FormatConsole)
	return invalid(v.mistakes)
}

// validator collects mistakes.
type validator struct {
	config   *Config
	mistakes []error
}

// fail notes that key's value is wrong: why, and what would mend it. The value
// and where it came from are added.
func (v *validator) fail(key, format string, args ...any) {
	s := findSetting(key)
	if s == nil {
		panic("config: no setting " + key)
	}
	value := fmt.Sprintf("%q", s.text(v.config))
	switch {
	case s.text(v.config) == "":
		value = "not set"
	case s.Secret, s.mayHoldSecret() && !isPath(s.text(v.config)):
		value = "(secret)"
	}
	v.mistakes = append(v.mistakes, &Mistake{key, value, v.config.originOf(key), fmt.Sprintf(format, args...)})
}

func (v *validator) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	hint := ""
	near := Nearest(value, allowed)
	for _, a := range allowed {
		if strings.HasPrefix(value, a) { // warning for warn
			near = a
		}
	}
	if near != "" {
		hint = "; did you mean " + near + "?"
	}
	v.fail(key, "must be %s%s", strings.Join(allowed, " or "), hint)
}

func (v *validator) positive(key string, value int) {
	if value < 1 {
		v.fail(key, "must be at least 1")
	}
}

func (v *validator) within(key string, value, least, most time.Duration) {
	if value < least || value > most {
		v.fail(key, "must be between %s and %s", formatDuration(least), formatDuration(most))
	}
}

// instanceName keeps to what RabbitMQ, Prometheus and file names all take, with
// maxInstanceName. Expressions that count are large, and cost every start more than all
// others together, so that lengths are compared beside them, here and below.
var instanceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

const maxInstanceName = 128

func (v *validator) instance() {
	if name := v.config.Instance; len(name) > maxInstanceName || !instanceName.MatchString(name) {
		v.fail("instance", "must be 1 to 128 letters, digits, dots, dashes and underscores, and be unique in the fleet")
	}
}

func (v *validator) listen() {
	l := &v.config.Listen
	if l.Socket.Path == "" && l.TCP.Address == "" {
		v.fail("listen.socket.path", "the sidecar would listen nowhere: set this, listen.tcp.address, or both")
	}
	if n := len(l.Socket.Path); n > maxSocketPath {
		v.fail("listen.socket.path", "is %d bytes long, and a Unix socket's path can have %d: choose a shorter directory or a relative path",
			n, maxSocketPath)
	}
	if strings.ContainsRune(l.Socket.Path, 0) || strings.HasPrefix(l.Socket.Path, "@") {
		v.fail("listen.socket.path", "must be a path in the file system: abstract sockets have no file mode to protect them")
	}
	if l.Socket.Mode&0o200 == 0 {
		v.fail("listen.socket.mode", "lets not even its owner connect, which needs the right to write: use 0660 or 0600")
	}
	if l.Socket.GID != nil && *l.Socket.GID < 0 {
		v.fail("listen.socket.gid", "must be a numeric group id, 0 or more")
	}
	for _, uid := range l.Socket.AllowedUIDs {
		if uid < 0 {
			v.fail("listen.socket.allowed_uids", "%d is no user id: use 0 or more", uid)
		}
	}
	v.tcp()
	v.adminAddress()
}

func (v *validator) tcp() {
	tcp := &v.config.Listen.TCP
	if tcp.Address == "" {
		if tcp.TokenFile != "" {
			v.fail("listen.tcp.token_file", "has no effect without listen.tcp.address: set that, or leave this out")
		}
		return
	}
	host, ok := v.address("listen.tcp.address", tcp.Address)
	if ok && !isLoopback(host) {
		v.fail("listen.tcp.address", "must be on this machine: use 127.0.0.1 or [::1]; the data listener has no encryption and never leaves the pod")
	}
}

func (v *validator) adminAddress() {
	if a := v.config.Listen.Admin.Address; a != "" {
		v.address("listen.admin.address", a)
	}
}

// address checks the form host:port and returns the host.
func (v *validator) address(key, address string) (host string, ok bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		v.fail(key, "must be an address and a port, such as 127.0.0.1:9475 or :9476")
		return "", false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		v.fail(key, "%q is no port: use a number up to 65535", port)
		return "", false
	}
	return host, true
}

// isLoopback reports whether host is certainly this machine. Names other than
// localhost are not looked up: what they mean can change.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

var relationForm = regexp.MustCompile(`^[a-z_][a-z0-9_$]*\.[a-z_][a-z0-9_$]*$`)

// maxIdentifier is how long a name in Postgres may be.
const maxIdentifier = 63

func isRelation(name string) bool {
	schemaName, rest, _ := strings.Cut(name, ".")
	return max(len(schemaName), len(rest)) <= maxIdentifier && relationForm.MatchString(name)
}

func (v *validator) store(role Role) {
	s := &v.config.Store
	v.oneOf("store.kind", s.Kind, StorePostgres, StoreFile)
	switch {
	case s.Kind == StoreFile && role == ForRelay:
		v.fail("store.kind", "a relay publishes the events of a database and has nothing to do for a key file: use %s", StorePostgres)
	case s.Kind == StoreFile && role == ForDatabase:
		v.fail("store.kind", "a key file has no tables to migrate: use %s", StorePostgres)
	case s.Kind == StoreFile:
		if s.File.Path == "" {
			v.fail("store.file.path", "must name the key file when store.kind is %s", StoreFile)
		}
	case s.Kind == StorePostgres:
		v.postgres(role)
	}
}

func (v *validator) postgres(role Role) {
	p := &v.config.Store.Postgres
	if p.DSN != "" && p.DSNFile != "" {
		v.fail("store.postgres.dsn_file", "store.postgres.dsn is set, too: keep one of them")
	}
	haveOwn := (role == ForRelay || role == ForDatabase) && (v.config.Relay.DSN != "" || v.config.Relay.DSNFile != "")
	if p.DSN == "" && p.DSNFile == "" && !haveOwn {
		v.fail("store.postgres.dsn", "must say how to reach Postgres (or set store.postgres.dsn_file, or store.kind: %s to do without a database)", StoreFile)
	}
	if p.DSN != "" {
		v.dsn("store.postgres.dsn", p.DSN)
	}
	if !isRelation(p.Relation) {
		v.fail("store.postgres.relation", "must be a table or view, with its schema, in lower case without quotes: app.api_keys")
	}
	if role == ForSidecar {
		if p.MaxConns < 2 || p.MaxConns > 64 {
			v.fail("store.postgres.max_conns", "must be between 2 (one for the fence, one for the rest) and 64")
		}
		v.oneOf("store.postgres.exec_mode", p.ExecMode, ExecCacheStatement, ExecCacheDescribe)
	}
}

func (v *validator) startup() {
	s := &v.config.Startup
	v.oneOf("startup.require", s.Require, RequireWarm, RequireNone)
	v.within("startup.max_wait", s.MaxWait, time.Second, 24*time.Hour)
}

func (v *validator) cache() {
	c := &v.config.Cache
	v.positive("cache.capacity", c.Capacity)
	if c.MaxTTL != 0 {
		v.within("cache.max_ttl", c.MaxTTL, time.Second, 8760*time.Hour)
	}
	v.within("cache.negative_ttl", c.NegativeTTL, 0, time.Hour)
	v.within("cache.fill_timeout", c.FillTimeout, time.Millisecond, time.Minute)
	v.positive("cache.max_fills", c.MaxFills)
	v.positive("cache.miss_rate", c.MissRate)
}

func (v *validator) freshness() {
	f := &v.config.Freshness
	v.within("freshness.max_staleness", f.MaxStaleness, 100*time.Millisecond, time.Hour)
	v.within("freshness.fence_interval", f.FenceInterval, 10*time.Millisecond, time.Hour)
	if f.FenceInterval > f.MaxStaleness/2 {
		v.fail("freshness.fence_interval", "must be at most half of freshness.max_staleness (%s), so that one failed fence is not an outage",
			formatDuration(f.MaxStaleness))
	}
	v.within("freshness.min_fence_gap", f.MinFenceGap, time.Millisecond, time.Minute)
	if f.MinFenceGap > f.FenceInterval {
		v.fail("freshness.min_fence_gap", "must be at most freshness.fence_interval (%s)", formatDuration(f.FenceInterval))
	}
	v.oneOf("freshness.on_stale", f.OnStale, FailClosed, ServeStale)
	switch {
	case f.OnStale == ServeStale && f.StaleLimit == 0:
		v.fail("freshness.stale_limit", "on_stale: %s needs a limit, at least freshness.max_staleness (%s): it becomes the longest time a revoked key can be accepted",
			ServeStale, formatDuration(f.MaxStaleness))
	case f.OnStale == ServeStale && f.StaleLimit < f.MaxStaleness:
		v.fail("freshness.stale_limit", "is shorter than freshness.max_staleness (%s): raise it, or use on_stale: %s",
			formatDuration(f.MaxStaleness), FailClosed)
	case f.OnStale == FailClosed && f.StaleLimit != 0:
		v.fail("freshness.stale_limit", "has no effect with on_stale: %s: leave it out, or use on_stale: %s", FailClosed, ServeStale)
	}
}

func (v *validator) audit() {
	a := &v.config.Audit
	if a.Interval != 0 {
		v.within("audit.interval", a.Interval, 100*time.Millisecond, 24*time.Hour)
	}
	if a.Sample < 1 || a.Sample > 250 {
		v.fail("audit.sample", "must be between 1 and 250; audit.interval: 0 switches it off")
	}
}

func (v *validator) usage() {
	u := &v.config.Usage
	if u.Enabled && v.config.Store.Kind == StoreFile {
		v.fail("usage.enabled", "last uses are written to a database, and store.kind is %s: leave it out", StoreFile)
	}
	v.within("usage.interval", u.Interval, time.Second, 24*time.Hour)
	v.within("usage.resolution", u.Resolution, time.Second, 24*time.Hour)
}

// policyName keeps to what a path takes without encoding.
var policyName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// fieldName is the name of a header field (RFC 9110, 5.1).
var fieldName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// maxName is how long these two may be.
const maxName = 64

// notForCredentials are fields that say where a message ends, or that a gateway
// sets itself.
var notForCredentials = []string{
	"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "keep-alive", "cookie",
	"cache-control", "x-keysidecar-key-id", "x-keysidecar-owner-id", "x-keysidecar-scopes",
}

func (v *validator) authz() {
	a := &v.config.Authz
	if a.Credential == "" {
		for _, key := range []string{"authz.header", "authz.owner_id", "authz.scopes", "authz.attributes", "authz.policies"} {
			if s := findSetting(key); s.text(v.config) != s.text(Default()) {
				v.fail(key, "has no effect without authz.credential: set that, or leave this out")
			}
		}
		return
	}
	v.oneOf("authz.credential", a.Credential, CredentialSecret, CredentialKeyID)
	if len(a.Header) == 0 || len(a.Header) > 8 {
		v.fail("authz.header", "must name 1 to 8 header fields, such as X-Api-Key")
	}
	var seen []string
	for _, name := range a.Header {
		lower := strings.ToLower(name)
		switch {
		case len(name) > maxName || !fieldName.MatchString(name):
			v.fail("authz.header", "%q is not the name of a header field", name)
		case slices.Contains(notForCredentials, lower):
			v.fail("authz.header", "%s has a meaning of its own: use another field", name)
		case slices.Contains(seen, lower):
			v.fail("authz.header", "%s is named twice", name)
		}
		seen = append(seen, lower)
	}
	if slices.Equal(seen, []string{"authorization"}) && v.config.Listen.Socket.Path == "" && v.config.Listen.TCP.TokenFile != "" {
		v.fail("authz.header", "Authorization holds the listener's own token (listen.tcp.token_file): name another field for the credential")
	}
	v.policy("authz", Policy{a.OwnerID, a.Scopes, a.Attributes})
	for _, name := range slices.Sorted(maps.Keys(a.Policies)) {
		v.policy("authz.policies."+name, a.Policies[name])
	}
}

// policy checks what a store could never hold.
func (v *validator) policy(at string, p Policy) {
	key := func(member string) string {
		if at == "authz" {
			return "authz." + member
		}
		return "authz.policies"
	}
	if len(p.OwnerID) > 256 || strings.ContainsFunc(p.OwnerID, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		v.fail(key("owner_id"), "%s.owner_id must have at most 256 bytes and no control characters", at)
	}
	for _, s := range p.Scopes {
		if len(p.Scopes) > 64 || len(s) > 256 {
			v.fail(key("scopes"), "%s.scopes must be at most 64 of at most 256 bytes each", at)
			break
		}
	}
	if len(p.Attributes) > 1024 {
		v.fail(key("attributes"), "%s.attributes must have at most 1024 bytes, as a key's do", at)
	}
}

func (v *validator) broker(needed bool) {
	a := &v.config.AMQP
	if len(a.URL) > 0 && a.URLFile != "" {
		v.fail("amqp.url_file", "amqp.url is set, too: keep one of them")
	}
	if len(a.URL) == 0 && a.URLFile == "" {
		if needed {
			v.fail("amqp.url", "the relay publishes to RabbitMQ: set this or amqp.url_file")
		}
		return
	}
	v.urls("amqp.url", a.URL)
	v.shortText("amqp.exchange", a.Exchange, 1, 255)
	if strings.HasPrefix(a.Exchange, "amq.") {
		v.fail("amqp.exchange", "names that begin with amq. belong to the broker: choose another")
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		v.fail("amqp.cert_file", "a client certificate needs both amqp.cert_file and amqp.key_file")
	}
	if needed {
		return
	}
	// The instance (128 bytes) and a suffix follow, and a queue's name has 255.
	v.shortText("amqp.queue_prefix", a.QueuePrefix, 0, 100)
	if strings.HasPrefix(a.QueuePrefix, "amq.") {
		v.fail("amqp.queue_prefix", "names that begin with amq. belong to the broker: choose another")
	}
	v.within("amqp.queue_expires", a.QueueExpires, time.Second, 720*time.Hour)
	v.positive("amqp.queue_max_length", a.QueueMaxLength)
}

func (v *validator) shortText(key, value string, least, most int) {
	if len(value) < least || len(value) > most {
		v.fail(key, "must have %d to %d bytes", least, most)
	}
}

func (v *validator) relay() {
	r := &v.config.Relay
	v.within("relay.poll_interval", r.PollInterval, time.Millisecond, time.Minute)
	if r.Batch < 1 || r.Batch > 10_000 {
		v.fail("relay.batch", "must be between 1 and 10000")
	}
	v.within("relay.retention", r.Retention, time.Hour, 87600*time.Hour)
	v.oneOf("relay.wakeup", r.Wakeup, WakeupNotify, WakeupPoll)
	v.relayDSN()
}

func (v *validator) relayDSN() {
	r := &v.config.Relay
	if r.DSN != "" && r.DSNFile != "" {
		v.fail("relay.dsn_file", "relay.dsn is set, too: keep one of them")
	}
	if r.DSN != "" {
		v.dsn("relay.dsn", r.DSN)
	}
}

func (v *validator) allowInsecure() {
	for _, name := range v.config.AllowInsecure {
		if name != InsecurePostgres && name != InsecureAMQP {
			v.fail("allow_insecure", "%q is no transport: name %s, %s or both", name, InsecurePostgres, InsecureAMQP)
		}
	}
}
