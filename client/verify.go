package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
)

// Verify asks whether a key may be used for what the question says. The key is nil
// unless the error is nil; see the package's documentation for what errors mean.
func (c *Client) Verify(ctx context.Context, q Question) (*Key, error) {
	w, err := q.wire()
	if err != nil {
		return nil, err
	}
	body, err := encode(w, maxBody)
	if err != nil {
		return nil, err
	}
	r, err := c.send(ctx, &request{method: http.MethodPost, path: "/v1/verify", body: body, limit: maxAnswer})
	if err != nil {
		return nil, &UnavailableError{Err: err}
	}
	return r.judge(&q, http.StatusForbidden)
}

// Lookup asks for one key by itself. The key is nil unless the error is nil.
func (c *Client) Lookup(ctx context.Context, keyID string) (*Key, error) {
	if err := checkKeyID(keyID); err != nil {
		return nil, err
	}
	r, err := c.send(ctx, &request{method: http.MethodGet, path: "/v1/keys/" + keyID, limit: maxAnswer})
	if err != nil {
		return nil, &UnavailableError{Err: err}
	}
	return r.judge(&Question{KeyID: keyID}, http.StatusForbidden, http.StatusNotFound, http.StatusGone)
}

// MaxBatch is how many questions one batch may have.
const MaxBatch = 1000

// Result is what one question of a batch got. Its zero value is "cannot tell".
type Result struct {
	key *Key
	err error
}

// Key returns the key that may be used, or nil and the reason, as Verify does.
func (r Result) Key() (*Key, error) {
	if r.key == nil && r.err == nil {
		return nil, &UnavailableError{Err: errNoVerdict}
	}
	return r.key, r.err
}

// VerifyBatch asks up to MaxBatch questions at once. Results come in the order of the
// questions, one for each. Those that cannot be told are so one by one. The error is
// not nil if there are no results at all.
func (c *Client) VerifyBatch(ctx context.Context, questions []Question) ([]Result, error) {
	if len(questions) > MaxBatch {
		return nil, &QuestionError{Code: "batch_too_large", Detail: "at most 1,000 questions make a batch"}
	}
	results := make([]Result, len(questions))
	var (
		asked []int // the indexes of those that are sent
		batch = struct {
			Requests []*wireQuestion `json:"requests"`
			Partial  bool            `json:"partial"`
		}{Partial: true}
	)
	for i := range questions {
		w, err := questions[i].wire()
		if err != nil {
			results[i].err = err
			continue
		}
		asked, batch.Requests = append(asked, i), append(batch.Requests, w)
	}
	if len(asked) == 0 {
		return results, nil
	}
	body, err := encode(&batch, maxBatchBody)
	if err != nil {
		return nil, err
	}
	verdicts, err := c.sendBatch(ctx, body)
	if err != nil {
		return nil, err
	}
	if len(verdicts) != len(asked) {
		return nil, &UnavailableError{Status: http.StatusOK, Err: errCount}
	}
	for n, i := range asked {
		results[i] = resultOf(&verdicts[n], &questions[i])
	}
	return results, nil
}

func (c *Client) sendBatch(ctx context.Context, body []byte) ([]verdict, error) {
	r, err := c.send(ctx, &request{method: http.MethodPost, path: "/v1/verify/batch", body: body, limit: maxBatchAnswer})
	switch {
	case err != nil:
		return nil, &UnavailableError{Err: err}
	case r.status != http.StatusOK || r.media != "application/json":
		return nil, r.noVerdict()
	}
	var answer struct {
		Verdicts []verdict `json:"verdicts"`
	}
	if err := json.Unmarshal(r.body, &answer); err != nil {
		return nil, &UnavailableError{Status: r.status, Err: errors.Join(errNoVerdict, err)}
	}
	return answer.Verdicts, nil
}

// resultOf judges one verdict of a batch by itself.
func resultOf(v *verdict, q *Question) Result {
	key, err := v.judge(q)
	var (
		refused     *RefusedError
		unavailable *UnavailableError
	)
	if err != nil && !errors.As(err, &refused) && !errors.As(err, &unavailable) {
		err = &UnavailableError{Status: http.StatusOK, Err: err}
	}
	return Result{key, err}
}
