package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// valid returns a sidecar's configuration without a mistake.
func valid() *Config {
	c := Default()
	c.Instance = "test"
	c.Store.Postgres.DSN = "postgres://user:hunter2@localhost/app"
	return c
}

func TestDefaultsAreValidOnceTheStoreIsNamed(t *testing.T) {
	clearEnv(t)
	if err := valid().Validate(ForSidecar); err != nil {
		t.Error(err)
	}
	c := valid()
	c.AMQP.URL = []string{"amqp://user:hunter2@localhost"}
	if err := c.Validate(ForRelay); err != nil {
		t.Error(err)
	}
}

func TestMistakesNameTheKeyTheValueAndTheMend(t *testing.T) {
	clearEnv(t)
	gid := -1
	for name, test := range map[string]struct {
		role   Role
		change func(*Config)
		want   string
	}{
		"no store":                   {0, func(c *Config) { c.Store.Postgres.DSN = "" }, "store.postgres.dsn: not set: must say how to reach Postgres"},
		"two stores":                 {0, func(c *Config) { c.Store.Postgres.DSNFile = "/x" }, `store.postgres.dsn_file: "/x": store.postgres.dsn is set, too`},
		"unknown store":              {0, func(c *Config) { c.Store.Kind = "postgre" }, `store.kind: "postgre": must be postgres or file; did you mean postgres?`},
		"file store without a file":  {0, func(c *Config) { c.Store.Kind = StoreFile }, `store.file.path: not set: must name the key file`},
		"relay of a file":            {ForRelay, func(c *Config) { c.Store.Kind = StoreFile }, "store.kind: \"file\": a relay publishes"},
		"relay without a broker":     {ForRelay, func(*Config) {}, "amqp.url: not set: the relay publishes to RabbitMQ"},
		"quoted relation":            {0, func(c *Config) { c.Store.Postgres.Relation = `app."Keys"` }, "store.postgres.relation"},
		"injection in the relation":  {0, func(c *Config) { c.Store.Postgres.Relation = "keys; drop table x" }, "store.postgres.relation"},
		"one connection":             {0, func(c *Config) { c.Store.Postgres.MaxConns = 1 }, "store.postgres.max_conns: \"1\": must be between 2"},
		"unreadable dsn":             {0, func(c *Config) { c.Store.Postgres.DSN = "postgres://user:hunter2@host:port/" }, "store.postgres.dsn: (secret)"},
		"unencrypted":                {0, func(c *Config) { c.Store.Postgres.DSN = "postgres://u:hunter2@db/x?sslmode=disable" }, "lets the connection to db be unencrypted: use sslmode=verify-full"},
		"perhaps unencrypted":        {0, func(c *Config) { c.Store.Postgres.DSN = "postgres://u:hunter2@db/x" }, "lets the connection to db be unencrypted"},
		"fallback unencrypted":       {0, func(c *Config) { c.Store.Postgres.DSN = "host=localhost,db password=hunter2 sslmode=allow" }, "lets the connection to db be unencrypted"},
		"broker unencrypted":         {0, func(c *Config) { c.AMQP.URL = []string{"amqps://a", "amqp://u:hunter2@b"} }, "amqp.url: (secret): URL 2 lets the connection to b be unencrypted: use amqps"},
		"broker of another kind":     {0, func(c *Config) { c.AMQP.URL = []string{"http://u:hunter2@b"} }, "URL 1 must begin with amqps://"},
		"broker without host":        {0, func(c *Config) { c.AMQP.URL = []string{"amqps:///x"} }, "URL 1 names no host"},
		"unreadable broker":          {0, func(c *Config) { c.AMQP.URL = []string{"amqps://u:hunter2%zz@b"} }, "URL 1 is no valid URL: percent-encode"},
		"two brokers":                {0, func(c *Config) { c.AMQP.URL, c.AMQP.URLFile = []string{"amqps://b"}, "/x" }, "amqp.url_file: \"/x\": amqp.url is set, too"},
		"half a certificate":         {0, func(c *Config) { c.AMQP.URL, c.AMQP.CertFile = []string{"amqps://b"}, "x" }, "needs both"},
		"broker's own exchange":      {0, func(c *Config) { c.AMQP.URL, c.AMQP.Exchange = []string{"amqps://b"}, "amq.fanout" }, "belong to the broker"},
		"unknown transport":          {0, func(c *Config) { c.AllowInsecure = []string{"http"} }, `allow_insecure: "http": "http" is no transport`},
		"stale without a limit":      {0, func(c *Config) { c.Freshness.OnStale = ServeStale }, `freshness.stale_limit: "0s": on_stale: serve_stale needs a limit`},
		"limit below staleness":      {0, func(c *Config) { c.Freshness.OnStale, c.Freshness.StaleLimit = ServeStale, time.Second }, "is shorter than freshness.max_staleness (3s)"},
		"limit without serve_stale":  {0, func(c *Config) { c.Freshness.StaleLimit = time.Hour }, "has no effect with on_stale: fail_closed"},
		"fences too rare":            {0, func(c *Config) { c.Freshness.FenceInterval = 2 * time.Second }, `freshness.fence_interval: "2s": must be at most half of freshness.max_staleness (3s)`},
		"audits without end":         {0, func(c *Config) { c.Audit.Interval = time.Millisecond }, `audit.interval: "1ms": must be between 100ms and 24h`},
		"audits of nothing":          {0, func(c *Config) { c.Audit.Sample = 0 }, `audit.sample: "0": must be between 1 and 250; audit.interval: 0 switches it off`},
		"gap above the interval":     {0, func(c *Config) { c.Freshness.MinFenceGap = 2 * time.Second }, "must be at most freshness.fence_interval (1s)"},
		"policy misspelt":            {0, func(c *Config) { c.Freshness.OnStale = "serve-stale" }, "did you mean serve_stale?"},
		"long socket":                {0, func(c *Config) { c.Listen.Socket.Path = "/" + strings.Repeat("x", 107) }, "is 108 bytes long, and a Unix socket's path can have 107"},
		"abstract socket":            {0, func(c *Config) { c.Listen.Socket.Path = "@x" }, "abstract sockets have no file mode"},
		"no listener":                {0, func(c *Config) { c.Listen.Socket.Path = "" }, "would listen nowhere"},
		"useless mode":               {0, func(c *Config) { c.Listen.Socket.Mode = 0o044 }, `listen.socket.mode: "0044": lets not even its owner connect`},
		"negative gid":               {0, func(c *Config) { c.Listen.Socket.GID = &gid }, "listen.socket.gid"},
		"negative uid":               {0, func(c *Config) { c.Listen.Socket.AllowedUIDs = []int{-2} }, "-2 is no user id"},
		"public data":                {0, func(c *Config) { c.Listen.TCP.Address = "0.0.0.0:9475" }, `listen.tcp.address: "0.0.0.0:9475": must be on this machine`},
		"public data, all addresses": {0, func(c *Config) { c.Listen.TCP.Address = ":9475" }, "must be on this machine"},
		"data on a name":             {0, func(c *Config) { c.Listen.TCP.Address = "example.org:9475" }, "must be on this machine"},
		"token without a listener":   {0, func(c *Config) { c.Listen.TCP.TokenFile = "x" }, "has no effect without listen.tcp.address"},
		"address without a port":     {0, func(c *Config) { c.Listen.Admin.Address = "localhost" }, "must be an address and a port"},
		"port out of range":          {0, func(c *Config) { c.Listen.Admin.Address = ":99999" }, `"99999" is no port`},
		"instance with a space":      {0, func(c *Config) { c.Instance = "a b" }, "instance: \"a b\": must be 1 to 128 letters"},
		"no capacity":                {0, func(c *Config) { c.Cache.Capacity = 0 }, `cache.capacity: "0": must be at least 1`},
		"short ttl":                  {0, func(c *Config) { c.Cache.MaxTTL = time.Millisecond }, "cache.max_ttl"},
		"unknown level":              {0, func(c *Config) { c.Log.Level = "warning" }, "did you mean warn?"},
		"unknown requirement":        {0, func(c *Config) { c.Startup.Require = "snapshot" }, "startup.require: \"snapshot\": must be warm or none"},
		"large batch":                {ForRelay, func(c *Config) { c.Relay.Batch = 1_000_000 }, "relay.batch: \"1000000\": must be between 1 and 10000"},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid()
			test.change(c)
			err := c.Validate(test.role)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("have %v\nwant %s", err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestUnencryptedConnectionsAreFineOnThisMachineOrByName(t *testing.T) {
	clearEnv(t)
	for _, dsn := range []string{"postgres://u@127.0.0.1/x?sslmode=disable", "postgres://u@[::1]/x", "host=/run/postgresql", "dbname=x host=localhost"} {
		if err := CheckDSN(dsn, false); err != nil {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	if err := CheckDSN("host=db sslmode=disable", true); err != nil {
		t.Error(err)
	}
	for _, url := range []string{"amqp://127.0.0.1", "amqp://u:p@localhost:5672/v", "amqp://[::1]/", "amqps://far.example"} {
		if err := CheckURL(url, false); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := CheckURL("amqp://broker", true); err != nil {
		t.Error(err)
	}
}

func TestTheOriginOfAWrongValueIsNamed(t *testing.T) {
	clearEnv(t)
	t.Setenv("KEYSIDECAR_CACHE_CAPACITY", "-1")
	c, _, err := load(t, "instance: test\nlog: {level: loud}\nstore: {postgres: {dsn: host=localhost}}")
	if err != nil {
		t.Fatal(err)
	}
	err = c.Validate(ForSidecar)
	if err == nil || !strings.Contains(err.Error(), `cache.capacity: "-1" (environment KEYSIDECAR_CACHE_CAPACITY)`) ||
		!strings.Contains(err.Error(), "keysidecar.yaml:2)") {
		t.Errorf("have %v", err)
	}
}

func TestMissingAndEmptyFilesAreNamed(t *testing.T) {
	clearEnv(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	short := filepath.Join(dir, "short")
	bad := filepath.Join(dir, "bad")
	for name, content := range map[string]string{empty: " \n", short: "pepper", bad: "http://user:hunter2@x"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"socket directory":  {func(c *Config) { c.Listen.Socket.Path = dir + "/none/s" }, "the directory " + dir + "/none does not exist: create it"},
		"no directory":      {func(c *Config) { c.Listen.Socket.Path = short + "/s" }, "is not a directory"},
		"file as socket":    {func(c *Config) { c.Listen.Socket.Path = short }, "exists and is not a socket"},
		"dsn":               {func(c *Config) { c.Store.Postgres.DSN, c.Store.Postgres.DSNFile = "", dir+"/none" }, "store.postgres.dsn_file: open " + dir + "/none"},
		"empty dsn":         {func(c *Config) { c.Store.Postgres.DSN, c.Store.Postgres.DSNFile = "", empty }, "store.postgres.dsn_file: " + empty + " is empty"},
		"broker":            {func(c *Config) { c.AMQP.URLFile = bad }, "URL 1 must begin with amqps://"},
		"pepper":            {func(c *Config) { c.Keys.PepperFile = short }, "a pepper needs at least 16"},
		"token":             {func(c *Config) { c.Listen.TCP.Address, c.Listen.TCP.TokenFile = "127.0.0.1:1", empty }, "listen.tcp.token_file"},
		"authorities":       {func(c *Config) { c.AMQP.CAFile = short }, "holds no PEM certificate"},
		"certificate":       {func(c *Config) { c.AMQP.CertFile, c.AMQP.KeyFile = short, short }, "amqp.cert_file"},
		"key file of store": {func(c *Config) { c.Store.Kind, c.Store.File.Path = StoreFile, dir+"/none" }, "store.file.path"},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid()
			c.Listen.Socket.Path = filepath.Join(dir, "s")
			if err := c.CheckFiles(ForSidecar); err != nil {
				t.Fatal(err)
			}
			test.change(c)
			err := c.CheckFiles(ForSidecar)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("have %v\nwant %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestSecretFilesAreReadAnewSoThatPasswordsCanChange(t *testing.T) {
	clearEnv(t)
	file := filepath.Join(t.TempDir(), "urls")
	c := Default()
	c.AMQP.URLFile = file
	for _, want := range []string{"amqps://a,amqps://b", "amqps://c"} {
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(want, ",", "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		urls, err := c.BrokerURLs()
		if err != nil || strings.Join(urls, ",") != want {
			t.Errorf("have %v, %v, want %s", urls, err, want)
		}
	}
}

func TestPrintingShowsNoSecret(t *testing.T) {
	clearEnv(t)
	c := valid()
	c.Relay.DSN = "host=db user=relay password=hunter2 sslmode=verify-full"
	c.AMQP.URL = []string{"amqps://user:hunter2@broker:5671/vhost?auth=hunter2", "amqps://%zz:hunter2@x"}
	var b strings.Builder
	if err := WriteYAML(&b, c.Redacted()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("the configuration as printed shows a password:\n%s", b.String())
	}
	for _, want := range []string{"host=localhost port=5432 dbname=app user=user", "amqps://user:***@broker:5671/vhost"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is not in\n%s", want, b.String())
		}
	}
}

func TestThePromiseNamesTheBoundThatIsInForce(t *testing.T) {
	c := valid()
	if p := strings.Join(c.Promise(), "\n"); !strings.Contains(p, "at most 3s after") || !strings.Contains(p, "shorter than 2s") || !strings.Contains(p, "no broker") {
		t.Errorf("have %s", p)
	}
	c.Freshness.OnStale, c.Freshness.StaleLimit = ServeStale, 10*time.Minute
	if p := strings.Join(c.Promise(), "\n"); !strings.Contains(p, "at most 10m after") || !strings.Contains(p, "marked stale") {
		t.Errorf("have %s", p)
	}
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "for up to 10m while Postgres is away") {
		t.Errorf("have %s", w)
	}
}

func TestUncheckedCertificatesAreRefusedUnlessAllowed(t *testing.T) {
	clearEnv(t)
	for _, test := range []struct{ dsn, refused, warned string }{
		{"postgres://db/x?sslmode=disable", "lets the connection to db be unencrypted", "unencrypted"},
		{"postgres://db/x", "lets the connection to db be unencrypted", "unencrypted"}, // prefer, the default
		{"postgres://db/x?sslmode=allow", "lets the connection to db be unencrypted", "unencrypted"},
		{"postgres://db/x?sslmode=require", "does not check the certificate of db", "certificate is not checked"},
		{"postgres://127.0.0.1,db/x?sslmode=require", "does not check the certificate of db", "certificate is not checked"},
		{"postgres://db/x?sslmode=verify-ca", "", "whoever has a certificate of the authority"},
		{"postgres://db/x?sslmode=verify-full", "", ""},
		{"postgres://127.0.0.1/x?sslmode=require", "", ""},
	} {
		c := valid()
		c.Store.Postgres.DSN = test.dsn
		err := c.Validate(ForSidecar)
		if (err == nil) != (test.refused == "") || err != nil && !strings.Contains(err.Error(), test.refused) {
			t.Errorf("%s: %v, want %q", test.dsn, err, test.refused)
		}
		c.AllowInsecure = []string{InsecurePostgres}
		if err := c.Validate(ForSidecar); err != nil {
			t.Errorf("%s, allowed: %v", test.dsn, err)
		}
		w := strings.Join(c.Warnings(), "\n")
		if test.warned == "" && w != "" || !strings.Contains(w, test.warned) {
			t.Errorf("%s: warned %q, want %q", test.dsn, w, test.warned)
		}
	}
}

// The usual mistake: the secret itself where its file's name belongs. It would
// otherwise be in an error, in the log, and in what config print shows.
func TestASecretInThePlaceOfItsFileIsNotShown(t *testing.T) {
	clearEnv(t)
	const secret = "hunter2hunter2hunter2"
	c := valid()
	c.Listen.TCP.Address = "127.0.0.1:9475"
	c.Listen.TCP.TokenFile, c.Keys.PepperFile = secret, secret
	c.Store.Postgres.DSNFile = "host=db password=" + secret
	c.AMQP.URLFile = "amqps://u:" + secret + "@broker"
	c.AMQP.CAFile, c.AMQP.CertFile, c.AMQP.KeyFile = secret, secret, secret
	var b strings.Builder
	if err := WriteYAML(&b, c.Redacted()); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(c.Validate(ForSidecar)), fmt.Sprint(c.CheckFiles(ForSidecar)), fmt.Sprint(c.CheckFiles(ForRelay)), b.String()} {
		if strings.Contains(text, secret) {
			t.Errorf("shows the secret: %s", text)
		}
	}
	if err := c.CheckFiles(ForSidecar); err == nil || !strings.Contains(err.Error(), "listen.tcp.token_file: must be the path of a file") {
		t.Errorf("have %v", err)
	}
	for _, path := range []string{"/etc/keysidecar/dsn", "./token", "pepper.txt", "secrets/dsn", "/run/a=b/c"} {
		if !isPath(path) {
			t.Errorf("%s is not shown, and is a path", path)
		}
	}
}
