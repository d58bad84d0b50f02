package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

func (c *cli) healthcheckCommand() *cobra.Command {
	var (
		live, ready bool
		timeout     time.Duration
	)
	cmd := &cobra.Command{
		Use:   "healthcheck --live | --ready",
		Short: "Probe the running process from within its container",
		Long: `Asks the admin listener of the process on this machine (sidecar or relay) whether
it lives, or whether it is ready. It is for probes that must be commands, in images
without a shell. Where the admin listener is off, the sidecar's socket is asked.`,
		Example: `  keysidecar healthcheck --live
  keysidecar healthcheck --ready --timeout 1s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if live == ready {
				return &usageError{errors.New("say which: --live or --ready"), cmd.CommandPath()}
			}
			cfg, err := c.load(cmd, config.ForClient)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if cfg.Listen.Admin.Address == "" {
				return c.checkBySocket(ctx, cfg, ready)
			}
			probe := "/livez"
			if ready {
				probe = "/readyz"
			}
			return c.checkByAdmin(ctx, cfg.Listen.Admin.Address, probe)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "does the process answer at all?")
	cmd.Flags().BoolVar(&ready, "ready", false, "can it answer from memory, or (relay) lead or stand by?")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "how long to wait for the answer")
	config.AddFlags(cmd.Flags(), append([]string{"listen.admin"}, clientFlags...)...)
	return cmd
}

func (c *cli) checkByAdmin(ctx context.Context, address, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(address)+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no answer from the admin listener: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("the answer of the admin listener broke off: %w", err)
	}
	fmt.Fprintln(c.out, strings.TrimSpace(string(body)))
	if answer.StatusCode != http.StatusOK {
		return &noError{errSaid}
	}
	return nil
}

// reachable turns an address to listen on into one to connect to.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}

func (c *cli) checkBySocket(ctx context.Context, cfg *config.Config, ready bool) error {
	s, err := fetchStatus(ctx, newSidecar(cfg, 0))
	if err != nil {
		return err
	}
	if ready && !s.ready() {
		fmt.Fprintln(c.out, s.why())
		return &noError{errSaid}
	}
	fmt.Fprintln(c.out, "ok")
	return nil
}
