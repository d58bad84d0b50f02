package schema_test

import (
	"testing"
)

// Logical replication applies changes in the replication role, which skips
// ordinary triggers; every trigger of the chain has to be ALWAYS.
func TestLogicalReplicationIsCaptured(t *testing.T) {
	t.Parallel()
	publisher, subscriber := newSession(t), newSession(t)
	publisher.do(cast)
	publisher.do(`CREATE PUBLICATION keys FOR TABLE keysidecar.owners, keysidecar.public_keys`)
	// Within one cluster a subscription must not make its slot itself: it would
	// wait for its own transaction to end.
	publisher.do(`SELECT pg_create_logical_replication_slot('keysidecar_test', 'pgoutput')`)
	subscriber.do(`CREATE SUBSCRIPTION keys CONNECTION '` + publisher.Config().ConnString() + `' PUBLICATION keys WITH (create_slot = false, slot_name = 'keysidecar_test')`)
	t.Cleanup(func() {
		subscriber.do(`DROP SUBSCRIPTION keys`)
	})
	arrived := func(head int64, want ...string) {
		t.Helper()
		eventually(t, "the changes are applied", func() bool { return len(subscriber.since(head)) >= len(want) })
		subscriber.wantSince(head, want...)
	}
	eventually(t, "the initial copy is done", func() bool {
		return one[bool](subscriber, `SELECT count(*) = 2 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel`)
	})
	if n := one[int](subscriber, `SELECT count(*) FROM keysidecar.events WHERE kind = 'issued'`); n != 3 {
		t.Errorf("%d of 3 copied keys have events: %q", n, subscriber.since(0))
	}
	head := subscriber.head()
	publisher.do(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'a'`)
	arrived(head, "revoked a m_1")
	head = subscriber.head()
	publisher.do(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('d', 'm_1', 'x'); DELETE FROM keysidecar.public_keys WHERE key_id = 'b'`)
	arrived(head, "issued d m_1", "deleted b m_1")
	head = subscriber.head()
	publisher.do(`UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = 'm_1'`)
	arrived(head, "owner_changed - m_1")
	head = subscriber.head()
	publisher.do(`TRUNCATE keysidecar.public_keys`)
	arrived(head, "reset - -")
}
