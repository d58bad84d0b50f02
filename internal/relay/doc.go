// Package relay publishes the log, keysidecar.events, to the RabbitMQ exchange
// that every sidecar's queue is bound to.
//
// # What rests on it
//
// Speed, and nothing else: a sidecar's fence reads the log itself. The relay
// delivers at least once and in order, as far as the broker lets it; it may send
// an event twice, late, or after later ones, and every receiver must bear that.
//
// # Who leads
//
// Any number of relays may run; one leads. The leader holds a session advisory
// lock on a connection of its own, asked for with pg_try_advisory_lock every
// quarter of a second (waiting inside pg_advisory_lock would hold back vacuum for
// as long as the wait lasts). The server ends the session, and with it the lock,
// when it hears nothing for idle_session_timeout (3 s): of a leader that is
// stopped or cut off it would otherwise never notice. The leader shows life every
// half second, gives every statement 2 s, and steps down when one fails. Two
// leaders at once are harmless: they send the same events, and neither can move
// the mark back. A leader that cannot reach the broker while others wait for the
// lock lets them try.
//
// The connection must be direct. Behind a pooler in transaction mode the lock
// would stay with a server session that nobody owns; the relay notices (its
// backend's process id is not the one it was told) and refuses.
//
// # The mark
//
// keysidecar.relay.published_seq says up to where everything is published. It
// moves only past events that the broker confirmed, and only from the value the
// leader last saw (compare and set): a stale leader cannot take it back, and an
// operator who lowers it (Replay) is noticed within half a second. A mark that is
// lost, by a crash or with asynchronous commit, costs duplicates.
//
// # Publishing
//
// Events are read in order, a page at a time, and published through one channel
// with publisher confirms, at most Batch of them unconfirmed. No transaction is
// open meanwhile. What becomes of an event:
//   - confirmed: done;
//   - outcome unknown (the connection ended first): published again on the next
//     connection, before anything newer, as often as it takes;
//   - refused (nack: at least one queue could not take it, for instance because
//     its node is down; the others have it): published again after a pause, a few
//     times, while later events go on; then given up, with an error in the log.
//     Retrying for ever would send every event again and again for as long as one
//     node is down, and the sidecar behind that queue has its fence;
//   - not to be put into a message (an identifier of a watched table that is too
//     long): given up at once.
//
// While the broker blocks publishers (memory or disk alarm) the relay waits. It
// closes a connection on which a confirm or a write takes too long.
//
// # Housekeeping
//
// Each minute the leader checks that capture is whole; clears keysidecar.staging,
// where nothing should be left; and deletes events past their retention, never
// the newest 10,000.
//
// Every two seconds it looks after the registry of sidecars (registry.go), because
// that needs somebody who can wait: a sidecar that was silent for three minutes is
// marked, and deleted one bound later; after a promotion or a restore the registry is
// trusted again when the longest bound has passed.
package relay
