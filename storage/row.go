package storage

import (
	"cmp"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// MaxWait is the longest that a group may be frozen and an offer may last (profile, section 6), and the furthest ahead
// that a row is due, but for purges and ends.
const MaxWait = 10 * time.Minute

// Row is one thing to do, once, not before its time: a message to deliver or a deadline to keep. Rows of one
// destination and queue are done in the order of their numbers; different queues know no order.
type Row struct {
	Destination string // the server that whoever does the row asks or tells; this server's own name where it asks nobody
	Queue       string
	Order       uint64
	Kind        RowKind
	GroupID     []byte
	Term        uint64
	Seq         uint64               // RowFanOut: the log entry
	Migration   mimiport.MigrationID // all other kinds
	Due         time.Time
	Attempts    int
}

// RowKind is what a row asks for: one of those that migrations ask for, or of these.
type RowKind = migration.RowKind

// The other kinds of rows.
const (
	RowFanOut  RowKind = "fan-out" // deliver a log entry to the members at the destination
	RowCompact RowKind = "compact" // store a snapshot, so that the log before it need not be replayed
	RowPointer RowKind = "pointer" // check the step that the room's pointer shows, with keys of its target
	RowDevices RowKind = "devices" // compare leaves with what the devices of their users publish, at the destination
	RowAudit   RowKind = "audit"   // look after a group in every way
)

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
