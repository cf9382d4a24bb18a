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

// Group is one group in one term on this server. Rows are kept for good.
type Group struct {
	ID          []byte
	Term        uint64
	Version     uint64 // of the stored row; the store counts it
	State       migration.GroupState
	Server      string // the local server name that hosts it
	RoomID      string
	Creator     string // who reserved or migrated it
	Protocol    string
	CipherSuite uint16
	Epoch       uint64
	NextSeq     uint64               // of the log; the first message is 1
	Migration   mimiport.MigrationID // the migration that froze or moved it
	Lineage     []byte               // mimiport.Lineage, encoded: how it came here
	CreatedAt   time.Time
}

// Key is the row's identity.
func (g *Group) Key() GroupKey { return GroupKey{g.ID, g.Term} }

// Snapshot is a group's public state at one epoch, to replay the log on.
type Snapshot struct {
	GroupID     []byte
	Term        uint64
	Epoch       uint64
	Seq         uint64 // the first log number not in it
	GroupInfo   []byte
	RatchetTree []byte
}
