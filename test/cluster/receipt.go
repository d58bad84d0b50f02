package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/keysidecar/keysidecar/internal/receipt"
)

// Receipt asks for the receipt of a key's revocation and waits for it for at most
// wait. The status is 200 if it is complete, 202 if not.
func (s *Sidecar) Receipt(ctx context.Context, keyID string, wait time.Duration) (a receipt.Answer, status int, err error) {
	target := "http://keysidecar/v1/receipts/" + url.PathEscape(keyID) + "?wait=" + wait.String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return a, 0, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return a, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, resp.StatusCode, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return a, resp.StatusCode, fmt.Errorf("%s: receipt: status %d: %s", s.Name, resp.StatusCode, body)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, resp.StatusCode, fmt.Errorf("%s: receipt: %w: %s", s.Name, err, body)
	}
	if a.Complete != (resp.StatusCode == http.StatusOK) {
		return a, resp.StatusCode, fmt.Errorf("%s: receipt: status %d and complete %v disagree", s.Name, resp.StatusCode, a.Complete)
	}
	return a, resp.StatusCode, nil
}
