//go:build !faultclock

package clock

// obeySignals is for the fault suite; see signals.go.
func (*Clock) obeySignals() {}
