package config

import (
	"io/fs"
	"time"
)

// Config is every setting of keysidecar. Default gives the values used where
// nothing is said; the comments below are also the configuration table of the
// README and the help of the flags.
//
// Fields carry their key in the tag `key`, to which the keys of the structs around
// them are put in front. The tag `secret` keeps a setting off the command line,
// where every user of the machine could read it, and out of what is printed.
type Config struct {
	// Name of this instance in queue names, metrics and the registry; must be unique in the fleet. Default: POD_UID, else the host name.
	Instance string `key:"instance"`

	Listen    Listen    `key:"listen"`
	Store     Store     `key:"store"`
	Startup   Startup   `key:"startup"`
	Cache     Cache     `key:"cache"`
	Freshness Freshness `key:"freshness"`
	Audit     Audit     `key:"audit"`
	Usage     Usage     `key:"usage"`
	AMQP      AMQP      `key:"amqp"`
	Fleet     Fleet     `key:"fleet"`
	Relay     Relay     `key:"relay"`
	Keys      Keys      `key:"keys"`
	Authz     Authz     `key:"authz"`

	// Transports that may stay unencrypted beyond this machine: postgres, amqp. Danger: passwords and answers can be read and changed on the way.
	AllowInsecure []string `key:"allow_insecure"`

	Log Log `key:"log"`

	// origins says for each key that was set where its value came from.
	origins map[string]string
}

// Listen is where the daemon answers.
type Listen struct {
	Socket Socket `key:"socket"`
	TCP    TCP    `key:"tcp"`
	Admin  Admin  `key:"admin"`
}

// Socket is the Unix socket of the data plane.
type Socket struct {
	// Path of the Unix socket, at most 107 bytes; off or empty: no socket. Share its directory with the application, never the file itself.
	Path string `key:"path"`
	// File mode of the socket, in octal. Whoever may write to it may ask; it is set before the socket can be reached.
	Mode fs.FileMode `key:"mode"`
	// Numeric group that the socket is given; empty: the process's own.
	GID *int `key:"gid"`
	// Numeric user ids that may connect, as the kernel reports them; empty: any that the file mode lets in.
	AllowedUIDs []int `key:"allowed_uids"`
}

// TCP is the loopback listener of the data plane, for clients that cannot use a
// Unix socket.
type TCP struct {
	// Loopback address of a second data listener, such as 127.0.0.1:9475; off or empty: none. Every process on the machine or in the pod can reach it.
	Address string `key:"address"`
	// File with the bearer token that callers of listen.tcp.address must send; empty: none is asked for. Read again when it changes.
	TokenFile string `key:"token_file"`
}

// Admin is the listener for metrics and probes. It serves no key data.
type Admin struct {
	// Address for metrics and probes, reachable by the kubelet and by Prometheus; off or empty: none. It serves no key data.
	Address string `key:"address"`
}

// Store is where keys come from.
type Store struct {
	// Where keys come from: postgres, or file (a list of keys on disk, no database).
	Kind     string   `key:"kind"`
	Postgres Postgres `key:"postgres"`
	File     File     `key:"file"`
}

// Postgres is the database of the store and of the administrative commands.
type Postgres struct {
	// Connection string, URL or key=value, as libpq reads it. It must reach the primary. Use either this or store.postgres.dsn_file.
	DSN string `key:"dsn" secret:"true"`
	// File with the connection string. Read again at every new connection, so that a password can be changed while running.
	DSNFile string `key:"dsn_file"`
	// Table or view that holds the keys. A view over tables of your own needs keysidecar.watch on them.
	Relation string `key:"relation"`
	// Connections of one sidecar; one of them is the fence's own. Multiply by the number of pods before raising it.
	MaxConns int `key:"max_conns"`
	// How statements are sent: cache_statement, or cache_describe behind PgBouncer in transaction mode.
	ExecMode string `key:"exec_mode"`
}

// File is the store without a database.
type File struct {
	// Key file for store.kind file: YAML, JSON or a JWKS. It must not be writable by others; changes are seen at once.
	Path string `key:"path"`
}

// Startup is what must be true before the sidecar is started.
type Startup struct {
	// When the sidecar counts as started: warm (all keys that fit are loaded) or none (at once, answering unavailable until warm).
	Require string `key:"require"`
	// How long the first warm may take. After it the process ends with an error under startup.require warm, and goes on trying under none.
	MaxWait time.Duration `key:"max_wait"`
}

// Cache is the sidecar's memory.
type Cache struct {
	// Keys held in memory, about 264 bytes each. With fewer than there are, absence is no longer known and unknown keys cost a read.
	Capacity int `key:"capacity"`
	// Age after which a key in memory is read again, whatever the events say; 0: never.
	MaxTTL time.Duration `key:"max_ttl"`
	// How long an unknown key is remembered as unknown. A key issued in the meantime ends it at once.
	NegativeTTL time.Duration `key:"negative_ttl"`
	// How long one read of the store may take, and a request wait for it, before the answer is unavailable.
	FillTimeout time.Duration `key:"fill_timeout"`
	// Reads of the store under way at once; beyond them the answer is unavailable.
	MaxFills int `key:"max_fills"`
	// Reads of the store a second; beyond them the answer is unavailable. It bounds what a flood of unknown keys can cost the database.
	MissRate int `key:"miss_rate"`
}

// Freshness is the promise, and what happens when it cannot be kept.
type Freshness struct {
	// L of the promise: how long after its revocation was acknowledged a key can at most be accepted, whatever fails.
	MaxStaleness time.Duration `key:"max_staleness"`
	// How often the primary is asked what happened. Between an outage's beginning and refusals lie at least max_staleness minus this.
	FenceInterval time.Duration `key:"fence_interval"`
	// Shortest time between two fences that messages ask for, on the average: after a pause two may follow each other at once.
	MinFenceGap time.Duration `key:"min_fence_gap"`
	// What happens when max_staleness is over and Postgres is silent: fail_closed (503) or serve_stale. Danger: serve_stale makes stale_limit the L of the promise.
	OnStale string `key:"on_stale"`
	// Under serve_stale: the age up to which stale answers are given. At least max_staleness.
	StaleLimit time.Duration `key:"stale_limit"`
}

// Audit is the sidecar's check of its own memory against the store.
type Audit struct {
	// Mean time between two comparisons of a sample of memory with the store; 0: none. Each is one query for each sidecar.
	Interval time.Duration `key:"interval"`
	// Keys compared at a time, and keys of the store that are looked for in memory.
	Sample int `key:"sample"`
}

// Usage is what the sidecar tells the database about the use of keys.
type Usage struct {
	// Whether the time at which each key was last answered valid is written to keysidecar.key_usage, for people to see. A sidecar that is killed loses what it has not written yet.
	Enabled bool `key:"enabled"`
	// Mean time between two writes of last uses. Each needs one more connection, for some milliseconds.
	Interval time.Duration `key:"interval"`
	// What last uses are rounded down to. It bounds how often the row of a key in use is written, by all sidecars together.
	Resolution time.Duration `key:"resolution"`
}

// AMQP is the broker that makes revocations fast. No promise rests on it.
type AMQP struct {
	// Broker URLs, tried in turn; empty: no broker, fences only. Use either this or amqp.url_file.
	URL []string `key:"url" secret:"true"`
	// File with the broker URLs, by comma or line. Read again at every reconnect, so that a password can be changed while running.
	URLFile string `key:"url_file"`
	// File with the certificate authorities (PEM) that amqps servers are checked against; empty: the system's. Read again at every reconnect.
	CAFile string `key:"ca_file"`
	// File with the client certificate (PEM) for amqps; read again at every reconnect.
	CertFile string `key:"cert_file"`
	// File with the private key (PEM) of amqp.cert_file.
	KeyFile string `key:"key_file"`
	// Fanout exchange the relay publishes to and every sidecar binds its queue to.
	Exchange string `key:"exchange"`
	// What the name of a sidecar's queue begins with; the instance follows.
	QueuePrefix string `key:"queue_prefix"`
	// How long the broker keeps the queue of a sidecar that is gone.
	QueueExpires time.Duration `key:"queue_expires"`
	// Messages the broker keeps for a sidecar; the oldest are dropped beyond it, and a fence finds what they said.
	QueueMaxLength int `key:"queue_max_length"`
}

// Fleet is this sidecar's part in what the fleet knows about itself.
type Fleet struct {
	// Whether this sidecar registers and reports how far it has read, which receipts rest on. If not, the database must allow its bound (keysidecar.allow_unreported).
	Report bool `key:"report"`
}

// Relay is the process that publishes events.
type Relay struct {
	// How often the relay looks for new events where nothing wakes it.
	PollInterval time.Duration `key:"poll_interval"`
	// Events the relay reads and publishes at a time.
	Batch int `key:"batch"`
	// Age after which the relay deletes events from the log. The newest 10,000 always stay.
	Retention time.Duration `key:"retention"`
	// What wakes the relay: notify (LISTEN) or poll (every relay.poll_interval).
	Wakeup string `key:"wakeup"`
	// Whether the broker is to keep messages on disk, for subscribers of your own that must not miss one when it restarts. Sidecars do not need it, and hear of a revocation sooner without.
	Persistent bool `key:"persistent"`
	// Connection string of the relay. It must be direct, never through a pooler. Default: store.postgres.dsn.
	DSN string `key:"dsn" secret:"true"`
	// File with the relay's connection string; read again at every new connection.
	DSNFile string `key:"dsn_file"`
}

// Keys is how presented keys are read.
type Keys struct {
	// File with the pepper for secret keys: with it, key ids of secrets are HMACs. Danger: changing it makes every stored secret key unknown.
	PepperFile string `key:"pepper_file"`
}

// Authz is how gateways and frameworks ask: the routes /v1/authz,
// /v1/authz-policy and /v1/introspect.
type Authz struct {
	// What requests that a gateway asks about present: secret (a secret key, which is hashed) or key_id; empty: the routes for gateways and introspection are off. Danger: a key_id is not secret, so whoever knows one passes.
	Credential string `key:"credential"`
	// Header fields that may hold the credential; exactly one must, once. Authorization stands for its scheme Bearer.
	Header []string `key:"header"`
	// Owner that a key must have at /v1/authz; empty: any.
	OwnerID string `key:"owner_id"`
	// Scopes that a key must have at /v1/authz, all of them; empty: none.
	Scopes []string `key:"scopes"`
	// Attributes that a key must have at /v1/authz, as a JSON object or a group in the file, such as {"env": "live"}; empty: none.
	Attributes Attributes `key:"attributes"`
	// Named policies for /v1/authz-policy/<name>, each with owner_id, scopes and attributes: a group in the file, or a JSON object.
	Policies Policies `key:"policies"`
}

// Log is what the daemon writes about itself, to standard error.
type Log struct {
	// Least severe level that is logged: debug, info, warn, error. Key ids appear at debug only, key material never.
	Level string `key:"level"`
	// Form of log lines: json, or console for people.
	Format string `key:"format"`
}

// The values that settings with a closed set of values can have.
const (
	StorePostgres = "postgres"
	StoreFile     = "file"

	CredentialSecret = "secret"
	CredentialKeyID  = "key_id"

	ExecCacheStatement = "cache_statement"
	ExecCacheDescribe  = "cache_describe"

	RequireWarm = "warm"
	RequireNone = "none"

	FailClosed = "fail_closed"
	ServeStale = "serve_stale"

	WakeupNotify = "notify"
	WakeupPoll   = "poll"

	FormatJSON    = "json"
	FormatConsole = "console"

	// InsecurePostgres and InsecureAMQP are what allow_insecure can name.
	InsecurePostgres = "postgres"
	InsecureAMQP     = "amqp"
)

// DefaultRelation is where `migrate` creates the table of keys.
const DefaultRelation = "keysidecar.public_keys"

// Default returns the configuration used where nothing is said. It is complete
// but for the store: a DSN or a key file has no sensible default.
func Default() *Config {
	return &Config{
		Listen: Listen{
			Socket: Socket{Path: "/run/keysidecar/keysidecar.sock", Mode: 0o660},
			Admin:  Admin{Address: ":9476"},
		},
		Store: Store{
			Kind:     StorePostgres,
			Postgres: Postgres{Relation: DefaultRelation, MaxConns: 2, ExecMode: ExecCacheStatement},
		},
		Startup: Startup{Require: RequireWarm, MaxWait: time.Minute},
		Cache: Cache{
			Capacity:    100_000,
			NegativeTTL: 5 * time.Second,
			FillTimeout: 500 * time.Millisecond,
			MaxFills:    16,
			MissRate:    200,
		},
		Freshness: Freshness{
			MaxStaleness:  3 * time.Second,
			FenceInterval: time.Second,
			MinFenceGap:   100 * time.Millisecond,
			OnStale:       FailClosed,
		},
		Audit: Audit{Interval: 10 * time.Second, Sample: 20},
		Usage: Usage{Interval: time.Minute, Resolution: time.Minute},
		AMQP: AMQP{
			Exchange:       "keysidecar.events",
			QueuePrefix:    "keysidecar.q.",
			QueueExpires:   10 * time.Minute,
			QueueMaxLength: 10_000,
		},
		Fleet: Fleet{Report: true},
		Relay: Relay{
			PollInterval: 20 * time.Millisecond,
			Batch:        500,
			Retention:    168 * time.Hour,
			Wakeup:       WakeupNotify,
		},
		Authz: Authz{Header: []string{"X-Api-Key", "Authorization"}},
		Log:   Log{Level: "info", Format: FormatJSON},
	}
}
