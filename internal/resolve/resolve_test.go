package resolve

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"
)

func TestASilentNameServerKeepsAProcessFromStopping(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", silent.LocalAddr().String())
	}}
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := with(ctx, resolver, "postgres.example.")
		answered <- err
	}()
	if _, _, err := silent.ReadFrom(make([]byte, 512)); err != nil { // it has asked
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-answered:
		if err == nil || !errors.Is(ctx.Err(), context.Canceled) {
			t.Fatal(err)
		}
	case <-time.After(time.Second):
		t.Fatal("it still waits for the name server")
	}
}

func TestAddressesOfANumberAreTheNumber(t *testing.T) {
	got, err := Host(t.Context(), "127.0.0.1")
	if err != nil || !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Fatal(got, err)
	}
}
