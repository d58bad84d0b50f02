package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Sidecar is a sidecar process and a client of it.
type Sidecar struct {
	*Process
	// Socket is the path of its Unix socket, Admin the address of its admin listener.
	Socket, Admin string
	client        *http.Client
}

// Relay is a relay process.
type Relay struct {
	*Process
	// Admin is the address of its admin listener.
	Admin string
}

// Metric returns the value of a metric of the relay, by its name with labels as
// exposed; 0 if there is none.
func (r *Relay) Metric(ctx context.Context, name string) (float64, error) {
	values, err := metrics(ctx, r.Admin, name)
	return values[0], err
}

// Metric returns the value of a metric of the sidecar, as Relay.Metric does.
func (s *Sidecar) Metric(ctx context.Context, name string) (float64, error) {
	values, err := metrics(ctx, s.Admin, name)
	return values[0], err
}

// Metrics returns the values of several metrics in one scrape, as Metric does.
func (s *Sidecar) Metrics(ctx context.Context, names ...string) ([]float64, error) {
	return metrics(ctx, s.Admin, names...)
}

func metrics(ctx context.Context, admin string, names ...string) ([]float64, error) {
	values := make([]float64, len(names))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return values, err
	}
	req.Header.Set("Accept-Encoding", "identity") // compressing would be most of what it costs
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return values, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return values, err
	}
	for line := range strings.Lines(string(body)) {
		for i, name := range names {
			if value, ok := strings.CutPrefix(line, name+" "); ok {
				if values[i], err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil {
					return values, err
				}
			}
		}
	}
	return values, nil
}

// Verdict is the part of an answer that tests look at.
type Verdict struct {
	Valid bool   `json:"valid"`
	Code  string `json:"code"`
	KeyID string `json:"key_id"`
	AsOf  struct {
		History string `json:"history"`
		Seq     int64  `json:"seq"`
		AgeMS   int64  `json:"age_ms"`
	} `json:"as_of"`
	Source string `json:"source"`
	// Status is the HTTP status, Took the time the request took, SentAt when it began.
	Status int           `json:"-"`
	Took   time.Duration `json:"-"`
	SentAt time.Time     `json:"-"`
}

func unixClient(socket string) *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
			MaxIdleConnsPerHost: 64,
		},
	}
}

// Get asks for a key. header pairs are added to the request. The error is about
// the request itself; a refusal is a Verdict.
func (s *Sidecar) Get(ctx context.Context, keyID string, header ...string) (Verdict, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://keysidecar/v1/keys/"+url.PathEscape(keyID), nil)
	if err != nil {
		return Verdict{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	v := Verdict{SentAt: time.Now()}
	resp, err := s.client.Do(req)
	if err != nil {
		return Verdict{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Verdict{}, err
	}
	v.Took, v.Status = time.Since(v.SentAt), resp.StatusCode
	if err := json.Unmarshal(body, &v); err != nil {
		return Verdict{}, fmt.Errorf("%s: %w: %s", s.Name, err, body)
	}
	if v.Valid != (v.Status == http.StatusOK && v.Code == "active") {
		return Verdict{}, fmt.Errorf("%s: status %d, code %q and valid %v disagree", s.Name, v.Status, v.Code, v.Valid)
	}
	return v, nil
}

// Ready waits until the sidecar answers from a fresh, warm memory.
func (s *Sidecar) Ready(ctx context.Context) error {
	return s.until(ctx, "ready", 10*time.Millisecond, func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/readyz", nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, nil //nolint:nilerr // not listening yet
		}
		return resp.StatusCode == http.StatusOK, resp.Body.Close()
	})
}

// HearsBroker waits until the sidecar consumes its queue: it is ready without.
func (s *Sidecar) HearsBroker(ctx context.Context) error {
	return s.until(ctx, "connected to the broker", 20*time.Millisecond, func() (bool, error) {
		connected, err := s.Metric(ctx, "keysidecar_subscriber_connected")
		return connected == 1, err
	})
}

// Until asks for a key again and again until want accepts the answer, and
// returns the first answer that it accepted.
func (s *Sidecar) Until(ctx context.Context, keyID string, want func(Verdict) bool) (Verdict, error) {
	var last Verdict
	// Quickly: what is waited for is usually milliseconds away.
	err := s.until(ctx, "an answer for "+keyID, 200*time.Microsecond, func() (bool, error) {
		var err error
		last, err = s.Get(ctx, keyID)
		return err == nil && want(last), err
	})
	if err != nil {
		return last, fmt.Errorf("%w; last: %+v", err, last)
	}
	return last, nil
}

// Code accepts an answer with one of the codes given.
func Code(codes ...string) func(Verdict) bool {
	return func(v Verdict) bool {
		for _, c := range codes {
			if v.Code == c {
				return true
			}
		}
		return false
	}
}

// until polls.
func (s *Sidecar) until(ctx context.Context, what string, every time.Duration, met func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := met()
		if ok && err == nil {
			return nil
		}
		if !s.Running() {
			return fmt.Errorf("%s ended while waiting for it to be %s\n%s", s.Name, what, s.Log())
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: waiting for %s: %w", s.Name, what, ctx.Err()), err)
		case <-tick.C:
		}
	}
}
