package storage

import "time"

// Millis is how every store keeps a time: milliseconds since 1970, rounded down, 0 for the zero time. The protocol's own
// times are milliseconds, and unlike nanoseconds they hold any year that a peer may name.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is what Millis kept, in UTC.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
