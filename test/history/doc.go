// Package history is the record of a run under load: what drivers asked sidecars
// and what they were answered, which keys were revoked and when that was
// acknowledged, which receipts were given, and which faults there were. Drivers
// write it, the checker reads it afterwards; neither trusts the program under
// test for more than its answers.
//
// # Time
//
// All times are nanoseconds of this machine's CLOCK_BOOTTIME (Now), which every
// process of the machine shares and nobody can step.
//
// # Claims
//
// A Revocation whose commit was acknowledged claims that the key is refused from
// then on, within the bound, until a Restore was sent. One whose outcome is
// unknown has AckedAt 0 and claims nothing. What the run itself makes valid again
// has to be recorded as a Restore before it can be seen: a key issued again, an
// owner reactivated, and also revocations that a fault loses on purpose (a standby
// promoted without them, a backup restored).
//
// # The file
//
// The file begins with a magic line. Blocks follow: the length of the payload and
// its CRC-32C (4 bytes each, little-endian), then the payload, a sequence of
// records. A request is a dozen or two bytes: numbers as differences from the
// request before, strings once a block and by their index afterwards. Everything
// else is rare and written as JSON. Blocks know nothing of each other. The last
// record says how many there are, so that a file which lost its end, be it a whole
// block, is recognised.
//
// Records of several writers come in the order in which they were handed in, which
// is about the order of their ends, not of their beginnings.
package history
