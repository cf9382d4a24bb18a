package migration

import "time"

// Close ends a group for good. A caller who may move the group may close it. The receiver is the record that the group
// is frozen for, or the zero record. Close gives the record's migration up. It fails with ErrFrozen for any other
// record. A group that accepts no messages does not change.
type Close struct{}

func (Close) step(r Ready) (Ready, error) {
	if err := r.requireThawed(); err != nil {
		return r, err
	}
	if r.Group.State != GroupActive && r.Group.State != GroupFrozen {
		return r, nil
	}
	r.Group = Group{State: GroupClosed}
	if r.Migration.State == Frozen {
		r.abort("the group was closed")
	}
	r.put(RowEnd, time.Time{})
	return r, nil
}

// End deletes the log and the trees of a closed group at the end of their retention. Step it on the zero record.
type End struct{}

func (End) step(r Ready) (Ready, error) {
	if r.Group.State == GroupClosed {
		r.Group.State, r.Forget = GroupEnded, true
	}
	return r, nil
}
