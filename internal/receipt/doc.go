// Package receipt tells the revoker when it is over: that no sidecar of the fleet
// will accept a key from now on.
//
// # The rule
//
// Every running sidecar has a row in keysidecar.instances, the registry, which was
// committed durably before it asked its first question, and in which its fences
// report how far it has read the log. A receipt for the event with number n is
// complete when, in one snapshot of the primary that shows n, every row of the
// registry
//
//   - has reported a cursor at or past n under the present timeline, or
//   - has a bound (its max_staleness, or its stale_limit under serve_stale) that
//     has passed since the waiter first saw n committed.
//
// # Why that is enough
//
// A sidecar answers by what it was told for no longer than its bound after it
// asked. An answer that lacks n comes from a question that was put before n was
// committed, and so before the waiter could see n: it is over one bound later. The
// waiter counts that on its own boot-time clock, from after it saw n, so that no
// two clocks need to agree. After a promotion it counts anew: a re-issue that came
// after n, that a sidecar has read, and that the promotion has lost, would otherwise
// be answered by after the receipt (found by test/model). A sidecar whose row the snapshot lacks has registered
// since, and everything it asks shows n; or it has signed off, which it does when
// it answers nobody any more; or the relay has pruned it, which it does one bound
// after marking a row, while the marked row voids every question asked under it.
//
// # Where the registry may be incomplete
//
// Sidecars with fleet.report: false are in no registry. They ask only while the
// setting fleet.unreported_ms allows their bound, and a receipt waits that long. A
// promotion or a restored backup may have lost rows: until the relay has waited
// for it (keysidecar.registry_identity), a receipt waits as long as the longest
// bound that ever registered.
//
// The pauses are counted here and by the relay, never in SQL: only a process that
// stays knows that it has waited. The SQL function keysidecar.receipt therefore
// goes by reports alone.
package receipt
