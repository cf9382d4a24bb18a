// Package migration holds the two state machines of the hand-over (profile, section 6) as pure functions. It also
// decides how a server reacts to a later term of a group, or claims a group. A record, the group's row and an event
// give a Ready with all consequences. The package does no I/O, reads no clock and signs nothing: times arrive in
// events, and a Ready says what to sign, to store and to do later. Package delivery writes Ready values to its store,
// and package explore writes them to the worlds that it searches. So only this package states the consequences of a
// step.
package migration

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// State is the state of a migration on the side that keeps the record.
type State string

// The states of profile, section 6. A source record begins with Frozen: before that the group is simply active.
const (
	// Source.
	Frozen  State = "frozen"  // S sends the content and waits for T's vote until DecideBy
	Decided State = "decided" // the confirmation is signed; T may not know yet
	Moved   State = "moved"   // T has acknowledged
	Aborted State = "aborted" // ended without a move, for good

	// Target.
	Offered State = "offered" // a response was given out
	Staged  State = "staged"  // voted: T activates when it gets the confirmation
	Active  State = "active"  // T hosts the group
	Dropped State = "dropped" // the offer expired, or T got S's signed abort
)

// States are the states of both sides.
var States = []State{Frozen, Decided, Moved, Aborted, Offered, Staged, Active, Dropped}

// Of reports whether records of a role can be in the state.
func (s State) Of(role Role) bool {
	atSource := s == Frozen || s == Decided || s == Moved || s == Aborted
	return atSource == (role == Source)
}

// Ended reports whether the outcome is final. Only a confirmation changes a record in such a state: it wins even
// against S's own abort.
func (s State) Ended() bool { return s == Moved || s == Aborted || s == Active || s == Dropped }

// Role is the side that keeps the record.
type Role string

// Roles are the two sides.
var Roles = []Role{Source, Target}

// The two sides.
const (
	Source Role = "source"
	Target Role = "target"
)

// Migration is one side's record of one migration, kept for good.
type Migration struct {
	ID      mimiport.MigrationID
	Role    Role
	State   State
	Version uint64 // of the stored row; the store counts it

	GroupID []byte
	RoomID  string
	Term    uint64 // the term that begins at the target
	Source  string
	Target  string
	User    string // the migrating user
	ByAdmin bool   // the user was an administrator of the source then
	Epoch   uint64 // n: the epoch the migration Commit ends

	CreatedAt time.Time
	UpdatedAt time.Time // when this server stored the record last
	ExpiresAt time.Time // of the offer
	DecideBy  time.Time // zero while offered

	CommitHash  []byte // SHA-256 of the migration Commit message
	ContentHash []byte // migration_content_hash: the suite's hash of the MigrationContent
	ContentKey  string // the source's key that the MigrationContent is signed with

	Response     Signed // MigrationResponse, by the target
	Complete     Signed // TargetMigrationComplete, by the target: the vote
	Vote         []byte // MigrationVote, signed with the same key; nil from a target that speaks only the draft
	Confirmation Signed // MigrationConfirmation, by the source: the decision
	Abort        Signed // MigrationAbort, by the source
	Reason       string // the reason of an abort or drop, for people

	Refused int // the number of contents that T has refused, at most MaxRefused
}

// Accepted reports whether the source's log has the migration Commit. The log does not have it if the source was shown
// its confirmation after an abort, or after it had forgotten the migration.
func (m *Migration) Accepted() bool {
	return (m.State == Decided || m.State == Moved) && m.CommitHash != nil && m.Abort.Message == nil
}

// Signed is a signed message and the id of its key. It is empty until the message is signed.
type Signed = mimiport.SignedMessage
