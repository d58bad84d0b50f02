package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

// sidecarStatus is the part of GET /v1/status that decides something here.
type sidecarStatus struct {
	Warmed      bool `json:"warmed"`
	Fresh       bool `json:"fresh"`
	ServesStale bool `json:"serves_stale"`

	body []byte
}

// ready reports whether the sidecar answers from memory.
func (s *sidecarStatus) ready() bool { return s.Warmed && (s.Fresh || s.ServesStale) }

func (s *sidecarStatus) why() string {
	if !s.Warmed {
		return "the sidecar is warming up"
	}
	return "the sidecar has lost touch with its store"
}

func fetchStatus(ctx context.Context, s *sidecar) (*sidecarStatus, error) {
	code, body, err := s.do(ctx, http.MethodGet, "/v1/status", nil, nil)
	if err != nil {
		return nil, err
	}
	if code != http.StatusOK {
		return nil, problemError(code, body)
	}
	status := sidecarStatus{body: body}
	if err := json.Unmarshal(body, &status); err != nil {
		return nil, fmt.Errorf("read the sidecar's status: %w", err)
	}
	return &status, nil
}

func (c *cli) statusCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how fresh the running sidecar is",
		Long: `Shows the state of the sidecar on this machine. Exit code 0: it answers from
memory, 1: it does not (warming up, or out of touch), 2: it does not answer.`,
		Example: `  keysidecar status
  keysidecar status -o json --listen.socket.path run/k.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load(cmd, config.ForClient)
			if err != nil {
				return err
			}
			s, err := fetchStatus(cmd.Context(), newSidecar(cfg, timeout))
			if err != nil {
				return err
			}
			if err := c.printStatus(s); err != nil {
				return err
			}
			if !s.ready() {
				return &noError{errSaid}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	config.AddFlags(cmd.Flags(), clientFlags...)
	return cmd
}

func (c *cli) printStatus(s *sidecarStatus) error {
	if c.json() {
		_, err := fmt.Fprintf(c.out, "%s\n", bytes.TrimSpace(s.body))
		return err
	}
	rows, err := flatten(s.body)
	if err != nil {
		return fmt.Errorf("read the sidecar's status: %w", err)
	}
	return c.table(rows...)
}

// flatten turns a JSON object into rows of a.b and value, in the object's order,
// so that what a newer sidecar adds is shown as well.
func flatten(body []byte) (rows [][]string, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	err = flattenInto(d, "", &rows)
	return rows, err
}

func flattenInto(d *json.Decoder, name string, rows *[][]string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('{'):
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return err
			}
			member := fmt.Sprint(key)
			if name != "" {
				member = name + "." + member
			}
			if err := flattenInto(d, member, rows); err != nil {
				return err
			}
		}
		_, err = d.Token()
		return err
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			if err := flattenInto(d, fmt.Sprintf("%s[%d]", name, i), rows); err != nil {
				return err
			}
		}
		_, err = d.Token()
		return err
	case nil:
		token = "-"
	}
	*rows = append(*rows, []string{name, fmt.Sprint(token)})
	return nil
}
