package server

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/receipt"
)

// fakeReceipts answers by the key's name.
type fakeReceipts struct{ keys *fakeKeys }

func (f *fakeReceipts) Wait(ctx context.Context, t receipt.Target, atMost time.Duration) (receipt.Receipt, error) {
	f.keys.mu.Lock()
	panics := f.keys.panics
	f.keys.mu.Unlock()
	if panics != nil {
		panic(panics)
	}
	s := receipt.State{Seq: 7, EventID: uuid.New(), Kind: "revoked", KeyID: t.KeyID, OwnerID: "m_1", Actor: "dba", OccurredAt: time.Now(), Acknowledged: []string{"a"}}
	switch t.KeyID {
	case "pk_none":
		return receipt.Receipt{}, receipt.ErrNoEvent
	case "pk_lost":
		return receipt.Receipt{}, receipt.ErrLost
	case "pk_file":
		return receipt.Receipt{}, receipt.ErrNoRegistry
	case "pk_down":
		return receipt.Receipt{}, errors.New("connection refused by db.internal:5432")
	case "pk_slow":
		timer := time.NewTimer(atMost)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return receipt.Receipt{}, ctx.Err()
		}
		s.Awaited = []receipt.Awaited{{Instance: "b", Bound: 3 * time.Second}}
		return receipt.Receipt{State: s, Missing: []string{"b"}, Elapsed: atMost, Left: 3*time.Second - atMost}, nil
	}
	return receipt.Receipt{State: s, Complete: true, Elapsed: 30 * time.Millisecond}, nil
}

// provokeReceipts makes each answer that only this route gives.
func provokeReceipts(s *service) {
	s.t.Helper()
	for target, want := range map[string]int{
		"/v1/receipts/pk_revoked":                 200,
		"/v1/receipts/pk_revoked?wait=30s":        200,
		"/v1/receipts/pk_slow?wait=20ms":          202,
		"/v1/receipts/pk_none":                    404,
		"/v1/receipts/pk_lost?wait=1s":            409,
		"/v1/receipts/pk_file":                    501,
		"/v1/receipts/pk_down":                    503,
		"/v1/receipts/pk_revoked?wait=":           400,
		"/v1/receipts/pk_revoked?wait=31s":        400,
		"/v1/receipts/pk_revoked?wait=-1s":        400,
		"/v1/receipts/pk_revoked?wait=3":          400,
		"/v1/receipts/pk_revoked?wait=1s&wait=2s": 400,
		"/v1/receipts/pk_revoked?until=3s":        400,
		"/v1/receipts/a%2Fb":                      400,
	} {
		if a := s.do("GET", target, ""); a.status != want {
			s.t.Errorf("%s: %d, want %d", target, a.status, want)
		}
	}
	for range maxWaits {
		s.data.waits <- struct{}{}
	}
	if a := s.do("GET", "/v1/receipts/pk_revoked", ""); a.status != 429 {
		s.t.Errorf("one wait too many: %d", a.status)
	}
	for range maxWaits {
		<-s.data.waits
	}
}

func TestReceiptIsTakenForAVerdict(t *testing.T) {
	t.Parallel()
	s := start(t)
	m := s.do("GET", "/v1/receipts/pk_revoked", "").json(t)
	if _, there := m["valid"]; there || m["complete"] != true {
		t.Errorf("%v", m)
	}
}

func TestFileStoreHasNoReceipts(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *DataOptions) { o.Receipts = nil })
	if a := s.do("GET", "/v1/receipts/pk_revoked", ""); a.status != 501 {
		t.Errorf("%d", a.status)
	}
}

func TestWaitOutlivesTheClient(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial()
	if _, err := io.WriteString(c, "GET /v1/receipts/pk_slow?wait=30s HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for len(s.data.waits) == 0 {
		time.Sleep(time.Millisecond)
	}
	_ = c.Close()
	deadline := time.Now().Add(10 * time.Second)
	for len(s.data.waits) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the slot is taken by a client that has gone")
		}
		time.Sleep(time.Millisecond)
	}
}

// The daemon stops within two seconds, whoever waits for a receipt.
func TestWaitForAReceiptHoldsUpTheEnd(t *testing.T) {
	t.Parallel()
	s := start(t)
	asked := make(chan int, 1)
	go func() { asked <- s.do("GET", "/v1/receipts/pk_slow?wait=30s", "").status }()
	for len(s.data.waits) == 0 {
		time.Sleep(time.Millisecond)
	}
	begun := time.Now()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if status := <-asked; status != 503 || time.Since(begun) > 2*time.Second {
		t.Errorf("%d after %v", status, time.Since(begun))
	}
}
