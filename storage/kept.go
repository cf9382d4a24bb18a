// Package storage is the contract of the Delivery Service's stores: the data, the changes, the questions. A store
// writes each change in one transaction. The packages below store the data in SQLite, in PostgreSQL or in memory. All
// of them pass the suite of package storagetest.
package storage

import (
	"math"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Millis returns a time as every store keeps it: milliseconds since 1970, rounded down, 0 for the zero time. The
// protocol's own times are milliseconds too. Unlike nanoseconds, they hold every year that a peer may name.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is the inverse of Millis. The result is in UTC.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Text returns a text for people as every store keeps it: valid UTF-8 without NUL, since PostgreSQL refuses anything
// else. The text may repeat the words of another server, and such words must not prevent a change.
func Text(s string) string {
	const replacement = "\uFFFD"
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", replacement), replacement)
}

// RequireRange fails if a number in a change does not fit into a signed 64-bit integer, the largest that the databases
// have. The error is KindInternal: the protocol refuses such numbers earlier, so this check finds only mistakes of this
// program.
func RequireRange(c *Change) error {
	var largest uint64
	note := func(numbers ...uint64) {
		for _, n := range numbers {
			largest = max(largest, n)
		}
	}
	if g := c.Group; g != nil {
		note(g.Term, g.Version, g.Epoch, g.NextSeq)
	}
	if m := c.Migration; m != nil {
		note(m.Version, m.Term, m.Epoch)
	}
	if r := c.Receipt; r != nil {
		note(r.Term, r.Epoch, r.Seq)
	}
	if f := c.Former; f != nil {
		note(f.Term)
	}
	if v := c.Volume; v != nil {
		note(v.Term)
	}
	for i := range c.Snapshots {
		s := &c.Snapshots[i]
		note(s.Term, s.Epoch, s.Seq)
	}
	for i := range c.Entries {
		e := &c.Entries[i]
		note(e.Term, e.Seq, e.Epoch)
	}
	for i := range c.Rows {
		r := &c.Rows[i]
		note(r.Order, r.Term, r.Seq)
	}
	for i := range c.FanOuts {
		f := &c.FanOuts[i]
		note(f.Term, f.Seq)
	}
	if largest > math.MaxInt64 {
		return mimiport.Errorf("store", mimiport.KindInternal, "number %d is not below 2^63", largest)
	}
	return nil
}
