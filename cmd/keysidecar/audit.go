package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

// auditReport is what POST /v1/audit answers, as far as it is shown.
type auditReport struct {
	Differences *int           `json:"differences"`
	Kinds       map[string]int `json:"kinds"`
	Keys        []struct {
		KeyID string `json:"key_id"`
		Kind  string `json:"kind"`
	} `json:"keys"`
	Compared    int   `json:"compared"`
	Newer       int   `json:"newer"`
	Unclaimed   int   `json:"unclaimed"`
	Complete    bool  `json:"complete"`
	Listed      *int  `json:"listed"`
	OldestEntry int64 `json:"oldest_entry_ms"`
	LeaseAge    int64 `json:"lease_age_ms"`
	Duration    int64 `json:"duration_ms"`
}

func (c *cli) auditCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Have the running sidecar compare all of its memory with the store",
		Long: `Has the sidecar on this machine compare everything in its memory with the store.
What differs is read anew at the next request. A key that has just changed does not
count. Exit code 0: no differences, 1: differences, 2: cannot tell.`,
		Example: `  keysidecar audit
  keysidecar audit --timeout 5m -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load(cmd, config.ForClient)
			if err != nil {
				return err
			}
			status, body, err := newSidecar(cfg, timeout).do(cmd.Context(), http.MethodPost, "/v1/audit", nil, nil)
			if err != nil {
				return err
			}
			return c.printAudit(status, body)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 15*time.Minute, "how long to wait for the outcome")
	config.AddFlags(cmd.Flags(), clientFlags...)
	return cmd
}

func (c *cli) printAudit(status int, body []byte) error {
	var r auditReport
	if status != http.StatusOK || json.Unmarshal(body, &r) != nil || r.Differences == nil {
		return problemError(status, body)
	}
	var err error
	if c.json() {
		_, err = fmt.Fprintf(c.out, "%s\n", strings.TrimSpace(string(body)))
	} else {
		err = c.table(r.rows()...)
	}
	switch {
	case err != nil:
		return err
	case *r.Differences > 0:
		return &noError{errSaid}
	}
	return nil
}

func (r *auditReport) rows() [][]string {
	missing := strconv.Itoa(r.Kinds["missing"])
	switch {
	case !r.Complete:
		missing = "not looked for: memory does not hold every key"
	case r.Listed == nil:
		missing = "not looked for: the store cannot list its keys in order"
	}
	rows := [][]string{
		{"differences", strconv.Itoa(*r.Differences)},
		{"compared", strconv.Itoa(r.Compared)},
		{"skipped, changed since", strconv.Itoa(r.Newer)},
		{"skipped, to be read again", strconv.Itoa(r.Unclaimed)},
		{"missing in memory", missing},
		{"oldest entry read", millisecondsText(r.OldestEntry) + " ago"},
		{"all proven", millisecondsText(r.LeaseAge) + " ago"},
		{"took", millisecondsText(r.Duration)},
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
		rows = append(rows, []string{"difference: " + kind, strconv.Itoa(r.Kinds[kind])})
	}
	for _, k := range r.Keys {
		rows = append(rows, []string{"key: " + k.Kind, k.KeyID})
	}
	return rows
}

func millisecondsText(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }
