package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// EntriesBytes is how much of messages and GroupInfos, in bytes, a store reads of a log at a time, give or take one
// entry.
const EntriesBytes = 8 << 20

// Bytes is what of an entry counts towards EntriesBytes.
func (e *Entry) Bytes() int { return len(e.Message) + len(e.GroupInfo) }

// EntryKind is the kind of a log entry.
type EntryKind string

// The kinds of log entries.
const (
	EntryProposal    EntryKind = "proposal"
	EntryCommit      EntryKind = "commit"
	EntryApplication EntryKind = "application"
	EntryWelcome     EntryKind = "welcome"
)

// Receipt is this server's signed word that a Commit leads a group to an epoch (profile, section 3): the fields of a
// mimiport.CommitReceipt and the id of the key. It is kept as long as its term has state here, whatever is forgotten of
// the log.
type Receipt struct {
	GroupID    []byte
	Term       uint64
	Epoch      uint64
	Seq        uint64
	CommitHash [32]byte // as Entry.Hash
	KeyID      string
	Signature  []byte
}

// Former is what came here of a group's former terms, with the group in one term: a mimiport.Former, encoded. It is
// kept as long as that term has state here.
type Former struct {
	GroupKey
	Data []byte
}

// Entry is one accepted message in a group's log.
type Entry struct {
	GroupID    []byte
	Term       uint64
	Seq        uint64
	Epoch      uint64 // as LogMessage.Epoch
	Kind       EntryKind
	Sender     string
	Hash       [32]byte // SHA-256 of Message; unique in a term
	Message    []byte
	GroupInfo  []byte                  // of a Commit: the next epoch's
	Recipients []mimiport.LeafIdentity // of a Welcome: for whom; of a Commit: whom it removed
	Migration  *mimiport.MigrationID   // of a migration Commit
	At         time.Time
}
