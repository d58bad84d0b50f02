package peers

import (
	"math/bits"
	"time"
)

// A histogram counts durations in buckets whose width grows with what they hold: 128
// to each doubling, so that a value is off by less than 0.8 % (as HdrHistogram does).
type histogram struct {
	counts [buckets]uint64
	n      uint64
}

const (
	subBits = 7
	sub     = 1 << subBits
	// maxBits bounds durations to 18 minutes.
	maxBits = 40
	buckets = (maxBits - subBits + 1) * sub
)

func bucketOf(ns uint64) int {
	if ns < sub {
		return int(ns)
	}
	shift := bits.Len64(ns) - subBits - 1
	return min((shift+1)*sub+int(ns>>shift)-sub, buckets-1)
}

// middle is the middle of a bucket.
func middle(bucket int) time.Duration {
	if bucket < sub {
		return time.Duration(bucket)
	}
	shift := bucket/sub - 1
	return time.Duration(uint64(bucket%sub+sub)<<shift + (uint64(1)<<shift)/2)
}

func (h *histogram) record(d time.Duration) {
	h.counts[bucketOf(uint64(max(0, d)))]++
	h.n++
}

func (h *histogram) add(other *histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
}

// quantile returns the smallest value that a share of q does not exceed; 0 if there
// is none.
func (h *histogram) quantile(q float64) time.Duration {
	left := uint64(q * float64(h.n))
	if h.n == 0 {
		return 0
	}
	left = min(max(left, 1), h.n)
	for i, c := range h.counts {
		if c >= left {
			return middle(i)
		}
		left -= c
	}
	return middle(buckets - 1)
}
