package migration

import "time"

// Close ends a group for good, by somebody who may move it. The receiver is the record that the group is frozen for,
// which is given up, or the zero record. It fails with ErrFrozen for any other. A group that accepts nothing does not
// change.
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

// End is the time at which what a closed group has left here is forgotten. Step it on the zero record.
type End struct{}

func (End) step(r Ready) (Ready, error) {
	if r.Group.State == GroupClosed {
		r.Group.State, r.Forget = GroupEnded, true
	}
	return r, nil
}
