package admin

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Problems looks at what a sidecar needs of the database, or a relay (which reads no
// relation), and returns, a line each, what is not as it should be. The error means
// that it could not look.
func (p *Postgres) Problems(ctx context.Context) ([]string, error) {
	var problems []string
	var standby bool
	if err := p.conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return nil, fmt.Errorf("ask whether it is the primary: %w", err)
	}
	if standby {
		problems = append(problems, "the server is a standby: sidecars need the address of the primary (target_session_attrs=primary)")
	}
	rows, err := p.conn.Query(ctx, "SELECT relation_name, coalesce(trigger_name::text, ''), problem FROM keysidecar.capture_problems()")
	if err != nil {
		return nil, fmt.Errorf("look at the capture triggers: %w", err)
	}
	var relation, trigger, problem string
	if _, err := pgx.ForEachRow(rows, []any{&relation, &trigger, &problem}, func() error {
		problems = append(problems, fmt.Sprintf("changes of %s are not captured (%s): %s", relation, trigger, problem))
		return nil
	}); err != nil {
		return nil, fmt.Errorf("look at the capture triggers: %w", err)
	}
	if p.relation == "" {
		return problems, nil
	}
	scan, err := p.scans(ctx)
	if err != nil {
		return nil, err
	}
	if scan != "" {
		problems = append(problems, fmt.Sprintf("reading one key from %s scans all of %s: give it an index on what key_id is made of, compared without a cast",
			p.relation, scan))
	}
	return problems, nil
}

// plan is the part of EXPLAIN's output that is looked at.
type plan struct {
	NodeType string `json:"Node Type"`
	Relation string `json:"Relation Name"`
	Plans    []plan `json:"Plans"`
}

func (n *plan) sequential() string {
	if n.NodeType == "Seq Scan" {
		return n.Relation
	}
	for i := range n.Plans {
		if relation := n.Plans[i].sequential(); relation != "" {
			return relation
		}
	}
	return ""
}

// scans returns the table that reading one key must scan, or "". Sequential scans
// are forbidden for the question, so that a small table does not look like a
// missing index: what is left of them cannot be avoided.
func (p *Postgres) scans(ctx context.Context) (string, error) {
	query, err := p.entryQuery("k.key_id = 'keysidecar-explain'")
	if err != nil {
		return "", err
	}
	var answer []byte
	err = pgx.BeginTxFunc(ctx, p.conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL enable_seqscan = off"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "EXPLAIN (FORMAT JSON) "+query).Scan(&answer)
	})
	if err != nil {
		return "", fmt.Errorf("explain how one key is read from %s: %w", p.relation, err)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal(answer, &plans); err != nil || len(plans) == 0 {
		return "", fmt.Errorf("read the explanation of how one key is read: %w", err)
	}
	return plans[0].Plan.sequential(), nil
}
