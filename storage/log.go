package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// EntriesBytes is the most bytes of messages and GroupInfos that a store reads of a log at a time. One entry may exceed
// it.
const EntriesBytes = 8 << 20

// Bytes returns the bytes that count towards EntriesBytes.
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

// Receipt is this server's signed statement that a Commit leads a group to an epoch (profile, section 3). It has the
// fields of a mimiport.CommitReceipt and the id of the key. A store keeps it as long as it keeps state of the term,
// even after it forgets the Commit.
type Receipt struct {
	GroupID    []byte
	Term       uint64
	Epoch      uint64
	Seq        uint64
	CommitHash [32]byte // as Entry.Hash
	KeyID      string
	Signature  []byte
}

// Former is an encoded mimiport.Former: the data of a group's former terms, which came here with the group in one term.
// A store keeps it as long as it keeps state of that term.
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
	GroupInfo  []byte                  // of a Commit: the GroupInfo of the next epoch
	Recipients []mimiport.LeafIdentity // of a Welcome: the new members; of a Commit: the removed members
	Migration  *mimiport.MigrationID   // of a migration Commit
	At         time.Time
}
