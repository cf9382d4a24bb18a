package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Content is a MigrationContent, byte for byte: the one that a source sends, or the one that a target voted for.
type Content struct {
	ID   mimiport.MigrationID
	Data []byte
}

// MigrationFilter selects migrations. A zero field selects all.
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

// Evidence is a message that another server signed against the rules, or that this server signed and no longer
// remembers. A store keeps it for people to read.
type Evidence struct {
	GroupID   []byte
	Migration mimiport.MigrationID
	Kind      EvidenceKind
	Data      []byte // the signed message or lineage
	KeyID     string
	At        time.Time
}

// EvidenceKey identifies a piece of evidence.
type EvidenceKey struct {
	GroupID   string // as bytes
	Kind      EvidenceKind
	Migration mimiport.MigrationID
}

// Key returns the key of a piece of evidence.
func (e *Evidence) Key() EvidenceKey { return EvidenceKey{string(e.GroupID), e.Kind, e.Migration} }

// EvidenceFilter selects evidence. An empty field selects all.
type EvidenceFilter struct {
	GroupID []byte
	Kinds   []EvidenceKind
}

// EvidenceKind says what the evidence shows. Package migration has some of the kinds, and the others are below.
type EvidenceKind = migration.EvidenceKind

// The kinds of evidence that do not come from package migration.
const (
	EvidenceLaterEpoch EvidenceKind = "later-epoch" // a member claims a later epoch than this server has
	EvidenceFork       EvidenceKind = "fork"        // this server also signed for another Commit, which it forgot
	EvidenceReport     EvidenceKind = "report"      // a member's unsigned report that they cannot process a Commit
)

// EvidenceKinds are all kinds of evidence.
var EvidenceKinds = []EvidenceKind{
	migration.EvidenceSecondContent, migration.EvidenceBothOutcomes, migration.EvidenceOwnForgotten,
	migration.EvidenceHigherTerm, migration.EvidenceContested, migration.EvidenceDisplaced, EvidenceLaterEpoch,
	EvidenceFork, EvidenceReport,
}
