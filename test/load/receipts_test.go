package load

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/test/history"
)

func sayReceipt(w http.ResponseWriter, status int, complete, superseded bool, expired int) {
	say(w, status, `{"complete":%v,"seq":9,"kind":"revoked","superseded":%v,"acknowledged":{"count":2,"names":["a","b"]},`+
		`"expired":{"count":%d,"names":[]},"awaited":{"count":0,"names":[]},"elapsed_ms":12}`, complete, superseded, expired)
}

// A receipt counts when it is complete, whatever it takes to get there, and not
// before.
func TestReceiptCountsBeforeItIsComplete(t *testing.T) {
	var asked atomic.Int64
	handle := func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimPrefix(r.URL.Path, "/v1/receipts/")
		if r.URL.Query().Get("wait") != "50ms" {
			t.Errorf("asked %s", r.URL)
		}
		n := asked.Add(1)
		switch {
		case id == "superseded":
			sayReceipt(w, 200, true, true, 0)
		case id == "contradiction": // complete, it says, and 202
			sayReceipt(w, 202, true, false, 0)
		case id == "never" || n%4 == 1:
			sayReceipt(w, 202, false, false, 0)
		case n%4 == 2:
			say(w, 503, `{"type":"about:blank","status":503,"code":"unavailable"}`)
		case n%4 == 3:
			panic(http.ErrAbortHandler)
		default:
			sayReceipt(w, 200, true, false, 1)
		}
	}
	one, two := newFake(t, handle), newFake(t, handle)
	gone := newFake(t, handle)
	gone.stop()
	h := newTape(t)
	r := NewReceipts(ReceiptsOptions{
		Sockets: []string{one.socket, two.socket, gone.socket}, History: h.Writer, Wait: 50 * time.Millisecond, GiveUp: 2 * time.Second, Workers: 30, Seed: 1,
	})
	stop := drive(t, r.Run)
	ids := []string{"superseded", "contradiction", "never"}
	for i := range 20 {
		ids = append(ids, fmt.Sprint("k", i))
	}
	for _, id := range ids {
		r.Revoked(history.Revocation{KeyID: id, Seq: 9})
	}
	eventually(t, "all of them", func() bool { return h.Records() == int64(len(ids)) })
	stop()
	for _, rec := range all[history.Receipt](t, h) {
		complete := strings.HasPrefix(rec.KeyID, "k")
		if (rec.CompleteAt > 0) != complete || rec.AskedAt == 0 || complete && (rec.CompleteAt <= rec.AskedAt || rec.Seq != 9 || rec.Acknowledged != 2 || rec.Expired != 1) {
			t.Errorf("%+v", rec)
		}
	}
	if c, i, d := r.Counts(); c != 20 || i != 3 || d != 0 {
		t.Errorf("%d complete, %d not, %d let go", c, i, d)
	}
}

func TestReceiptsHoldUpTheRevokerOrTheEnd(t *testing.T) {
	f := newFake(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	h := newTape(t)
	r := NewReceipts(ReceiptsOptions{Sockets: []string{f.socket}, History: h.Writer, Workers: 2})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for range 100 {
		r.Revoked(history.Revocation{KeyID: "k"})
	}
	if _, _, dropped := r.Counts(); dropped < 90 {
		t.Errorf("%d let go", dropped)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Second):
		t.Fatal("it waits for an answer")
	}
	_ = h.Close()
}
