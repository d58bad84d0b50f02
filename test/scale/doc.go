/*
Package scale starts a fleet of real sidecar processes on one Postgres and one
RabbitMQ and measures what they cost and how fast they are together:

  - Deny: the time from an acknowledged commit until the last sidecar refuses the key,
    beside a bare chain of the same size in the same run: one trigger with NOTIFY, one
    listener that publishes with confirms, and as many processes that only note when a
    message arrived. The fleet stands still (SIGSTOP) while the bare chain is measured,
    and the bare chain has nothing to do while the fleet is.
  - Rest: memory, processor time, statements and connections of each sidecar with
    nothing to do, and what the fleet costs the broker.
  - Rollout: every sidecar restarted, a few at a time; how many connections that
    takes, and how long each is away.

When a sidecar refuses is read from its status page, which tells when memory had
been changed, on the same machine's clock: asking all of them for every revocation
would cost as much processor time as the revocation itself. That a key is refused
from then on is asked of one sidecar for every revocation.

Nothing is between the processes: no proxy, as the fault suite has, whose own work
would be measured along.
*/
package scale
