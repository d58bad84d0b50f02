/*
Package peers measures a look-up of the sidecar beside what one would otherwise ask,
in one run on one machine: the least that Go can do over a Unix socket, a web server
with a fixed answer, Redis, and Postgres.

# Fairness

  - Every server is a process of its own, started privately with nothing else to do,
    and may use all cores.
  - Everything that speaks HTTP or Redis' protocol is driven by the same client: one
    thread with epoll, kept-alive connections, one request under way on each, requests
    written out beforehand, answers read no further than needed to know that they are
    complete and what they say. An answer that says something else than expected ends
    the run. Postgres is asked through a pgx pool, as programs do; that client costs
    more than the others', and the table says how much.
  - Contenders take turns in random order, in each cell of each round (a number of
    connections, with or without misses). Ratios are taken within a round, between
    measurements seconds apart, and their median over the rounds is what is judged.
  - Processor time is that of the server's processes alone, to the nanosecond, as the
    scheduler counts it.

The client shares the machine's cores with the server, for all alike. Where its own
thread is busy all the time, the client is the limit and contenders look more alike
than they are; the table tells that, too.

# The parts

	Run ── starts ──► contenders (sidecar.go, bare.go, nginx.go, redis.go, postgres.go)
	 │                    each: load (drive, or a pool) and the pids of its server
	 └─ rounds × cells × contenders in random order ──► Sample
	                                                      └─► Report: Markdown, SVG, Judge
*/
package peers
