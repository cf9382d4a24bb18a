package storage

import (
	"cmp"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// MaxWait is the longest time for which a group can be frozen and an offer can last (profile, section 6). Except for
// purges and ends, no row is due later than MaxWait from now.
const MaxWait = 10 * time.Minute

// Row is one task: to deliver a message, or to act at a deadline. A worker does it once, at its due time or later. It
// does the rows of one destination and queue in the order of their numbers. Different queues have no order.
type Row struct {
	Destination string // the server that the task calls; if none, this server's own name, Background or Announcing
	Queue       string
	Order       uint64
	Kind        RowKind
	GroupID     []byte
	Term        uint64
	Seq         uint64               // RowFanOut: the log entry
	Migration   mimiport.MigrationID // for all other kinds
	Due         time.Time
	Created     time.Time // zero for a row that an older version made
	Attempts    int
	Body        []byte // RowAnnounce: the announcement
}

// RowKind is the kind of a task. Package migration has some of the kinds, and the others are below.
type RowKind = migration.RowKind

// The kinds of rows that do not come from package migration.
const (
	RowFanOut   RowKind = "fan-out"  // deliver a log entry to the members at the destination
	RowCompact  RowKind = "compact"  // store a snapshot, so that a replay can skip the log before it
	RowPointer  RowKind = "pointer"  // check the step in the room's pointer with keys of its target
	RowDevices  RowKind = "devices"  // compare leaves with the device keys that their users publish at the destination
	RowAudit    RowKind = "audit"    // make all checks of a group
	RowSweep    RowKind = "sweep"    // check the groups of a room after GroupID
	RowDrain    RowKind = "drain"    // deal with the next groups of the drain
	RowAnnounce RowKind = "announce" // point a room to the server that a group has moved to
)

// Background is the destination of tasks of this server that may take long. It is no server's name. Such tasks have
// places of their own, so that no other task waits for them.
const Background = "(background)"

// Announcing is the destination of the state events that announce moves in their rooms. It is no server's name. These
// events are sent one at a time: an event costs the host more than a move does, and a move must not wait for it.
const Announcing = "(announcing)"

// RowKey identifies a row.
type RowKey struct {
	Destination string
	Queue       string
	Order       uint64
}

// Key is the row's identity.
func (r *Row) Key() RowKey { return RowKey{r.Destination, r.Queue, r.Order} }

// CompareKeys orders rows by destination, queue and number.
func CompareKeys(a, b RowKey) int {
	return cmp.Or(strings.Compare(a.Destination, b.Destination), strings.Compare(a.Queue, b.Queue),
		cmp.Compare(a.Order, b.Order))
}
