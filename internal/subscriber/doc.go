// Package subscriber reads this instance's queue and hands every event to the
// keystore, so that a revocation takes effect in milliseconds.
//
// # What rests on it
//
// Speed, and nothing else. A message can only take trust away: Store.Evict marks
// what an event names and asks for a fence. Whatever happens to messages (lost,
// late, repeated, reordered, altered, forged), to the queue or to the broker, the
// keystore's own fences against Postgres keep the promise. The subscriber's duty
// is to ask for a fence whenever it knows or suspects that it missed something.
//
// # One life
//
// A life is one connection (package rabbit). At its beginning, in this order:
//
//  1. look for the exchange, and declare it (durable, fanout) if it is missing,
//  2. declare the queue <prefix><instance>: durable, classic, with x-expires,
//     x-max-length and overflow drop-head, so that a sidecar that went away
//     neither grows a queue for ever nor makes the relay's publications fail,
//  3. bind it, set the prefetch, consume: exclusive, manual acknowledgement,
//  4. ask for a fence ("reconnect"): it brings what was missed before step 3, and
//     what comes after step 3 the queue brings.
//
// Tags are acknowledged on the channel they came from, by the one goroutine that
// applies events and only after it applied them. A life owns its channel, so an
// acknowledgement cannot reach another life's channel, where it would confirm
// messages nobody has seen. What was delivered and not acknowledged comes again,
// which is harmless.
//
// # When the queue is refused
//
// After a crash the broker may take the old connection for alive for up to three
// heartbeats, and refuses its queue to anyone else (403). The same happens when
// another process uses this instance's name. A queue may have other arguments
// (406), belong to one connection (405) or live on a node that is down (404).
// None of these is waited for: the life uses a queue of its own instead, with a
// random suffix, exclusive to the connection and gone with it. The next life
// tries the plain name again. The plain queue, unread meanwhile, forgets its
// oldest messages and expires.
//
// # What no signal tells
//
// A removed binding, a deleted exchange and a purged queue are silent. So the
// life binds again every few seconds, and at once when the keystore says that a
// fence brought what the queue did not (QueueBehind): where the exchange is gone,
// that is refused, and the next life declares it. And every message names its
// predecessor, so that the next one shows a gap. A number that
// was never used is no gap: the predecessor is named, not assumed.
//
// # The end of a life
//
// A closed connection or channel, a cancelled consumer (the queue was deleted),
// a request without an answer: all end the life; the next begins after a
// jittered pause, never longer than maxPause.
package subscriber
