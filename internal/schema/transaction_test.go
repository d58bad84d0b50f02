package schema_test

import (
	"context"
	"testing"
)

// gateHeld reports whether any transaction of s's database holds the gate.
func gateHeld(s *session) bool {
	return one[bool](s, `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'keysidecar.gate'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND mode = 'ExclusiveLock' AND granted)`)
}

func TestRolledBackChangesLeaveNoEvent(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	head := s.head()
	s.do(`BEGIN; DELETE FROM keysidecar.public_keys; ROLLBACK`)
	s.wantSince(head)
	s.do(`BEGIN;
		SAVEPOINT one; DELETE FROM keysidecar.public_keys WHERE key_id = 'a'; ROLLBACK TO one;
		SAVEPOINT two; DELETE FROM keysidecar.public_keys WHERE key_id = 'b'; RELEASE two;
		SAVEPOINT three; DELETE FROM keysidecar.public_keys WHERE key_id = 'c'; ROLLBACK TO three;
		COMMIT`)
	s.wantSince(head, "deleted b m_1")
}

// The first change may be undone while a later one stays, and the other way
// round: the row in pending belongs to a savepoint, too.
func TestSavepointsAroundTheFirstChangeLoseNothing(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	head := s.head()
	s.do(`BEGIN; SAVEPOINT one; DELETE FROM keysidecar.public_keys WHERE key_id = 'a'; ROLLBACK TO one; DELETE FROM keysidecar.public_keys WHERE key_id = 'b'; COMMIT`)
	s.wantSince(head, "deleted b m_1")
	head = s.head()
	s.do(`BEGIN; DELETE FROM keysidecar.public_keys WHERE key_id = 'a'; SAVEPOINT one; DELETE FROM keysidecar.public_keys WHERE key_id = 'c'; ROLLBACK TO one; COMMIT`)
	s.wantSince(head, "deleted a m_1")
}

// SET CONSTRAINTS ALL IMMEDIATE numbers at once: nothing is lost, the gate is
// held to the end of the transaction, and numbers of what is undone become holes.
func TestSetConstraintsImmediateLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	other := s.another()
	head := s.head()
	s.do(`BEGIN; DELETE FROM keysidecar.public_keys WHERE key_id = 'a'`)
	if gateHeld(other) {
		t.Fatal("the gate is held before the commit")
	}
	s.do(`SET CONSTRAINTS ALL IMMEDIATE`)
	if !gateHeld(other) {
		t.Fatal("the gate is not held although numbers were taken")
	}
	s.do(`DELETE FROM keysidecar.public_keys WHERE key_id = 'b'`)
	s.do(`DELETE FROM keysidecar.public_keys WHERE key_id = 'c'; COMMIT`)
	s.wantSince(head, "deleted a m_1", "deleted b m_1", "deleted c m_2")

	s.do(cast)
	head = s.head()
	s.do(`BEGIN; DELETE FROM keysidecar.public_keys WHERE key_id = 'a';
		SAVEPOINT one; SET CONSTRAINTS ALL IMMEDIATE; DELETE FROM keysidecar.public_keys WHERE key_id = 'b'; ROLLBACK TO one;
		DELETE FROM keysidecar.public_keys WHERE key_id = 'c'; COMMIT`)
	s.wantSince(head, "deleted a m_1", "deleted c m_2")
	if next := one[int64](s, "SELECT min(seq) FROM keysidecar.events WHERE seq > $1", head); next == head+1 {
		t.Log("no hole was left; the test no longer shows one")
	}
}

// A prepared transaction would keep the gate until somebody commits it.
func TestPrepareTransactionIsRefused(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	head := s.head()
	const featureNotSupported = "0A000"
	s.refuses(featureNotSupported, `BEGIN; DELETE FROM keysidecar.public_keys; PREPARE TRANSACTION 'p'`)
	s.do(`ROLLBACK`)
	s.refuses(featureNotSupported, `BEGIN; DELETE FROM keysidecar.public_keys; SET CONSTRAINTS ALL IMMEDIATE; PREPARE TRANSACTION 'p'`)
	s.do(`ROLLBACK`)
	s.wantSince(head)
	s.do(`BEGIN; UPDATE keysidecar.public_keys SET note = 'harmless'; PREPARE TRANSACTION 'harmless'`)
	s.do(`ROLLBACK PREPARED 'harmless'`)
}

// Every foreign key of Django, for one, is checked at COMMIT and waits for row
// locks there. If the gate were taken before such a check, this would deadlock.
func TestChecksDeferredByTheApplicationComeBeforeTheGate(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	s.do(`CREATE TABLE merchants (id int PRIMARY KEY); INSERT INTO merchants VALUES (1);
		CREATE TABLE audit (merchant int REFERENCES merchants DEFERRABLE INITIALLY DEFERRED)`)
	head := s.head()
	other, watcher := s.another(), s.another()
	other.do(`BEGIN; SELECT * FROM merchants WHERE id = 1 FOR UPDATE; DELETE FROM keysidecar.public_keys WHERE key_id = 'b'`)
	s.do(`BEGIN; DELETE FROM keysidecar.public_keys WHERE key_id = 'a'; INSERT INTO audit VALUES (1)`)
	committed := make(chan error, 1)
	pid := s.PgConn().PID()
	go func() { committed <- s.try(`COMMIT`) }()
	eventually(t, "the commit waits for the row lock", func() bool {
		return one[bool](watcher, `SELECT coalesce((SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1), false)`, pid)
	})
	if gateHeld(watcher) {
		t.Error("a transaction that waits for a row lock holds the gate")
	}
	other.do(`COMMIT`) // with the gate held, one of the two would be ended as a deadlock
	if err := <-committed; err != nil {
		t.Error(err)
	}
	watcher.wantSince(head, "deleted b m_1", "deleted a m_1")
}

// A deferred trigger of the application may itself change keys at COMMIT, also
// after the first numbering.
func TestChangesMadeDuringCommitAreCaptured(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	s.do(`CREATE TABLE steps (n int);
		CREATE FUNCTION step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('step' || NEW.n, 'm_1', 'x');
			IF NEW.n < 5 THEN INSERT INTO steps VALUES (NEW.n + 1); END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER step AFTER INSERT ON steps DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION step()`)
	head := s.head()
	s.do(`BEGIN; DELETE FROM keysidecar.public_keys WHERE key_id = 'a'; INSERT INTO steps VALUES (1); COMMIT`)
	s.wantSince(head, "deleted a m_1", "issued step1 m_1", "issued step2 m_1", "issued step3 m_1", "issued step4 m_1", "issued step5 m_1")
}

// Writers that change different keys must not disturb each other, whatever their
// isolation: numbering reads nothing that others write.
func TestStricterIsolationLevelsDoNotCollide(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"REPEATABLE READ", "SERIALIZABLE"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			s.do(cast)
			head := s.head()
			other := s.another()
			s.do(`BEGIN ISOLATION LEVEL ` + level)
			s.do(`SELECT 1`) // takes the snapshot
			other.do(`BEGIN ISOLATION LEVEL ` + level)
			other.do(`DELETE FROM keysidecar.public_keys WHERE key_id = 'c'; COMMIT`)
			s.do(`DELETE FROM keysidecar.public_keys WHERE key_id = 'a'; COMMIT`)
			s.wantSince(head, "deleted c m_2", "deleted a m_1")
		})
	}
}

// lock_timeout bounds the wait for the gate as it does any other.
func TestLockTimeoutBoundsTheWaitForTheGate(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	holder := s.another()
	holder.do(`BEGIN; LOCK TABLE keysidecar.gate IN EXCLUSIVE MODE`)
	const lockNotAvailable = "55P03"
	s.do(`SET lock_timeout = '50ms'`)
	s.refuses(lockNotAvailable, `DELETE FROM keysidecar.public_keys`)
	holder.do(`ROLLBACK`)
	s.do(`DELETE FROM keysidecar.public_keys WHERE key_id = 'a'`)
}

// A commit whose client gives up while it waits for the gate is rolled back.
func TestCancelledCommitIsRolledBack(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	head := s.head()
	holder := s.another()
	holder.do(`BEGIN; LOCK TABLE keysidecar.gate IN EXCLUSIVE MODE`)
	failed := make(chan error, 1)
	pid := s.PgConn().PID()
	go func() { failed <- s.try(`DELETE FROM keysidecar.public_keys`) }()
	eventually(t, "the commit waits for the gate", func() bool {
		return one[bool](holder, `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = $1 AND NOT granted)`, pid)
	})
	if _, err := holder.Exec(context.Background(), `SELECT pg_cancel_backend($1)`, pid); err != nil {
		t.Fatal(err)
	}
	const queryCanceled = "57014"
	if err := <-failed; !hasCode(err, queryCanceled) {
		t.Fatal(err)
	}
	holder.do(`ROLLBACK`)
	s.wantSince(head)
}
