package storage

import (
	"cmp"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Limit is a quota: after the change, the number of selected things must be at most Max. One of Counter, Migrations and
// Volume is set and selects them. A change that breaks a limit fails with a *LimitError. Stores check changes with the
// same quota one after the other, so two changes never take the same last place.
type Limit struct {
	Quota      string // its name
	Max        int64
	Counter    *Counter
	Migrations *MigrationFilter // the store counts them: for few or for a time
	Volume     bool             // counts the bytes of the change's Volume, together with the stored bytes
}

// GroupFilter selects groups. A zero field selects all.
type GroupFilter struct {
	States  []migration.GroupState
	Creator string
	RoomID  string
	Server  string // the local server name that hosts the group
}

// LimitError names the quota that a change breaks. The store wrote nothing.
type LimitError struct{ Quota string }

func (e *LimitError) Error() string { return "storage: quota " + e.Quota + " is used up" }

// Name identifies what a limit counts. Limits with the same name share one count.
func (l *Limit) Name() string {
	name := []string{l.Quota}
	if c := l.Counter; c != nil {
		name = append(name, c.User, c.RoomID, c.Source)
	}
	if f := l.Migrations; f != nil {
		name = append(name, string(f.GroupID), f.User, f.RoomID, f.Source)
	}
	return mimiport.IDText([]byte(strings.Join(name, "\x1f"))) // ids are bytes, and strangers choose room ids
}

// LimitsInOrder returns the limits sorted by Name. Every store checks them in this order.
func (c *Change) LimitsInOrder() []Limit {
	return slices.SortedFunc(slices.Values(c.Limits), func(a, b Limit) int { return cmp.Compare(a.Name(), b.Name()) })
}

// Volume is the number of bytes that a user adds to the log of a group on one day. The store counts per user, group and
// term, and starts from 0 on another day.
type Volume struct {
	GroupKey
	UserID string
	Day    int64 // since 1970, in UTC
	Bytes  int64
}
