package admin

import (
	"context"

	"github.com/keysidecar/keysidecar/internal/receipt"
)

// Receipt implements receipt.Reader. It connects again if the connection was lost,
// so that somebody who waits outlives a failover.
func (p *Postgres) Receipt(ctx context.Context, t receipt.Target) (receipt.State, error) {
	if p.conn.IsClosed() {
		again, err := OpenPostgres(ctx, p.dsn, p.relation, p.actor)
		if err != nil {
			return receipt.State{}, err
		}
		p.conn = again.conn
	}
	return receipt.Read(ctx, p.conn, t)
}

// Receipt implements receipt.Reader: a key file has no fleet.
func (f *File) Receipt(context.Context, receipt.Target) (receipt.State, error) {
	return receipt.State{}, receipt.ErrNoRegistry
}
