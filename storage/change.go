package storage

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Change is one atomic transition: all of it is written, durably, or none. A Group or Migration whose Version is 0 is
// inserted and must not exist; any other replaces the stored row of that version; either is stored with Version+1.
// Entries, Receipt, Content and Rows are inserted and must not exist. Anything unmet is ErrConflict. Limits are checked
// last.
type Change struct {
	Group     *Group
	Migration *migration.Migration
	Content   *Content
	Snapshots []Snapshot // inserted; one that exists is left as it is
	Entries   []Entry
	Receipt   *Receipt // of a Commit that this change accepts
	Former    *Former  // takes the place of an earlier one
	Rows      []Row
	Evidence  []Evidence // inserted; of one kind and migration the first is kept
	Volume    *Volume    // added to what is counted

	Limits []Limit // what the change, with all that is stored, must keep

	// What is deleted; absent things are ignored. Deletions come before insertions.
	Done        []RowKey              // rows
	Drop        *GroupKey             // entries, receipts, former terms, snapshots and counted bytes
	DropBefore  *Epoch                // snapshots of earlier epochs than this one
	DropContent *mimiport.MigrationID // a content
}
