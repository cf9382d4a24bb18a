package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// GroupKey identifies a group in one term.
type GroupKey struct {
	ID   []byte
	Term uint64
}

// Epoch is one epoch of a group in one term.
type Epoch struct {
	GroupKey
	Epoch uint64
}

// Group is one group in one term on this server. A store never deletes a Group.
type Group struct {
	ID          []byte
	Term        uint64
	Version     uint64 // of the stored row; the store increments it
	State       migration.GroupState
	Server      string // the local server name that hosts the group
	RoomID      string
	Creator     string // the user who reserved or migrated the group
	Protocol    string
	CipherSuite uint16
	Epoch       uint64
	NextSeq     uint64               // of the log; the first message is 1
	Migration   mimiport.MigrationID // the migration that froze or moved it
	Members     int                  // leaves in this epoch; 0 if nobody has counted them yet
	Lineage     []byte               // the encoded mimiport.Lineage: the group's way to this server
	CreatedAt   time.Time
}

// Key is the row's identity.
func (g *Group) Key() GroupKey { return GroupKey{g.ID, g.Term} }

// Snapshot is a group's public state at one epoch. A replay of the log starts from it.
type Snapshot struct {
	GroupID     []byte
	Term        uint64
	Epoch       uint64
	Seq         uint64 // number of the first log entry after this state
	GroupInfo   []byte
	RatchetTree []byte
}
