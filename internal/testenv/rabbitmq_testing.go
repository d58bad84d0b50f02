package testenv

import (
	"crypto/rand"
	"strings"
	"testing"
)

// StartRabbitMQ starts a broker that ends with the test.
func StartRabbitMQ(tb testing.TB, opts ...RabbitMQOption) *RabbitMQ {
	tb.Helper()
	r, err := StartRabbitMQMain(opts...)
	if err != nil {
		tb.Fatalf("start rabbitmq: %v", err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Errorf("close rabbitmq: %v", err)
		}
	})
	return r
}

// NewVhost makes an empty vhost and returns its URL. It stays until the broker
// is closed.
func (r *RabbitMQ) NewVhost(tb testing.TB) string {
	tb.Helper()
	name := "t_" + strings.ToLower(rand.Text())
	if err := r.CreateVhost(name); err != nil {
		tb.Fatal(err)
	}
	return r.URL(name)
}

// NewProxy starts a proxy that ends with the test.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p, err := StartProxy(target)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("close the proxy: %v", err)
		}
	})
	return p
}
