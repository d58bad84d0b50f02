package subscriber

import "time"

// complaint keeps a condition that persists from filling the log: it is shown
// when it begins, when it changes and every logEvery. The zero value has shown
// nothing.
type complaint struct {
	what string
	next *time.Timer
}

func (c *complaint) isNew(what string) bool {
	if c.next != nil && c.what == what {
		select {
		case <-c.next.C:
		default:
			return false
		}
	}
	c.what, c.next = what, time.NewTimer(logEvery)
	return true
}
