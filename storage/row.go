package storage

import (
	"cmp"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// MaxWait is the longest that a group may be frozen and an offer may last (profile, section 6), and the furthest ahead that a row
// is due, but for purges.
const MaxWait = 10 * time.Minute

// Row is one thing to do, once, not before its time: a message to deliver or a deadline to keep. Rows of one destination
// and queue are done in the order of their numbers; different queues know no order.
type Row struct {
	Destination string // a server name, this server's own included
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

// RowKind is what a row asks for.
type RowKind string

// The kinds of rows.
const (
	RowFanOut       RowKind = "fan-out"      // deliver a log entry to the members at the destination
	RowContent      RowKind = "content"      // hand the content to the target
	RowConfirmation RowKind = "confirmation" // hand the decision to the target
	RowAbort        RowKind = "abort"        // hand the signed abort to the target
	RowDeadline     RowKind = "deadline"     // the offer expires, or decide_by has come
	RowAsk          RowKind = "ask"          // ask the source how a staged migration ended
	RowPurge        RowKind = "purge"        // drop the state of a group that has moved
	RowCompact      RowKind = "compact"      // store a snapshot, so that the log before it need not be replayed
	RowExpel        RowKind = "expel"        // propose to remove members who are not in the room
	RowLineage      RowKind = "lineage"      // show a server from which the group was reclaimed that it was
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
	return cmp.Or(strings.Compare(a.Destination, b.Destination), strings.Compare(a.Queue, b.Queue), cmp.Compare(a.Order, b.Order))
}
