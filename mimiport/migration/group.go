package migration

import (
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// GroupState is the state of a group on this server in one term.
type GroupState string

// The states of a group. A group of a later term supersedes all earlier ones.
const (
	GroupReserved GroupState = "reserved" // the id is given out, and no group is bound to it
	GroupActive   GroupState = "active"
	GroupFrozen   GroupState = "frozen"  // a migration awaits its decision
	GroupStopped  GroupState = "stopped" // this server has forgotten something that it signed; an operator decides
	GroupClosed   GroupState = "closed"  // a member has closed it: members read it, and it accepts no messages
	GroupEnded    GroupState = "ended"   // was closed, and its log is deleted
	GroupMoved    GroupState = "moved"   // decided; the redirect stays for good
	GroupStaged   GroupState = "staged"  // voted for; waits for the source's decision
	GroupDropped  GroupState = "dropped" // was staged and does not come
)

// GroupStates are the states of groups in their highest terms that are not dropped.
var GroupStates = []GroupState{
	GroupReserved, GroupActive, GroupFrozen, GroupStopped, GroupClosed, GroupEnded, GroupMoved, GroupStaged,
}

// Group is the part of a group's row of one term that migrations and claims change. The zero Group stands for no row.
type Group struct {
	State     GroupState
	Migration mimiport.MigrationID // the last one that froze, moved, staged or dropped it; zero if it moved by a claim
}

// Owned reports whether this server is the group's host as far as it knows, also if the group accepts no messages now.
func (g Group) Owned() bool {
	return g.State == GroupActive || g.State == GroupFrozen || g.State == GroupStopped || g.Closed()
}

// Closed reports whether the group has ended for good.
func (g Group) Closed() bool { return g.State == GroupClosed || g.State == GroupEnded }

// Recoverable reports whether this server neither has nor stages the group, so that an operator may recover it.
func (g Group) Recoverable() bool {
	return g.State == "" || g.State == GroupMoved || g.State == GroupStopped
}

// The reasons why a term cannot begin in a group's row.
var (
	ErrStaged = errors.New("migration: another migration of the group is staged here")
	ErrTaken  = errors.New("migration: the group has been here in that term")
)

// requireVacant fails unless a term may begin in this row: the row does not exist, or is dropped.
func (g Group) requireVacant() error {
	switch g.State {
	case "", GroupDropped:
		return nil
	case GroupStaged:
		return ErrStaged
	}
	return ErrTaken
}
