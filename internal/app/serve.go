package app

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/receipt"
	"github.com/keysidecar/keysidecar/internal/server"
	"github.com/keysidecar/keysidecar/internal/statuspage"
	"github.com/keysidecar/keysidecar/internal/subscriber"
	"github.com/keysidecar/keysidecar/internal/usage"
)

// connectTimeout bounds the making of a connection to Postgres.
const connectTimeout = 2 * time.Second

// Serve runs a sidecar until ctx ends, and then returns nil. The data listener is
// bound at once, so that clients find somebody who lets them wait, or says that it
// cannot tell, rather than nobody; the process counts as started as startup.require says.
func Serve(ctx context.Context, cfg *config.Config, b Build, log *zap.Logger) error {
	limitMemory(log)
	p := &process{log: log}
	if err := makeSidecar(p, cfg, b); err != nil {
		return p.abandon(err)
	}
	announce(cfg, b, log)
	return p.run(ctx)
}

// makeSidecar makes the parts of a sidecar, from what is asked last to who is
// asked first.
func makeSidecar(p *process, cfg *config.Config, b Build) error {
	reg, err := newRegistry(b)
	if err != nil {
		return err
	}
	source, err := newSource(cfg, p.log)
	if err != nil {
		return err
	}
	p.closing("source", source.Close)

	uses, err := newUsage(cfg, source, p.log, reg)
	if err != nil {
		return err
	}
	if uses != nil {
		// It stops after the keystore, whose end receipts wait for.
		p.add("usage", uses.Run)
	}

	store, err := newStore(cfg, b, source, p.log, reg)
	if err != nil {
		return err
	}
	p.add("keystore", store.Run)

	receipts := newReceipts(source, store)
	status := server.AdminOptions{
		Status: store.Status, Activity: store.Activity, Glance: store.Glance, Lookups: store.Lookups,
		Components: make(map[string]func() any),
	}
	if receipts != nil {
		status.Receipts = receipts.Progress
	}
	if uses != nil {
		status.Components["usage"] = func() any { return usageStatus(uses.Status()) }
	}
	if pg, ok := source.(*keystore.Postgres); ok {
		status.Postgres = func() *statuspage.Postgres { return postgresStatus(pg.Connections()) }
		status.Components["postgres"] = func() any { return status.Postgres() }
	}
	if cfg.HasBroker() {
		sub, err := newSubscriber(cfg, store, p.log, reg)
		if err != nil {
			return err
		}
		store.OnQueueBehind(sub.QueueBehind)
		status.Broker = func() *statuspage.Broker { return brokerStatus(sub.Status()) }
		status.Components["broker"] = func() any { return status.Broker() }
		p.add("subscriber", func(ctx context.Context) error {
			// Until then nothing is in memory that a message could be about, and look-ups
			// wait for what the broker would have to share the processor with.
			select {
			case <-store.Begun():
			case <-ctx.Done():
			}
			return sub.Run(ctx)
		})
	}
	if cfg.Listen.Admin.Address != "" {
		status.Address, status.StartUnwarmed = cfg.Listen.Admin.Address, cfg.Startup.Require == config.RequireNone
		status.Instance, status.Version = cfg.Instance, b.Version
		status.Gatherer, status.Registerer, status.Logger = reg, reg, p.log.Named("admin")
		admin, err := server.NewAdmin(status)
		if err != nil {
			return err
		}
		if err := p.listen("admin", admin); err != nil {
			return err
		}
	}
	data, err := newData(cfg, b, store, receipts, uses, p.log, reg)
	if err != nil {
		return err
	}
	if err := p.listen("server", data); err != nil {
		return err
	}
	p.add("startup", func(ctx context.Context) error { return awaitWarm(ctx, cfg, store, p.log) })
	return nil
}

// brokerStatus is what /statusz tells of the subscriber.
func brokerStatus(s subscriber.Status) *statuspage.Broker {
	return &statuspage.Broker{Connected: s.Connected, Queue: s.Queue, Host: s.Host, LastError: string(s.LastError)}
}

// postgresStatus is what /statusz tells of the connections to the store.
func postgresStatus(c keystore.Connections) *statuspage.Postgres {
	return &statuspage.Postgres{Server: c.Server, Open: c.Open, Most: c.Most}
}

func newSource(cfg *config.Config, log *zap.Logger) (keystore.Source, error) {
	if cfg.Store.Kind == config.StoreFile {
		return keystore.NewFile(cfg.Store.File.Path)
	}
	p := &cfg.Store.Postgres
	return keystore.NewPostgres(keystore.PostgresOptions{
		DSN: cfg.StoreDSN, Relation: p.Relation, MaxConns: p.MaxConns, ExecMode: p.QueryExecMode(),
		ConnectTimeout: connectTimeout, ApplicationName: "keysidecar " + cfg.Instance, Logger: log.Named("postgres"),
	})
}

func newStore(cfg *config.Config, b Build, source keystore.Source, log *zap.Logger, reg prometheus.Registerer) (*keystore.Store, error) {
	c, f := &cfg.Cache, &cfg.Freshness
	return keystore.New(keystore.Options{
		Clock: clock.New(), Source: source, Logger: log.Named("keystore"), Registerer: reg,
		Capacity: c.Capacity, MaxTTL: c.MaxTTL, NegativeTTL: c.NegativeTTL,
		FillTimeout: c.FillTimeout, MaxFills: c.MaxFills, MissRate: c.MissRate,
		MaxStaleness: f.MaxStaleness, FenceInterval: f.FenceInterval, MinFenceGap: f.MinFenceGap, StaleLimit: f.StaleLimit,
		Instance: cfg.Instance, Version: b.Version, Report: cfg.Fleet.Report,
		WarmJitter: warmJitter(cfg), DuringWarm: collectLess,
		Audit: keystore.AuditOptions{Interval: cfg.Audit.Interval, Sample: cfg.Audit.Sample},
	})
}

// warmJitter spreads the warms of a fleet that is rolled out. A key file is this
// machine's own and is read at once.
func warmJitter(cfg *config.Config) time.Duration {
	if cfg.Store.Kind == config.StoreFile {
		return 0
	}
	return 250 * time.Millisecond
}

func newSubscriber(cfg *config.Config, store *keystore.Store, log *zap.Logger, reg prometheus.Registerer) (*subscriber.Subscriber, error) {
	if _, err := cfg.BrokerTLS(); err != nil {
		return nil, err // now, rather than at each attempt to connect
	}
	a := &cfg.AMQP
	return subscriber.New(subscriber.Options{
		URLs: cfg.BrokerURLs, TLS: cfg.BrokerTLS, Instance: cfg.Instance,
		Exchange: a.Exchange, QueuePrefix: a.QueuePrefix, QueueExpires: a.QueueExpires, QueueMaxLength: a.QueueMaxLength,
		Store: store, Logger: log.Named("subscriber"), Registerer: reg,
	})
}

// receiptReadTimeout bounds one read of the registry.
const receiptReadTimeout = time.Second

// newReceipts returns nil where there is no registry of sidecars.
func newReceipts(source keystore.Source, store *keystore.Store) *receipt.Waiter {
	reader, ok := source.(receipt.Reader)
	if !ok {
		return nil
	}
	return &receipt.Waiter{
		Reader: reader, Clock: clock.New(), Known: store.Known, Learned: store.Learned,
		ReadTimeout: receiptReadTimeout, Turn: semaphore.NewWeighted(1),
	}
}

func newData(cfg *config.Config, b Build, store *keystore.Store, waiter *receipt.Waiter, uses *usage.Recorder, log *zap.Logger, reg prometheus.Registerer) (*server.Data, error) {
	var receipts server.Receipts // nil, and not a nil waiter, where there is no registry
	if waiter != nil {
		receipts = waiter
	}
	pepper, err := cfg.Pepper()
	if err != nil {
		return nil, err
	}
	s := &cfg.Listen.Socket
	opts := server.DataOptions{
		Keys: store, Receipts: receipts,
		Socket: server.Socket{Path: s.Path, Mode: s.Mode, GID: s.GID, AllowedUIDs: s.AllowedUIDs},
		TCP:    server.TCP{Address: cfg.Listen.TCP.Address, Token: cfg.TCPToken()},
		Pepper: pepper, Gateway: newGateway(&cfg.Authz), Instance: cfg.Instance, Version: b.Version,
		Logger: log.Named("server"), Registerer: reg,
	}
	if uses != nil {
		opts.Uses = uses
	}
	return server.NewData(opts)
}

// newUsage returns nil if last uses are not wanted.
func newUsage(cfg *config.Config, source keystore.Source, log *zap.Logger, reg prometheus.Registerer) (*usage.Recorder, error) {
	db, ok := source.(*keystore.Postgres)
	if !ok || !cfg.Usage.Enabled {
		return nil, nil //nolint:nilnil // off is no mistake
	}
	return usage.New(usage.Options{
		Open: func(ctx context.Context) (usage.Session, error) {
			s, err := db.OpenUsage(ctx)
			if err != nil {
				return nil, err
			}
			return s, nil
		},
		Interval: cfg.Usage.Interval, Resolution: cfg.Usage.Resolution,
		Clock: clock.New(), Logger: log.Named("usage"), Registerer: reg,
	})
}

// usageStatus is what /statusz tells of the writing of last uses.
func usageStatus(s usage.Status) any {
	var at *time.Time
	if !s.WrittenAt.IsZero() {
		utc := s.WrittenAt.UTC().Truncate(time.Millisecond)
		at = &utc
	}
	return struct {
		WaitingKeys int        `json:"waiting_keys"`
		WrittenAt   *time.Time `json:"written_at"`
		Failing     bool       `json:"failing"`
	}{s.Waiting, at, s.Failing}
}

// newGateway translates the settings of gateways' routes.
func newGateway(a *config.Authz) server.Gateway {
	g := server.Gateway{Headers: a.Header, Policy: newPolicy(config.Policy{OwnerID: a.OwnerID, Scopes: a.Scopes, Attributes: a.Attributes})}
	switch a.Credential {
	case config.CredentialSecret:
		g.Credential = server.CredentialSecret
	case config.CredentialKeyID:
		g.Credential = server.CredentialKeyID
	}
	g.Policies = make(map[string]server.Policy, len(a.Policies))
	for name, p := range a.Policies {
		g.Policies[name] = newPolicy(p)
	}
	return g
}

func newPolicy(p config.Policy) server.Policy {
	return server.Policy{OwnerID: p.OwnerID, Scopes: p.Scopes, Attributes: string(p.Attributes)}
}

// awaitWarm ends the process with an error if the first warm takes too long and
// the configuration wants that.
func awaitWarm(ctx context.Context, cfg *config.Config, store *keystore.Store, log *zap.Logger) error {
	limit := time.NewTimer(cfg.Startup.MaxWait)
	defer limit.Stop()
	warmed := store.Warmed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-warmed:
			<-ctx.Done()
			return nil
		case <-limit.C:
			category := store.Status().LastFenceError
			if cfg.Startup.Require == config.RequireWarm {
				return fmt.Errorf("not warm after startup.max_wait (%s; last fence: %q): the store cannot be reached or read", cfg.Startup.MaxWait, category)
			}
			log.Warn("not warm yet, going on", zap.Duration("waited", cfg.Startup.MaxWait), zap.String("fence_error", category))
		}
	}
}

// announce says what runs and what it promises.
func announce(cfg *config.Config, b Build, log *zap.Logger) {
	log.Info("sidecar started", zap.String("version", b.Version), zap.String("instance", cfg.Instance),
		zap.String("store", cfg.Store.Kind), zap.String("socket", cfg.Listen.Socket.Path),
		zap.String("tcp", cfg.Listen.TCP.Address), zap.String("admin", cfg.Listen.Admin.Address), zap.Bool("broker", cfg.HasBroker()))
	for _, line := range cfg.Promise() {
		log.Info("promise", zap.String("text", line))
	}
}
