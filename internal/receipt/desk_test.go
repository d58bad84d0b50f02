package receipt

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/clock"
)

// Somebody who waits must be seen on the status page, and not for ever.
func TestAWaitIsNotSeenWhileItLasts(t *testing.T) {
	f := &fakeReader{state: awaiting("a", "b")}
	w := &Waiter{Reader: f, Clock: clock.New(), ReadTimeout: time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := w.Wait(ctx, Target{KeyID: "k"}, time.Minute)
		done <- err
	}()
	deadline := time.Now().Add(10 * time.Second)
	for {
		list := w.Progress()
		if len(list) == 1 && list[0].Awaited == 2 && !list[0].Done && list[0].Target.KeyID == "k" && list[0].Left > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", list)
		}
		time.Sleep(time.Millisecond)
	}
	f.set(func() { f.state = awaiting() })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if list := w.Progress(); len(list) != 1 || !list[0].Done || !list[0].Complete || list[0].Awaited != 0 {
		t.Errorf("%+v", list)
	}
	f.set(func() { f.err = ErrNoEvent })
	for range 3 * endedKept {
		if _, err := w.Wait(ctx, Target{KeyID: "other"}, 0); !errors.Is(err, ErrNoEvent) {
			t.Fatal(err)
		}
	}
	if list := w.Progress(); len(list) != endedKept || list[0].Kind != "" || list[0].Complete {
		t.Errorf("%d: %+v", len(list), list)
	}
}
