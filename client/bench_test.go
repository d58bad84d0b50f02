package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/client"
)

// What the checks of the client cost: the same question to the same daemon by net/http
// alone, as the README's snippet asks it, and by the client.
func BenchmarkLookup(b *testing.B) {
	s := startReal(b, false)
	path := strings.TrimPrefix(s.address, "unix://")
	plain := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer plain.CloseIdleConnections()
	c := s.client(b)
	for name, ask := range map[string]func() error{
		"net-http": func() error { return plainLookup(plain) },
		"client": func() error {
			_, err := c.Lookup(context.Background(), "pk_live")
			return err
		},
	} {
		b.Run(name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := ask(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := ask(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func plainLookup(h *http.Client) error {
	answer, err := h.Get("http://localhost/v1/keys/pk_live")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var v struct {
		Valid bool   `json:"valid"`
		KeyID string `json:"key_id"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&v); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK || !v.Valid || v.KeyID != "pk_live" {
		return errors.New("refused")
	}
	return nil
}

// What a thousand questions cost in one batch.
func BenchmarkVerifyBatch(b *testing.B) {
	c := startReal(b, false).client(b)
	questions := make([]client.Question, client.MaxBatch)
	for i := range questions {
		questions[i].KeyID = "pk_live"
	}
	b.ReportAllocs()
	for b.Loop() {
		results, err := c.VerifyBatch(context.Background(), questions)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := results[len(results)-1].Key(); err != nil {
			b.Fatal(err)
		}
	}
}
