package app

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/relay"
	"github.com/keysidecar/keysidecar/internal/server"
	"github.com/keysidecar/keysidecar/internal/statuspage"
)

// Relay runs a relay until ctx ends, and then returns nil.
func Relay(ctx context.Context, cfg *config.Config, b Build, log *zap.Logger) error {
	limitMemory(log)
	p := &process{log: log}
	if err := makeRelay(p, cfg, b); err != nil {
		return p.abandon(err)
	}
	log.Info("relay started", zap.String("version", b.Version), zap.String("instance", cfg.Instance),
		zap.String("exchange", cfg.AMQP.Exchange), zap.String("admin", cfg.Listen.Admin.Address))
	return p.run(ctx)
}

func makeRelay(p *process, cfg *config.Config, b Build) error {
	reg, err := newRegistry(b)
	if err != nil {
		return err
	}
	if _, err := cfg.BrokerTLS(); err != nil {
		return err // now, rather than at each attempt to connect
	}
	r, err := relay.New(relay.Options{
		DSN: cfg.RelayDSN, URLs: cfg.BrokerURLs, TLS: cfg.BrokerTLS, Exchange: cfg.AMQP.Exchange,
		PollInterval: cfg.Relay.PollInterval, Batch: cfg.Relay.Batch, Retention: cfg.Relay.Retention, Wakeup: cfg.Relay.Wakeup, Persistent: cfg.Relay.Persistent,
		Logger: p.log.Named("relay"), Registerer: reg,
	})
	if err != nil {
		return err
	}
	p.add("relay", r.Run)
	if cfg.Listen.Admin.Address == "" {
		return nil
	}
	admin, err := server.NewAdmin(server.AdminOptions{
		Address:  cfg.Listen.Admin.Address,
		Checks:   []server.Check{{Name: "postgres", Check: func() error { return postgresCheck(r.Status()) }}},
		Instance: cfg.Instance, Version: b.Version,
		Components: map[string]func() any{"relay": func() any { return relayStatus(r.Status()) }},
		Fleet:      func(ctx context.Context, search string) *statuspage.Fleet { return fleetStatus(ctx, r, search) },
		Gatherer:   reg, Registerer: reg, Logger: p.log.Named("admin"),
	})
	if err != nil {
		return err
	}
	return p.listen("admin", admin)
}

// relayStatus is what /statusz tells of the relay.
func relayStatus(s relay.Status) any {
	return struct {
		Leader        bool   `json:"leader"`
		PublishedSeq  int64  `json:"published_seq"`
		HeadSeq       int64  `json:"head_seq"`
		Connected     bool   `json:"connected"`
		Host          string `json:"host,omitempty"`
		LastError     string `json:"last_error,omitempty"`
		DatabaseError string `json:"database_error,omitempty"`
	}{s.Leader, s.PublishedSeq, s.HeadSeq, s.Connected, s.Host, string(s.LastError), s.DatabaseError}
}

// fleetStatus is what the status page and its JSON tell of all sidecars.
func fleetStatus(ctx context.Context, r *relay.Relay, search string) *statuspage.Fleet {
	report, why := r.Fleet(ctx, search)
	s := r.Status()
	f := &statuspage.Fleet{
		Leads: s.Leader, Connected: s.Connected, Host: s.Host, BrokerError: string(s.LastError), DatabaseError: why, GateHeld: s.GateHeld,
		History: r.History(), Every: relay.HistoryEvery, Over: relay.HistoryOver,
	}
	if report != nil {
		f.Report = *report
	}
	return f
}

// postgresCheck makes a relay ready that can lead or stand by. The broker is not
// asked for: a relay that leads without it is as ready as it can be, and another
// would be no better off.
func postgresCheck(s relay.Status) error {
	if s.DatabaseError != "" {
		return fmt.Errorf("postgres: %w", errors.New(s.DatabaseError))
	}
	return nil
}
