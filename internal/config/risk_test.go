package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A setting that is legal and takes something away must not do so unsaid.
func TestARiskIsTakenUnsaid(t *testing.T) {
	clearEnv(t)
	loose := filepath.Join(t.TempDir(), "pepper")
	if err := os.WriteFile(loose, []byte(strings.Repeat("x", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o620); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		role   Role
		change func(*Config)
		want   string
	}{
		"password that stays": {ForSidecar, func(c *Config) { c.Store.Postgres.DSN = "postgres://u:hunter2@db/x?sslmode=verify-full" },
			"it holds a password, which cannot be changed while this runs"},
		"unencrypted broker": {ForRelay, func(c *Config) {
			c.AMQP.URL, c.AllowInsecure = []string{"amqp://u:hunter2@mq/"}, []string{InsecureAMQP}
		}, "amqp.url: (secret): connections to the broker may be unencrypted"},
		"file that others write": {ForSidecar, func(c *Config) { c.Keys.PepperFile = loose }, "others may write this file (mode 0620): chmod go-w it"},
		"socket for everybody":   {ForSidecar, func(c *Config) { c.Listen.Socket.Mode = 0o666 }, "listen.socket.mode: \"0666\": every user of the machine may ask"},
		"loopback for everybody": {ForSidecar, func(c *Config) { c.Listen.TCP.Address = "127.0.0.1:9475" }, "every process that shares this network namespace can ask"},
		"no probes":              {ForSidecar, func(c *Config) { c.Listen.Admin.Address = "" }, "listen.admin.address: not set: there are no metrics"},
		"key_id as credential":   {ForSidecar, func(c *Config) { c.Authz.Credential = CredentialKeyID }, "whoever knows one passes"},
		"started too early":      {ForSidecar, func(c *Config) { c.Startup.Require = RequireNone }, "gets 503 until then"},
		"stale answers":          {ForSidecar, func(c *Config) { c.Freshness.OnStale, c.Freshness.StaleLimit = ServeStale, time.Minute }, "for up to 1m while Postgres is away"},
		"long bound":             {ForSidecar, func(c *Config) { c.Freshness.MaxStaleness = time.Hour }, "accepted for up to 1h when something is broken"},
		"many fences": {ForSidecar, func(c *Config) {
			c.Freshness.FenceInterval, c.Freshness.MinFenceGap = 50*time.Millisecond, 50*time.Millisecond
		}, "asks the primary 20 times a second"},
		"useless patience": {ForSidecar, func(c *Config) { c.Cache.FillTimeout = 5 * time.Second }, "later than freshness.max_staleness (3s)"},
		"short ttl":        {ForSidecar, func(c *Config) { c.Cache.MaxTTL = time.Second }, "revocations do not need it"},
		"many connections": {ForSidecar, func(c *Config) { c.Store.Postgres.MaxConns = 20 }, "100 sidecars, 2000 connections"},
		"no audit":         {ForSidecar, func(c *Config) { c.Audit.Interval = 0 }, "never compared"},
		"rare audit":       {ForSidecar, func(c *Config) { c.Audit.Interval = time.Hour }, "KeysidecarAuditStopped"},
		"unregistered":     {ForSidecar, func(c *Config) { c.Fleet.Report = false }, "keysidecar.allow_unreported"},
		"name of many":     {ForSidecar, func(c *Config) { c.Instance = "localhost" }, "must be unique"},
		"debug":            {ForRelay, func(c *Config) { c.Log.Level = "debug" }, "SIGUSR1"},
		"short log":        {ForRelay, func(c *Config) { c.Relay.Retention = time.Hour }, "relay.retention: \"1h\": whoever was away"},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid()
			c.Store.Postgres.DSN = "postgres://u@localhost/x"
			c.AMQP.URL = []string{"amqp://localhost/"}
			if w := c.Risks(test.role); len(w) > 0 {
				t.Fatalf("a harmless configuration has warnings: %q", w)
			}
			test.change(c)
			if err := c.Validate(test.role); err != nil {
				t.Fatalf("it is not legal: %v", err)
			}
			w := strings.Join(c.Risks(test.role), "\n")
			if !strings.Contains(w, test.want) || strings.Contains(w, "hunter2") {
				t.Errorf("have %s\nwant %s", w, test.want)
			}
		})
	}
}

// Programs must find setting, value and origin without taking sentences apart.
func TestAMistakeDoesNotSayWhereItWasMade(t *testing.T) {
	clearEnv(t)
	t.Setenv("KEYSIDECAR_CACHE_CAPACITY", "none")
	file := filepath.Join(t.TempDir(), "keysidecar.yaml")
	if err := os.WriteFile(file, []byte("freshness:\n  max_stalenes: 3s\nlog: {level: [loud]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := Load(file, nil)
	found, ok := Mistakes(nil, err)
	if !ok || !errors.Is(err, ErrInvalid) || len(found) != 3 {
		t.Fatalf("have %+v, %v, %v", found, ok, err)
	}
	for i, want := range []Mistake{
		{Origin: ":2", Problem: "there is no setting freshness.max_stalenes; did you mean freshness.max_staleness?"},
		{Origin: ":3", Problem: "log.level: want a text, not a list"},
		{"cache.capacity", `"none"`, "environment KEYSIDECAR_CACHE_CAPACITY", "want a whole number"},
	} {
		if have := found[i]; have.Setting != want.Setting || have.Value != want.Value || !strings.HasSuffix(have.Origin, want.Origin) || have.Problem != want.Problem {
			t.Errorf("have %+v\nwant %+v", have, want)
		}
	}
	t.Setenv("KEYSIDECAR_CACHE_CAPACITY", "")
	c, _, err := load(t, "instance: test")
	if err != nil {
		t.Fatal(err)
	}
	found, ok = Mistakes(c.Validate(ForSidecar))
	want := Mistake{"store.postgres.dsn", "not set", "default", "must say how to reach Postgres (or set store.postgres.dsn_file, or store.kind: file to do without a database)"}
	if !ok || len(found) != 1 || found[0] != want {
		t.Errorf("have %+v, %v", found, ok)
	}
	if _, ok := Mistakes(os.ErrNotExist); ok {
		t.Error("a file that cannot be read counts as a mistake in it")
	}
}
