package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// sidecar asks over a Unix socket, as examples/go does.
type sidecar struct{ client http.Client }

func newSidecar(socket string) *sidecar {
	return &sidecar{http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			MaxIdleConnsPerHost: 32,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// verdict is the part of an answer that decides, and what the cache needs.
type verdict struct {
	Valid     bool       `json:"valid"`
	Code      string     `json:"code"`
	KeyID     string     `json:"key_id"`
	OwnerID   string     `json:"owner_id"`
	ExpiresAt *time.Time `json:"expires_at"`
	AsOf      struct {
		History string `json:"history"`
		Seq     int64  `json:"seq"`
	} `json:"as_of"`
}

// ask returns the verdict on a key; if it is to be fresh, by what Postgres says after
// the question arrived. An error means that it cannot be told.
func (s *sidecar) ask(ctx context.Context, keyID string, fresh bool) (v verdict, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/keys/"+url.PathEscape(keyID), nil)
	if err != nil {
		return v, err
	}
	if fresh {
		req.Header.Set("Cache-Control", "no-cache")
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return v, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("status %d: %w", answer.StatusCode, err)
	}
	switch status := answer.StatusCode; {
	case status == 200 && v.Valid && v.KeyID == keyID,
		(status == 403 || status == 404 || status == 410) && !v.Valid && v.KeyID == keyID,
		status == 400 && v.Code == "bad_key_id":
		return v, nil
	default:
		return verdict{}, fmt.Errorf("status %d, code %q", status, v.Code)
	}
}
