// Package checker judges a history: it finds every answer that breaks a promise,
// and says how much the history is worth as evidence. It knows nothing of the
// program but its promises, and imports nothing of it.
//
// # What is a violation
//
//   - V1 bound: valid, to a request sent later than L after the revocation's commit
//     was acknowledged.
//   - V2 receipt: valid, to a request sent after a complete receipt was read.
//   - V3 resurrection: valid, after the same incarnation had refused the key because
//     of this revocation, to a request sent after that answer was read and after the
//     acknowledgement.
//   - V5 cursor: valid, with an as_of whose seq is the revocation's or later, in a
//     history that was alive after the revocation.
//   - V6 contradiction: an answer whose status, valid and code do not say the same.
//   - V8 as_of: valid, and by its own age proven by a question that was sent after
//     the acknowledgement.
//
// All but V6 end where a Restore was sent: the request has to be answered before.
//
// # What is only counted
//
//   - V4: an as_of that goes backwards within an incarnation and history, between
//     requests that do not overlap, both from memory. (What was read from the
//     database names the cursor it was asked with, and may be older.) Memory's
//     answers name the lease, which only moves on.
//   - V7: a receipt that was complete only later than L + 250 ms after it was asked
//     for.
//
// # When a refusal is because of a revocation (V3)
//
// The first refusals of a key may have other causes: it was not known yet, or an
// earlier revocation had not been forgotten since it was restored. A refusal
// counts if nothing of that kind can be its cause: the state that it was made from
// is at most L old, so that it is enough that the cause was gone, acknowledged, L
// before the request was sent. It also counts if its as_of was proven after the
// revocation was acknowledged.
//
// # When a cursor is in the revocation's history (V5)
//
// Only the sidecar names histories, so the checker has to tell by time: if the
// same incarnation says later, in the same history, that its state was proven
// after the revocation was acknowledged, then the log that its cursor is in is
// the one that the revocation was written to.
// Only memory's answers count for that: their lease was given by a fence that found
// the cursor in the log. What was read for a request may come from a log in which
// the cursor that it names is not.
//
// # Memory
//
// The history is read twice: once for everything but requests, once for requests.
// What is kept of them is one small record for each incarnation and revocation
// whose bound is not over for long. Records need not be in order, within limits:
// what comes more than two minutes late is not looked at for V3.
package checker
