package migration

import (
	"bytes"
	"time"
)

// Offer begins the target's record: T has signed a MigrationResponse.
type Offer struct{}

func (Offer) step(r Ready) (Ready, error) {
	r.Migration.Role, r.Migration.State = Target, Offered
	r.put(RowDeadline, r.Migration.ExpiresAt)
	return r, nil
}

// Content is a MigrationContent that S has signed. T has verified the whole content, unless T has voted already.
type Content struct {
	Message     Signed
	ContentHash []byte
	CommitHash  []byte
	RoomID      string
	Term        uint64
	DecideBy    time.Time
	At          time.Time
}

// step fails with ErrStaged or ErrTaken if the row of the term is not vacant.
func (e Content) step(r Ready) (Ready, error) {
	m := &r.Migration
	switch {
	case m.State == Offered && !e.At.Before(m.ExpiresAt):
		r.drop(Signed{}, "the offer expired")
		return r, nil
	case m.State == Offered:
		err := e.stage(&r)
		return r, err
	case (m.State == Staged || m.State == Active) && !bytes.Equal(e.ContentHash, m.ContentHash):
		r.keep(EvidenceSecondContent, e.Message)
		return r, ErrEquivocation
	}
	return r, nil
}

func (e Content) stage(r *Ready) error {
	if err := r.Group.requireVacant(); err != nil {
		return err
	}
	m := &r.Migration
	m.State = Staged
	m.ContentHash, m.CommitHash, m.DecideBy = e.ContentHash, e.CommitHash, e.DecideBy
	m.RoomID, m.Term = e.RoomID, e.Term
	r.Sign = SignComplete
	r.Group, r.Begin = Group{GroupStaged, m.ID}, true
	r.put(RowAsk, m.DecideBy)
	return nil
}

// MaxRefused is the number of contents that T refuses before it drops the offer. T may need seconds to verify one
// content.
const MaxRefused = 3

// RefusedContent is a content of the source that T has refused for good.
type RefusedContent struct{}

func (RefusedContent) step(r Ready) (Ready, error) {
	m := &r.Migration
	if m.State != Offered {
		return r, nil
	}
	if m.Refused++; m.Refused == MaxRefused {
		r.drop(Signed{}, "too many contents were refused")
	}
	return r, nil
}

// Confirm is S's verified MigrationConfirmation. Any sender may bring it. A vote is a promise: T activates the group
// even if something has changed since the vote. If S signed both a confirmation and an abort, the confirmation wins
// (profile, section 6) as long as T keeps the staged group.
type Confirm struct{ Confirmation Signed }

func (e Confirm) step(r Ready) (Ready, error) {
	m := &r.Migration
	kept := r.Group == Group{GroupDropped, m.ID}
	bothOutcomes := m.State == Dropped && m.Abort.Message != nil
	switch {
	case m.State == Staged || m.State == Dropped && kept:
		if bothOutcomes {
			r.keep(EvidenceBothOutcomes, m.Abort)
		}
		m.State, m.Confirmation = Active, e.Confirmation
		r.Group.State, r.Extend = GroupActive, true
		r.put(RowExpel, time.Time{})
	case bothOutcomes:
		r.keep(EvidenceBothOutcomes, e.Confirmation)
		return r, ErrEquivocation
	}
	return r, nil
}

// SourceAbort is S's verified MigrationAbort.
type SourceAbort struct{ Abort Signed }

func (e SourceAbort) step(r Ready) (Ready, error) {
	if r.Migration.State == Active { // the confirmation wins
		r.keep(EvidenceBothOutcomes, e.Abort)
		return r, ErrEquivocation
	}
	r.drop(e.Abort, "aborted by the source")
	return r, nil
}

// Superseded is a verified lineage that holds another migration by S for this term.
type Superseded struct{}

func (Superseded) step(r Ready) (Ready, error) {
	r.drop(Signed{}, "the group went elsewhere in that term")
	return r, nil
}

// OperatorDrop is an operator's decision to wait no longer for S. It breaks the promise of the vote. S may have
// decided: T therefore keeps the staged group through retention, so that a confirmation can still activate it.
type OperatorDrop struct{}

func (OperatorDrop) step(r Ready) (Ready, error) {
	r.drop(Signed{}, "dropped by an operator")
	return r, nil
}

// drop ends an offered or staged record. T hides a staged group and keeps it through retention.
func (r *Ready) drop(abort Signed, reason string) {
	m := &r.Migration
	if m.State != Offered && m.State != Staged {
		return
	}
	if m.State == Staged {
		r.Group.State = GroupDropped
		r.put(RowPurge, time.Time{})
	}
	m.State, m.Abort, m.Reason = Dropped, abort, reason
}

// RetentionOver is the end of retention: the server forgets the rest of a group that has moved away or was dropped.
type RetentionOver struct{}

func (RetentionOver) step(r Ready) (Ready, error) {
	g := &r.Group
	if g.Migration != r.Migration.ID || g.State != GroupMoved && g.State != GroupDropped {
		return r, nil
	}
	r.Forget = true
	if g.State == GroupDropped {
		*g = Group{State: GroupDropped} // the server keeps nothing for the migration any more
	}
	return r, nil
}
