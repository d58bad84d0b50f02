package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/keysidecar/keysidecar/internal/config"
)

// maxAnswerBytes is far above any answer that the commands ask for.
const maxAnswerBytes = 1 << 20

// sidecar speaks to a running sidecar on this machine: over its Unix socket, or
// over loopback TCP where it has no socket.
type sidecar struct {
	http  *http.Client
	base  string
	token func() (string, error)
	where string // for messages
}

func newSidecar(cfg *config.Config, timeout time.Duration) *sidecar {
	s := &sidecar{http: &http.Client{Timeout: timeout}, base: "http://keysidecar", where: cfg.Listen.Socket.Path}
	if s.where == "" {
		s.where = cfg.Listen.TCP.Address
		s.base, s.token = "http://"+s.where, cfg.TCPToken()
		return s
	}
	s.base = "http://localhost"
	s.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.where)
	}}
	return s
}

// do sends a request, with body as JSON if there is one, and returns the status
// and the body of the answer.
func (s *sidecar) do(ctx context.Context, method, path string, body any, header http.Header) (int, []byte, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, reader)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if s.token != nil {
		token, err := s.token()
		if err != nil {
			return 0, nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := s.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op
		}
		return 0, nil, fmt.Errorf("no answer from the sidecar at %s: %w", s.where, err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
	if err != nil {
		return 0, nil, fmt.Errorf("the answer of the sidecar at %s broke off: %w", s.where, err)
	}
	return answer.StatusCode, data, nil
}

// problem is what RFC 9457 answers say, as far as it is shown.
type problem struct {
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// problemError says what an answer that is no verdict says.
func problemError(status int, body []byte) error {
	var p problem
	if json.Unmarshal(body, &p) != nil || (p.Title == "" && p.Detail == "") {
		return fmt.Errorf("the sidecar answered with status %d", status)
	}
	text := p.Title
	if p.Detail != "" {
		text = p.Detail
	}
	return fmt.Errorf("the sidecar answered %d %s: %s", status, p.Code, text)
}

// clientFlags are the settings by which commands find the sidecar.
var clientFlags = []string{"listen.socket.path", "listen.tcp"}
