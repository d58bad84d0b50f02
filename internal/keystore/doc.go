/*
Package keystore answers "may this key still be used?" from memory, and stops
answering before the answer could be too old.

# The promise

Let L be max_staleness. If the commit of a revocation was acknowledged at time c,
every look-up begun after c + L says that the key is not valid, or that it cannot
tell, whatever the broker, the network, the database or this process do. Under
on_stale: serve_stale, L is stale_limit. docs/guarantees.md states it in full,
with what it assumes. The parts here, each with the reason it cannot be simpler:

  - Only the source adds trust (S2). A message from the queue leaves marks ("ask
    the source") and asks for a fence. It moves neither the cursor nor the lease,
    so a forged, altered or replayed one costs a read and nothing else.
  - A fill loses to an event (S3). A read that began before an event was applied
    never enters memory after it. See flight and Store.land.
  - The lease counts from before the question (S4). See Store.fence and lease.
  - The cursor moves only by a fence, over events that were all applied before
    (S5). When the log no longer holds the cursor's row, or the timeline changed,
    everything is dropped and warmed again.
  - Cannot tell is an answer of its own (S6): an *UnavailableError.

# The parts

	Lookup ──► memory (shards: LRU of entries and marks, unknown keys, flights)
	  │           ▲ apply: marks        ▲ land: insert if still registered
	  │           │                     │
	  │       Evict (queue)           fly: Source.Fill        fills: a pool of their own
	  │       fence (log)  ◄──────── Source.Fence, one at a time, on its own connection
	  └──────► waits for a fence, or joins a fill
	                      warm: Source.Warm into a new memory, then adopt

A memory is one generation: cursor, lease, entries and fills belong together and
are replaced together. A look-up works inside one memory from its lease check to
its answer.

A look-up reads the clock after its request arrived, checks the lease, and only
then reads the entry. In the other order, a pause between the two steps would let
an entry from before a revocation be answered under a lease from after it.

An entry is the key's state at the cursor. A fill is therefore inserted only if
the source still knows the cursor under which the fill was registered and holds
no later event on the key or its owner: after a failover that lost the log's
tail, an entry read from that tail would otherwise stay for good, for no fence
would ever mention it.

A warm builds a new memory without a lease. The fence that grants it the first one
asks from the warm's own head, and so brings every event since the snapshot.
Complete memory (every key loaded, none evicted) answers "unknown" without asking;
complete is cleared before anything is evicted, and an event leaves a mark rather
than a gap.

A changed key that was in use is read again right after the fence that brought the
change (refill.go), so that its next request finds it in memory. A warm that replaces
a memory whose history is over drops that memory first: there is one copy of the
keys, and look-ups are reads of their own until the new one is adopted.

The keys of one owner, as a set (KeySet), are a fill of several keys and keep the same
rules; see setFlight. Memory has no index by owner, which would cost something for each
key: a set is read when it is asked for, and a few are held (keySets). An event ends
those that it can have made untrue.

# Who may ask

Receipts (package receipt) wait for every process that may still answer by an old
state. So a process registers with its source, durably, before its first fence or
fill, and each of them carries the registration: an answer whose snapshot shows the
entry missing or marked is void, and the process registers anew (fleet.go). A fence
reports the cursor that was held when it was asked; one that moved the cursor is
followed at once by one that reports it. The entry is taken back after the lease
has ended and the last fill is over.

# Time

The clock is package clock's boot time. Keys begin and expire by the source's wall
clock, carried forward by boot time since the last fence, so that this machine's
wall clock has no say; the reading is an interval, and a key must be within its
life at both ends.

# Who runs what

Store.Run owns three goroutines: one that fences and warms, which alone moves
cursors and grants leases, one that watches the source, and one that compares
samples of memory with it (see claim for why lag is not taken for drift). Each fill
runs in a goroutine of its own, at most max_fills, ended before Run returns.
*/
package keystore
