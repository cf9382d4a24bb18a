package migration

import (
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// GroupState is where a group stands on this server in one term.
type GroupState string

// The states of a group. A group of a later term supersedes all earlier ones.
const (
	GroupReserved GroupState = "reserved" // the id is handed out, no group is bound to it
	GroupActive   GroupState = "active"
	GroupFrozen   GroupState = "frozen"  // a migration awaits its decision
	GroupStopped  GroupState = "stopped" // its members are in a later epoch: a backup was restored; an operator decides
	GroupClosed   GroupState = "closed"  // its members have ended it: it is read, and accepts nothing
	GroupEnded    GroupState = "ended"   // was closed, and its log is past its retention
	GroupMoved    GroupState = "moved"   // decided; the redirect is kept for good
	GroupStaged   GroupState = "staged"  // voted for: waits for the source's decision
	GroupDropped  GroupState = "dropped" // was staged and is not coming
)

// Group is the part of a group's row, of one term, that migrations and claims change. The zero one stands for no row.
type Group struct {
	State     GroupState
	Migration mimiport.MigrationID // the last one that froze, moved, staged or dropped it; zero if it moved by a claim
}

// Owned says whether this server is the group's host for all that it knows, whether it accepts or not.
func (g Group) Owned() bool {
	return g.State == GroupActive || g.State == GroupFrozen || g.State == GroupStopped || g.Closed()
}

// Closed says whether the group has ended for good.
func (g Group) Closed() bool { return g.State == GroupClosed || g.State == GroupEnded }

// Recoverable says whether nothing of the group is here or on its way here, so that an operator may recover it.
func (g Group) Recoverable() bool {
	return g.State == "" || g.State == GroupMoved || g.State == GroupStopped
}

// Why the group's row of a term cannot be begun.
var (
	ErrStaged = errors.New("migration: another migration of the group is staged here")
	ErrTaken  = errors.New("migration: the group has been here in that term")
)

// requireVacant fails unless a term may begin in the place of a row: there is none, or only what was dropped.
func (g Group) requireVacant() error {
	switch g.State {
	case "", GroupDropped:
		return nil
	case GroupStaged:
		return ErrStaged
	}
	return ErrTaken
}
