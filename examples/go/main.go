// Command go asks a sidecar whether keys may be used, with nothing but net/http.
//
//	go run . SOCKET [KEY_ID...]        without key ids: one a line from standard input
//
// It prints for each "yes", "no" and why, or "cannot tell" and why. Exit status: 0
// all may be used, 1 one may not, 2 one cannot be told.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// sidecar asks over a Unix socket and reuses its connections.
type sidecar struct{ client http.Client }

func newSidecar(socket string) *sidecar {
	return &sidecar{http.Client{
		Timeout: 2 * time.Second, // of the whole exchange
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			MaxIdleConnsPerHost: 32,
		},
		// The sidecar redirects nobody.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// verdict is the part of an answer that decides.
type verdict struct {
	Valid bool   `json:"valid"`
	Code  string `json:"code"`
	KeyID string `json:"key_id"`
}

// ask returns whether a key may be used and, if not, why. An error means that
// it cannot be told: fail the request that needed the key.
func (s *sidecar) ask(ctx context.Context, keyID string) (valid bool, code string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/keys/"+url.PathEscape(keyID), nil)
	if err != nil {
		return false, "", err
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return false, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return false, "", err
	}
	var v verdict
	if err := json.Unmarshal(body, &v); err != nil {
		return false, "", fmt.Errorf("status %d: %w", answer.StatusCode, err)
	}
	switch status := answer.StatusCode; {
	case status == 200 && v.Valid && v.KeyID == keyID:
		return true, v.Code, nil
	case (status == 403 || status == 404 || status == 410) && !v.Valid && v.KeyID == keyID:
		return false, v.Code, nil
	case status == 400 && v.Code == "bad_key_id":
		return false, v.Code, nil
	default: // 503, an unknown route, an answer about another key
		return false, "", fmt.Errorf("status %d, code %q", status, v.Code)
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go run . SOCKET [KEY_ID...]")
		os.Exit(2)
	}
	s, worst := newSidecar(os.Args[1]), 0
	tell := func(keyID string) {
		switch valid, code, err := s.ask(context.Background(), keyID); {
		case err != nil:
			worst = 2
			fmt.Println("cannot tell:", err)
		case !valid:
			worst = max(worst, 1)
			fmt.Println("no", code)
		default:
			fmt.Println("yes")
		}
	}
	for _, keyID := range os.Args[2:] {
		tell(keyID)
	}
	if len(os.Args) == 2 {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			tell(lines.Text())
		}
	}
	os.Exit(worst)
}
