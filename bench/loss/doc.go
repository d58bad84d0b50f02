/*
Package loss counts what caches miss while one of several subscribers is disturbed:
with Redis Pub/Sub, a transient and a durable RabbitMQ queue, and with keysidecar.

The same revocations, in the same run, are told in all four ways. For each way there
are two subscribers, real processes. One of the two is disturbed in the middle, the
other is left alone. There are two disturbances:

  - restarted: the process is killed and started again a moment later;
  - cut off: the process goes on, its connection to the broker (Redis, RabbitMQ) is
    cut, and new ones are refused for a moment.

A subscriber of the first three ways is a cache as programs usually have one: it reads
all valid keys from Postgres, subscribes, forgets each key that a message names, and
connects again when it loses its connection. The application that revokes publishes
after its commit, to Redis and (persistent and confirmed) to RabbitMQ. A sidecar gets
its messages from the relay.

Every subscriber is asked for every key that was revoked, over and over, until it
refuses it. So what counts is what the caller of a cache sees: the time for which a
revoked key is still accepted, and the keys that are still accepted at the end, long
after the last revocation. A cache without a bound accepts those until somebody
restarts it.
*/
package loss
