package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Figures are numbers about all that a store has.
type Figures struct {
	Groups     map[migration.GroupState]int // each group counts in its highest term that is not dropped
	Members    int                          // leaves of the groups that are active or frozen
	Migrations map[MigrationClass]int
	Frozen     time.Time // the creation of the oldest migration that is frozen; zero for none
	Staged     time.Time // the creation of the oldest migration that is staged; zero for none
	Evidence   map[EvidenceKind]int
	Outbox     []Backlog // by destination
}

// MigrationClass are the migrations of one role in one state.
type MigrationClass struct {
	Role  migration.Role
	State migration.State
}

// Backlog are the rows for one destination, without those that wait for the end of a retention.
type Backlog struct {
	Destination string
	Rows        int
	Oldest      time.Time // the creation of the oldest row; zero if older versions made all of them
	Attempts    int       // the most failures of a row
}
