// Package resolve finds the addresses of a server's name in a way that ends with its
// context. What pgx does by itself (net.Resolver.LookupHost) goes on in the middle of a
// query, for as long as the resolver's own time-outs last: a process that is told to
// stop while a name server is silent would not.
package resolve

import (
	"context"
	"net"
)

// Host returns the addresses of a host, and ctx's error as soon as it ends. It fits
// pgconn.Config's LookupFunc.
func Host(ctx context.Context, host string) ([]string, error) {
	return with(ctx, net.DefaultResolver, host)
}

func with(ctx context.Context, resolver *net.Resolver, host string) ([]string, error) {
	found, err := resolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	addresses := make([]string, len(found))
	for i := range found {
		addresses[i] = found[i].String()
	}
	return addresses, nil
}
