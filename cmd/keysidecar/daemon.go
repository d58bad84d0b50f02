package main

import (
	"context"
	"fmt"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/app"
	"github.com/keysidecar/keysidecar/internal/config"
)

// daemon runs a long-lived process until the command's context ends. Mistakes in
// the configuration are for whoever starts it and are printed plainly; from then
// on everything is logged.
func (c *cli) daemon(cmd *cobra.Command, role config.Role, run func(context.Context, *config.Config, app.Build, *zap.Logger) error) error {
	cfg, warnings, err := c.loadUnchecked(cmd)
	if err != nil {
		return err
	}
	if err := cfg.Validate(role); err != nil {
		return err
	}
	if err := cfg.CheckFiles(role); err != nil {
		return err
	}
	if !isTerminal(c.err) {
		// Nothing is reloaded by it, and whoever believes so must not end a sidecar.
		signal.Ignore(syscall.SIGHUP)
	}
	log, level, err := app.NewLogger(cfg, c.err)
	if err != nil {
		return err
	}
	defer watchLevel(level, log)()
	for _, w := range append(warnings, cfg.Risks(role)...) {
		log.Warn("configuration", zap.String("warning", w))
	}
	if err := run(cmd.Context(), cfg, app.Build{Version: version}, log); err != nil {
		log.Error("stopped by an error", zap.Error(err))
		return fmt.Errorf("%s: %w", cmd.Name(), err)
	}
	return nil
}

// watchLevel lets the log's level be changed until the function that it returns is called.
func watchLevel(level *app.Level, log *zap.Logger) (leave func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = level.Run(ctx, log) })
	return func() {
		cancel()
		running.Wait()
	}
}
