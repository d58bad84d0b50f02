/*
Package usage remembers when each key was last used, and writes that to Postgres
from time to time, so that people can see which keys nobody needs any more.

# What is promised, and what is not

It is a statistic, and everything else comes first. A look-up that notes a use never
waits for a write, and allocates nothing. Nothing here has a part in a verdict, in
an event or in the log. What is not written yet when the process is killed is lost,
and so is what finds no room; the latter is counted. A last use is never later
than the real one (it is rounded down to usage.resolution), and what is stored
never moves back.

# How

	Note ──► recent (lock-free: was this key noted in this second already?)
	     ──► 64 parts, each a lock around a map of bounded size: key, second
	Run  ──► every interval: takes the maps away, writes keys in order, in batches

A key that is asked for all the time costs one atomic load, except once a second.
The other look-ups hold the lock of one part for the time of one map access; the
writer holds it to exchange the map for an empty one, and never while it writes.

Times are seconds of boot time, and are sent as ages: the database subtracts them
from its own clock and rounds, so that the clocks of the machines have no say, and
all sidecars round to the same moments. Only a later moment than the stored one is
written, so that of a fleet that uses one key all the time one sidecar writes it
once in each resolution, and the others only look.

Writes have a connection of their own, made for each round and closed after it:
neither a fence nor a fill ever waits for one. Commits do not wait for the disk or a
standby.

Rows whose keys are gone are deleted by and by: each round looks at the next few
rows of the table, from a key on that it has just written.
*/
package usage
