package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	// askLimit is how long an answer may take. The sidecar itself waits for its
	// database no longer than half a second.
	askLimit = 2 * time.Second
	// maxAnswerBytes is more than any answer about one key has.
	maxAnswerBytes = 64 << 10
)

// errCannotTell is neither yes nor no. A request that needs the key must fail with
// "try again": it must not pass, and the key must not be taken for revoked.
var errCannotTell = errors.New("cannot tell")

// verdict is the part of the sidecar's answer that this application shows.
type verdict struct {
	Valid  bool   `json:"valid"`
	Code   string `json:"code"`
	KeyID  string `json:"key_id"`
	Owner  string `json:"owner_id"`
	Source string `json:"source"`
	AsOf   struct {
		AgeMS int64 `json:"age_ms"`
	} `json:"as_of"`
}

// sidecar asks one over its Unix socket.
type sidecar struct{ client *http.Client }

func newSidecar(socket string) *sidecar {
	return &sidecar{&http.Client{Timeout: askLimit, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 8,
	}}}
}

// ask returns what the sidecar says about a key, and whether the key may be used:
// the status is 200, valid is true, and the answer is about this key. Everything else
// is a refusal, or an error that wraps errCannotTell.
func (s *sidecar) ask(ctx context.Context, keyID string) (v verdict, use bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/keys/"+url.PathEscape(keyID), nil)
	if err != nil {
		return v, false, fmt.Errorf("%w: %w", errCannotTell, err)
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return v, false, fmt.Errorf("%w: no answer: %w", errCannotTell, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= http.StatusInternalServerError {
		return v, false, fmt.Errorf("%w: the sidecar answered %s", errCannotTell, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswerBytes)).Decode(&v); err != nil {
		return verdict{}, false, fmt.Errorf("%w: the answer cannot be read: %w", errCannotTell, err)
	}
	return v, answer.StatusCode == http.StatusOK && v.Valid && v.KeyID == keyID, nil
}
