package storage

import (
	"math"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// CheckRange refuses a change with a number that the databases' 64-bit integers with a sign cannot hold. The protocol
// refuses such epochs itself; this keeps a slip from wrapping around. It returns a KindInternal error.
func CheckRange(c *delivery.Change) error {
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
