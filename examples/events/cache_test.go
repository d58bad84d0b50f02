package main

import (
	"fmt"
	"testing"
	"time"
)

// heard is a cache that hears events and has kept pk_1 and pk_2 as of event 10.
func heard(t *testing.T) *cache {
	t.Helper()
	c := newCache(time.Minute, 100)
	c.hear(true)
	keep(c, "pk_1", 10)
	keep(c, "pk_2", 10)
	expect(t, c, "pk_1", true)
	expect(t, c, "pk_2", true)
	return c
}

func valid(keyID string, seq int64) verdict {
	v := verdict{Valid: true, KeyID: keyID, OwnerID: "m_" + keyID}
	v.AsOf.History, v.AsOf.Seq = "h", seq
	return v
}

func keep(c *cache, keyID string, seq int64) { c.keep(valid(keyID, seq), c.ask(time.Now())) }

func expect(t *testing.T, c *cache, keyID string, want bool) {
	t.Helper()
	if got := c.has(keyID, time.Now()); got != want {
		t.Errorf("%s is there: %v, want %v", keyID, got, want)
	}
}

func TestAnEventEvictsWhatItIsAbout(t *testing.T) {
	for _, kind := range []string{"issued", "changed", "revoked", "deleted"} {
		c := heard(t)
		c.apply(event{Seq: 11, Prev: 10, Kind: kind, KeyID: "pk_1"}, true)
		expect(t, c, "pk_1", false)
		expect(t, c, "pk_2", true)
	}
	c := heard(t)
	c.apply(event{Seq: 11, Prev: 10, Kind: "owner_changed", OwnerID: "m_pk_1"}, true)
	expect(t, c, "pk_1", false)
	expect(t, c, "pk_2", true)
	for _, kind := range []string{"reset", "something new"} {
		c = heard(t)
		c.apply(event{Seq: 11, Prev: 10, Kind: kind}, true)
		expect(t, c, "pk_2", false)
	}
}

func TestWhatIsLostOrUnreadableEmptiesTheCache(t *testing.T) {
	c := heard(t)
	c.apply(event{Seq: 12, Prev: 11, Kind: "revoked", KeyID: "pk_3"}, true)
	expect(t, c, "pk_1", false)
	c = heard(t)
	c.apply(decode([]byte(`{"specversion":"1.0"}`)))
	expect(t, c, "pk_1", false)
	c = heard(t)
	c.hear(false)
	expect(t, c, "pk_1", false)
	keep(c, "pk_1", 11)
	expect(t, c, "pk_1", false)
}

// Numbers that no transaction used, and messages that come again or late, are no gaps.
func TestWhatIsNotLostLeavesTheCache(t *testing.T) {
	c := heard(t)
	c.apply(event{Seq: 15, Prev: 10, Kind: "revoked", KeyID: "pk_3"}, true)
	c.apply(event{Seq: 15, Prev: 10, Kind: "revoked", KeyID: "pk_3"}, true)
	c.apply(event{Seq: 3, Prev: 2, Kind: "revoked", KeyID: "pk_3"}, true)
	expect(t, c, "pk_1", true)
	c.apply(event{Seq: 3, Prev: 2, Kind: "revoked", KeyID: "pk_1"}, true)
	expect(t, c, "pk_1", false)
}

// The sidecar may read a message later than this program does.
func TestAnAnswerOlderThanAnEventIsNotKept(t *testing.T) {
	c := heard(t)
	c.apply(event{Seq: 11, Prev: 10, Kind: "revoked", KeyID: "pk_1"}, true)
	keep(c, "pk_1", 10)
	expect(t, c, "pk_1", false)
	keep(c, "pk_1", 11)
	expect(t, c, "pk_1", true)

	// The event comes while the first question is under way.
	c = newCache(time.Minute, 100)
	c.hear(true)
	q := c.ask(time.Now())
	c.apply(event{Seq: 11, Prev: 10, Kind: "revoked", KeyID: "pk_1"}, true)
	c.keep(valid("pk_1", 10), q)
	expect(t, c, "pk_1", false)
}

// Events from before the queue was bound are not seen here, and may not have been
// read by the sidecar yet.
func TestTheFirstQuestionIsAFreshOne(t *testing.T) {
	c := newCache(time.Minute, 100)
	before := c.ask(time.Now())
	c.hear(true)
	c.keep(valid("pk_1", 10), before)
	expect(t, c, "pk_1", false)
	if !c.ask(time.Now()).fresh {
		t.Error("the first question is not fresh")
	}
	keep(c, "pk_1", 10)
	if c.ask(time.Now()).fresh {
		t.Error("the second question is fresh")
	}
	q := c.ask(time.Now())
	c.apply(event{}, false)
	c.keep(valid("pk_2", 20), q)
	expect(t, c, "pk_2", false)
	if !c.ask(time.Now()).fresh {
		t.Error("the question after a message that could not be read is not fresh")
	}
}

func TestAnotherHistoryEmptiesTheCache(t *testing.T) {
	c := heard(t)
	v := valid("pk_3", 12)
	v.AsOf.History = "another"
	c.keep(v, c.ask(time.Now()))
	expect(t, c, "pk_1", false)
	expect(t, c, "pk_3", false)
	c.keep(v, c.ask(time.Now()))
	expect(t, c, "pk_3", true)
}

func TestNothingIsKeptForTooLong(t *testing.T) {
	c := heard(t)
	now := time.Now()
	q := c.ask(now.Add(-time.Hour))
	c.keep(valid("pk_3", 10), q)
	expect(t, c, "pk_3", false)
	v, soon := valid("pk_4", 10), now.Add(time.Second)
	v.ExpiresAt = &soon
	c.keep(v, c.ask(now))
	if !c.has("pk_4", now) || c.has("pk_4", soon) {
		t.Error("a key outlives itself")
	}
	for i := range 200 {
		keep(c, fmt.Sprint("pk_many_", i), 10)
	}
	if len(c.entries) > 100 {
		t.Errorf("%d keys", len(c.entries))
	}
}

// A forged number, or one of a log that lost its end, must not keep the cache empty
// for ever.
func TestANumberThatNobodyReachesIsForgotten(t *testing.T) {
	c := heard(t)
	c.apply(event{Seq: 1_000_000, Prev: 10, Kind: "revoked", KeyID: "pk_3"}, true)
	keep(c, "pk_4", 11)
	expect(t, c, "pk_4", false)
	expect(t, c, "pk_1", true)
	c.keep(valid("pk_4", 11), c.ask(time.Now().Add(2*time.Minute)))
	expect(t, c, "pk_1", false)
	keep(c, "pk_4", 11)
	expect(t, c, "pk_4", true)
}
