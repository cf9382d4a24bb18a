// Package storage is the contract of the Delivery Service's stores: the data that a store keeps, the changes that it
// makes, each in one transaction, and what it can be asked. The packages beneath keep it in SQLite, in PostgreSQL or in
// memory; storagetest is the suite that all of them pass.
package storage

import (
	"math"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Millis is how every store keeps a time: milliseconds since 1970, rounded down, 0 for the zero time. The protocol's
// own times are milliseconds, and unlike nanoseconds they hold any year that a peer may name.
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

// Text is how every store keeps what is for people to read: as valid UTF-8 without NUL, or PostgreSQL would refuse it.
// It may repeat what another server said, which must not be able to keep a change from being stored.
func Text(s string) string {
	const replacement = "\uFFFD"
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", replacement), replacement)
}

// RequireRange fails if a change has a number that the databases' 64-bit integers with a sign cannot hold. The protocol
// refuses such epochs itself; this keeps a slip from wrapping around. It returns a KindInternal error.
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
	if largest > math.MaxInt64 {
		return mimiport.Errorf("store", mimiport.KindInternal, "number %d is not below 2^63", largest)
	}
	return nil
}
