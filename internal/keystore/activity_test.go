package keystore

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keysidecar/keysidecar/internal/event"
)

// An event that the queue brings and a fence confirms would be shown twice, and the
// second time as late.
func TestAnEventIsRememberedOnceByThePathThatWasFirst(t *testing.T) {
	t.Parallel()
	s := &Store{}
	e := event.Event{Seq: 7, ID: uuid.New(), Kind: event.Revoked, KeyID: "k", OwnerID: "o", OccurredAt: time.Unix(1, 0)}
	s.activity.note(&e, true)
	s.activity.note(&e, false)
	list := s.Activity()
	if len(list) != 1 || !list[0].ByQueue || list[0].Seq != 7 || list[0].KeyID != "k" || list[0].OwnerID != "" {
		t.Errorf("%+v", list)
	}
}

func TestActivityKeepsTheNewestEvents(t *testing.T) {
	t.Parallel()
	s := &Store{}
	for i := range 3 * activityKept {
		s.activity.note(&event.Event{Seq: int64(i), ID: uuid.New(), Kind: event.OwnerChanged, OwnerID: "o"}, false)
	}
	list := s.Activity()
	if len(list) != activityKept {
		t.Fatalf("%d events", len(list))
	}
	for i, e := range list {
		if want := int64(3*activityKept - 1 - i); e.Seq != want || e.OwnerID != "o" {
			t.Fatalf("place %d: %+v, want seq %d", i, e, want)
		}
	}
}
