package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/app"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/relay"
)

func (c *cli) relayCommand() *cobra.Command {
	var from int64
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Run a relay: publish the events of the database to RabbitMQ",
		Long: `Publishes the events of the database to RabbitMQ, in order and confirmed. Run two:
one leads, the other takes over within three seconds.

With --replay-from it has the relay that leads publish every event from that number
on once more, and ends; sidecars and other consumers see them as duplicates.`,
		Example: `  keysidecar relay --config relay.yaml
  keysidecar relay --replay-from 1234`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("replay-from") {
				return c.replay(cmd, from)
			}
			return c.daemon(cmd, config.ForRelay, app.Relay)
		},
	}
	cmd.Flags().Int64Var(&from, "replay-from", 0, "have the events from this number on published once more, and end")
	config.AddFlags(cmd.Flags(), "instance", "relay", "amqp.url_file", "amqp.ca_file", "amqp.cert_file", "amqp.key_file", "amqp.exchange",
		"store.postgres.dsn_file", "listen.admin", "allow_insecure", "log")
	return cmd
}

func (c *cli) replay(cmd *cobra.Command, from int64) error {
	if from < 0 {
		return &usageError{fmt.Errorf("--replay-from: %d: events are numbered from 0", from), cmd.CommandPath()}
	}
	cfg, err := c.load(cmd, config.ForDatabase)
	if err != nil {
		return err
	}
	dsn, err := cfg.RelayDSN()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	db, err := admin.OpenPostgres(ctx, dsn, cfg.Store.Postgres.Relation, "") // says plainly what is wrong with a database
	if err != nil {
		return err
	}
	if err := db.Close(ctx); err != nil {
		return err
	}
	n, oldest, err := relay.Replay(ctx, dsn, from)
	if err != nil {
		return err
	}
	if c.json() {
		return c.printJSON(map[string]int64{"events": n, "oldest": oldest})
	}
	if from < oldest {
		fmt.Fprintf(c.err, "keysidecar: warning: the log begins with number %d, and what came before was deleted: a consumer that needs it must load the tables\n", oldest)
	}
	_, err = fmt.Fprintf(c.out, "the relay that leads publishes %d events again\n", n)
	return err
}
