// Package schema holds the database's side of keysidecar: tables, capture of
// changes and roles, as embedded migrations. This page is the contract of the
// log, keysidecar.events, for those who write keys and for those who read the
// log.
//
// # The log
//
// Every change that a verdict depends on has a row in keysidecar.events, written
// in the transaction that made the change: both are there or neither is.
//
//   - Order: seq is commit order. When a reader sees a row, it sees every row with
//     a lower seq that there will ever be. So "seq greater than the last I read" is
//     a complete cursor.
//   - Holes: a missing number is a transaction that failed after it was numbered (a
//     deferred constraint, a serialization failure, SET CONSTRAINTS ALL IMMEDIATE
//     and ROLLBACK), or up to 32 numbers after a crash or promotion. It is never a
//     lost event.
//   - Identity: event_id tells apart two histories that use the same numbers. A
//     pair (seq, event_id) that was read and is not in the log any more means that
//     history was rewritten (a failover that lost commits, a restored backup) or
//     pruned; a reader then starts over.
//   - Never empty: the first row is a reset, number 0, and pruning spares the newest
//     10,000.
//   - Kinds: issued, changed, revoked, deleted name a key, and its owner where it
//     is known; owner_changed names an owner, all of whose keys are to be judged
//     anew; reset names nothing and means everything. "revoked" is a key whose
//     revoked_at went from null to a value; an undone revocation is "changed". A
//     changed key_id or owner is a "deleted" for the old and an "issued" for the new.
//     Time (expires_at, not_before) writes no event when it comes.
//   - Who: actor is the role that made the change, SET ROLE included;
//     claimed_actor is what the session put into the setting keysidecar.actor, at
//     most 256 characters that nobody has checked.
//
// A NOTIFY on channel keysidecar goes out with every commit that wrote events.
//
// # How it is captured
//
// First stage: row triggers on the watched tables note each change in
// keysidecar.staging, and that this transaction has something to number in
// keysidecar.pending. Second stage: a deferred trigger on pending locks
// keysidecar.gate, takes the numbers and moves the transaction's changes from
// staging to the log, in one statement. The gate is held until the commit is
// done, so numbers become visible in their order.
//
// The deferred trigger fires twice. The first call was queued by the change, and
// the application may have deferred checks after it: a deferred foreign key takes
// row locks at COMMIT, and taking those with the gate in hand deadlocks with a
// writer that holds the row and waits for the gate. So the first call queues the
// second, which comes after all that the application itself deferred. The gate
// is the last lock of a transaction. (A deferred trigger of the application that
// makes further deferred work at COMMIT, and that waits for locks, can still
// come after it.)
//
// Every trigger in the chain is ENABLE ALWAYS, for logical replication and
// session_replication_role = replica skip others, and every function is SECURITY
// DEFINER with a fixed search_path, so that applications need no right on the log.
//
// What was measured (PostgreSQL 15, two cores shared with other work): one
// statement that changes 100,000 keys takes about 1.8 s more than without capture,
// of which 0.6 s are behind the gate; a numbering per row took four times as long
// there. BenchmarkBulkRevocation prints it for your machine.
//
// # What writers may expect
//
//   - INSERT, UPDATE, DELETE, MERGE, COPY, ON CONFLICT, writes through views and by
//     BEFORE triggers, ON DELETE and ON UPDATE CASCADE, replication-role writers
//     and logical replication are captured row by row; TRUNCATE as a reset.
//     An update that changes no column that counts writes nothing.
//   - Key changes commit one after another, each holding the gate through the flush
//     of the log and the synchronous standby: per transaction, not per key. Put
//     many keys into one transaction.
//   - lock_timeout and statement_timeout bound the wait for the gate as any other;
//     a COMMIT that hits one, or is cancelled there, rolls back.
//   - REPEATABLE READ and SERIALIZABLE writers of different keys do not disturb each
//     other: numbering reads nothing that another transaction wrote.
//   - What a savepoint undoes has no event.
//   - SET CONSTRAINTS ALL IMMEDIATE loses nothing, but numbers at once: from then on
//     the transaction holds the gate, and every other key writer waits for its end.
//   - PREPARE TRANSACTION is refused after a key change (SQLSTATE 0A000), for a
//     prepared transaction would hold the gate until somebody commits it.
//   - A key needs its owner's row; deleting the owner deletes its keys.
//
// # What is not captured
//
// TRUNCATE of a partition made after watch (watch again to include it);
// attaching, detaching or dropping a partition with rows; DDL that rewrites
// data (ALTER TYPE ... USING); whatever happens while a trigger is disabled; a
// trigger of the right name that was redefined and set to ALWAYS again. After any
// of these: SELECT keysidecar.reset(), which makes every sidecar forget. The same
// after restoring a backup.
//
// keysidecar.watched lists the triggers that must be there. A sidecar asks
//
//	(SELECT keysidecar.capture_intact())
//
// as a subquery, so that it runs once a statement and sees its snapshot: true if
// each of them exists and is ENABLE ALWAYS, on a logged table that still has the
// name under which it was watched (a table can be swapped by renaming), on its
// partitions too, and if nothing inherits from it. keysidecar.capture_problems()
// says what is wrong, in words. An operator who has repaired capture calls
// reset(), since what was changed meanwhile has no event.
//
// # Tables of an operator's own
//
//	keysidecar.watch(relation regclass, key_column name, owner_column name DEFAULT NULL,
//	                 columns name[] DEFAULT NULL, revoked_column name DEFAULT NULL)
//	keysidecar.watch_owner(relation regclass, owner_column name, columns name[] DEFAULT NULL)
//	keysidecar.unwatch(relation regclass)
//	keysidecar.uncaptured(relation regclass) RETURNS SETOF regclass
//
// watch captures the changes of the named columns, or of any if none are named;
// compared in their binary image, so that json and the like do not make the
// application's UPDATE fail. revoked_column (a boolean or anything nullable) only
// tells "revoked" from "changed". Key and owner columns are text, varchar, name,
// uuid or integers. Ids that cannot be a key_id have no events: nobody can ask for
// them. Calling watch again replaces what was there. Views, foreign, unlogged,
// temporary and inheriting tables are refused, and single partitions.
//
// The caller is a superuser, or a member of both the table's owner and the owner
// of schema keysidecar. Renaming a watched table, or a column that identifies,
// calls for unwatch before and watch after. uncaptured lists the tables beneath a
// view that are not watched; it does not look into functions.
//
// # Helpers and roles
//
//	keysidecar.revoke_key(key_id text, reason text DEFAULT NULL) RETURNS boolean
//	keysidecar.suspend_owner(owner_id text) RETURNS boolean
//	keysidecar.reactivate_owner(owner_id text) RETURNS boolean
//
// True: changed; false: it was so already; null: there is no such row. They are
// SECURITY DEFINER on purpose: a role may be allowed to revoke without being
// allowed to write the tables.
//
// keysidecar_sidecar reads keys, owners, the log, what is watched and the fleet,
// and writes its registration and when keys were last used (keysidecar.key_usage,
// which no trigger looks at). keysidecar_relay reads and prunes the log and keeps
// the relay's row. keysidecar_app writes keys and owners and calls the helpers.
// They are groups without login, made by migrate if it may; grant_roles() gives
// them their rights again at the end of each migrate.
//
// # Versions
//
// Migrations run under a lock, each in its own transaction. CheckCompatible is
// for programs that use the database and never migrate it; a newer schema serves
// older programs as far back as its setting schema.serves_from says.
package schema
