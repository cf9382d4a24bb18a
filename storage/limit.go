package storage

import (
	"cmp"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Limit is a quota that a change must keep: with the change stored, what it counts is at most Max. Of Groups,
// Migrations and Volume one is set and says what that is. A change that breaks it is refused with a *LimitError.
// Changes of one quota are counted one after the other, so that two of them never take the same last place.
type Limit struct {
	Quota      string // its name
	Max        int64
	Groups     *GroupFilter
	Migrations *MigrationFilter
	Volume     bool // the bytes of the change's Volume, with those that were stored before
}

// GroupFilter selects groups, in all terms; zero fields select all.
type GroupFilter struct {
	States  []migration.GroupState
	Creator string
	RoomID  string
}

// LimitError says which quota keeps a change from being stored. Nothing was written.
type LimitError struct{ Quota string }

func (e *LimitError) Error() string { return "storage: quota " + e.Quota + " is used up" }

// Name tells quotas apart that are counted apart: changes with limits of one name count what the other has stored.
func (l *Limit) Name() string {
	name := []string{l.Quota}
	if f := l.Groups; f != nil {
		name = append(name, f.Creator, f.RoomID)
	}
	if f := l.Migrations; f != nil {
		name = append(name, string(f.GroupID), f.User, f.RoomID, f.Source)
	}
	return mimiport.IDText([]byte(strings.Join(name, "\x1f"))) // ids are bytes, and rooms are named by strangers
}

// LimitsInOrder are the limits by their names, the order in which every store checks them.
func (c *Change) LimitsInOrder() []Limit {
	return slices.SortedFunc(slices.Values(c.Limits), func(a, b Limit) int { return cmp.Compare(a.Name(), b.Name()) })
}

// Volume is how many bytes a user adds to the log of a group on a day. What they have added on one day in one term is
// counted from 0 again on another day.
type Volume struct {
	GroupKey
	UserID string
	Day    int64 // since 1970, in UTC
	Bytes  int64
}
