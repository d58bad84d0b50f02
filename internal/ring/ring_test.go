package ring

import (
	"slices"
	"testing"
)

func TestARingForgetsOrReordersWhatItHasRoomFor(t *testing.T) {
	r := New[int](3)
	for _, want := range [][]int{nil, {1}, {1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 5}} {
		if have := r.Items(); !slices.Equal(have, want) {
			t.Fatalf("%v, not %v", have, want)
		}
		next := 1
		if len(want) > 0 {
			next = want[len(want)-1] + 1
		}
		r.Add(next)
	}
}
