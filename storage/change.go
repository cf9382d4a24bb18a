package storage

import (
	"encoding/json"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Setting is a small named JSON value.
type Setting struct {
	Name  string
	Value json.RawMessage
}

// Change is one atomic transition: a store writes all of it durably, or nothing.
//
// The store inserts a Group or Migration whose Version is 0; there must be no such row. For any other Version, the
// store replaces the row, which must have that version. It stores the row with Version+1. It inserts Entries, Receipt,
// Content, Rows and FanOuts; there must be no such rows. If one of these conditions does not hold, the error is
// ErrConflict. The store checks limits last.
type Change struct {
	Group     *Group
	Migration *migration.Migration
	Content   *Content
	Snapshots []Snapshot // inserted; a stored one stays as it is
	Entries   []Entry
	Receipt   *Receipt // of a Commit that this change accepts
	Former    *Former  // replaces an earlier one
	Rows      []Row
	FanOuts   []FanOut
	Evidence  []Evidence // inserted; the first of a kind and migration stays
	Volume    *Volume    // added to the stored bytes of the user and day
	Setting   *Setting   // replaces an earlier one

	Limits []Limit // must hold after the change

	// The store deletes these things first, before it inserts anything. It ignores absent things.
	Done        []RowKey              // rows
	Settled     []Position            // the FanOuts of each group up to a number
	Drop        *GroupKey             // a term's entries, receipts, Former, snapshots and volumes
	DropBefore  *Epoch                // snapshots of earlier epochs than this one
	DropContent *mimiport.MigrationID // a content
}
