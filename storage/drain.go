package storage

import (
	"context"
	"encoding/json"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// DrainGroup is a group of the drain, in which this server empties itself.
type DrainGroup struct {
	ID    []byte
	State DrainState
	Due   time.Time       // when this server deals with the group next
	User  string          // the member who was asked last; empty for nobody
	Asked time.Time       // when
	Tried int             // how many members were asked since a round began
	Why   json.RawMessage // why nobody can move the group; nil for none
}

// DrainState is the state of a group in the drain. A store keeps the first three. The others follow from the state of
// the group in its highest term that is not dropped.
type DrainState string

// The states of a group in the drain.
const (
	DrainWaiting DrainState = "waiting" // nobody is asked now
	DrainAsked   DrainState = "asked"   // a member is asked to move the group
	DrainStuck   DrainState = "stuck"   // nobody can move the group
	DrainMoving  DrainState = "moving"  // the group is frozen
	DrainMoved   DrainState = "moved"   // the group has moved away
	DrainGone    DrainState = "gone"    // the group is here no more for another reason
)

// DrainStates are all states of groups in the drain.
var DrainStates = []DrainState{DrainWaiting, DrainAsked, DrainMoving, DrainStuck, DrainMoved, DrainGone}

// DrainedStates are the states of groups that a drain moves away.
var DrainedStates = []migration.GroupState{migration.GroupActive, migration.GroupFrozen, migration.GroupStopped}

// StateIn returns the state in the drain of an entry whose group is in a state. The empty state is no group.
func (e *DrainGroup) StateIn(state migration.GroupState) DrainState {
	switch state {
	case migration.GroupMoved:
		return DrainMoved
	case migration.GroupFrozen:
		return DrainMoving
	case migration.GroupActive, migration.GroupStopped:
		return e.State
	}
	return DrainGone
}

// Drains has the groups of the drain.
type Drains interface {
	DrainReads
	// FillDrain adds the groups in DrainedStates that the drain lacks. They wait, and are due at a time.
	FillDrain(ctx context.Context, due time.Time) error
	// HastenDrain makes a group due at a time unless it is due earlier. A nil id stands for all groups that are not in the
	// state DrainAsked.
	HastenDrain(ctx context.Context, id []byte, due time.Time) error
	// ClearDrain removes all groups from the drain.
	ClearDrain(ctx context.Context) error
	// PutDrain stores groups in the place of earlier ones.
	PutDrain(ctx context.Context, groups []DrainGroup) error
}

// DrainReads has the questions about the groups of the drain.
type DrainReads interface {
	// DueDrain lists at most limit groups that are active or stopped and due, those that are due longest first. It also
	// returns the next time after now at which one becomes due; zero is never.
	DueDrain(ctx context.Context, now time.Time, limit int) (groups []DrainGroup, next time.Time, err error)
	// DrainGroups lists at most limit groups in some states, by id, after a given id. No states are all states.
	DrainGroups(ctx context.Context, states []DrainState, after []byte, limit int) ([]DrainGroup, error)
	// CountDrain counts the groups of the drain by state.
	CountDrain(ctx context.Context) (map[DrainState]int, error)
	// CountAsked counts the groups that a user is asked to move now: those in the state DrainAsked.
	CountAsked(ctx context.Context, user string) (int, error)
}
