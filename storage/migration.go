package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Content is the exact MigrationContent that a source sends or a target has voted for.
type Content struct {
	ID   mimiport.MigrationID
	Data []byte
}

// MigrationFilter selects migrations; zero fields select all.
type MigrationFilter struct {
	GroupID []byte
	Role    migration.Role
	States  []migration.State
	User    string
	RoomID  string
	Source  string
	Since   time.Time // created at or after
	Until   time.Time // created at or before
}

// Evidence is something that another server has signed and should not have, or that this server has and does not
// remember. It is kept for people.
type Evidence struct {
	GroupID   []byte
	Migration mimiport.MigrationID
	Kind      EvidenceKind
	Data      []byte // the signed message or lineage
	KeyID     string
	At        time.Time
}

// EvidenceKind says what the evidence shows: one of those that migrations ask to keep, or of these.
type EvidenceKind = migration.EvidenceKind

// The other kinds of evidence.
const (
	EvidenceLaterEpoch EvidenceKind = "later-epoch" // a member says to be in a later epoch than this server
	EvidenceFork       EvidenceKind = "fork"        // this server has signed for another Commit than the one forgotten
	EvidenceReport     EvidenceKind = "report"      // no evidence: a member says that they cannot process a Commit
)
