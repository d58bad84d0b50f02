package event

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func sample() Event {
	return Event{
		Seq: 42, Prev: 41, ID: uuid.MustParse("6f2c6f0e-3f3b-4b58-9a5e-0d3c3f1f2a11"), Kind: Revoked,
		KeyID: "pk_live_1", OwnerID: "m_1", OccurredAt: time.Date(2026, 11, 21, 10, 0, 0, 123e6, time.UTC),
	}
}

func TestRoundTripLosesNothing(t *testing.T) {
	for _, e := range []Event{
		sample(),
		{Seq: 0, Prev: -1, ID: uuid.New(), Kind: Reset, OccurredAt: time.UnixMilli(1).UTC()},
		{Seq: 7, Prev: 3, ID: uuid.New(), Kind: OwnerChanged, OwnerID: "müller & söhne", OccurredAt: time.UnixMilli(1).UTC()},
		{Seq: 1 << 60, Prev: 1<<60 - 1, ID: uuid.New(), Kind: Issued, KeyID: strings.Repeat("k", 256), OwnerID: strings.Repeat("<", 256), OccurredAt: time.UnixMilli(1).UTC()},
	} {
		body, err := Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > MaxMessageBytes {
			t.Fatalf("%d bytes are more than a receiver reads", len(body))
		}
		got, err := Decode(body)
		if err != nil || got != e {
			t.Fatalf("sent %+v, got %+v, %v", e, got, err)
		}
	}
}

func TestTypicalMessageStaysSmall(t *testing.T) {
	body, err := Encode(sample())
	if err != nil || len(body) > 400 {
		t.Fatalf("%d bytes, %v: %s", len(body), err, body)
	}
}

func TestMalformedMessagesAreRefusedByName(t *testing.T) {
	good, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, with string) string {
		s := strings.Replace(string(good), old, with, 1)
		if s == string(good) {
			t.Fatalf("%q is not in the message", old)
		}
		return s
	}
	for name, body := range map[string]string{
		"empty":              "",
		"truncated":          string(good[:len(good)/2]),
		"two values":         string(good) + string(good),
		"array":              "[]",
		"null":               "null",
		"oversized":          string(good) + strings.Repeat(" ", MaxMessageBytes),
		"not UTF-8":          swap("pk_live_1", "pk_\xff"),
		"other version":      swap(`"1.0"`, `"2.0"`),
		"type and kind":      swap("key.revoked.v1", "key.issued.v1"),
		"unknown event type": swap("key.revoked.v1", "key.revoked.v2"),
		"unknown kind":       strings.ReplaceAll(string(good), "revoked", "blessed"),
		"id":                 swap("6f2c6f0e", "6f2c"),
		"id in braces":       swap(`"6f2c6f0e-3f3b-4b58-9a5e-0d3c3f1f2a11"`, `"{6f2c6f0e-3f3b-4b58-9a5e-0d3c3f1f2a11}"`),
		"seq missing":        swap(`"seq":42,`, ``),
		"seq null":           swap(`"seq":42`, `"seq":null`),
		"seq negative":       swap(`"seq":42`, `"seq":-1`),
		"seq fraction":       swap(`"seq":42`, `"seq":42.5`),
		"seq too large":      swap(`"seq":42`, `"seq":99999999999999999999`),
		"prev not below seq": swap(`"prev":41`, `"prev":42`),
		"time":               swap(`"occurred_at":"2026`, `"occurred_at":"x2026`),
		"key missing":        swap(`"subject":"pk_live_1",`, ``),
		"key too long":       swap("pk_live_1", strings.Repeat("k", 257)),
	} {
		if _, err := Decode([]byte(body)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnknownMembersAreIgnored(t *testing.T) {
	good, _ := Encode(sample())
	body := strings.Replace(string(good), "{", `{"traceparent":"00-1",`, 1)
	if e, err := Decode([]byte(body)); err != nil || e != sample() {
		t.Fatalf("%+v, %v", e, err)
	}
}

func FuzzDecode(f *testing.F) {
	good, _ := Encode(sample())
	f.Add(good)
	f.Add([]byte(`{"specversion":"1.0"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := Decode(body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("unclassified error: %v", err)
			}
			return
		}
		if _, err := Encode(e); err != nil {
			t.Fatalf("decoded what cannot be encoded: %+v: %v", e, err)
		}
	})
}
