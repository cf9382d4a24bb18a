package migration

import (
	"bytes"
	"time"
)

// Offer begins the target's record: a MigrationResponse has been signed.
type Offer struct{}

func (Offer) step(r Ready) (Ready, error) {
	r.Migration.Role, r.Migration.State = Target, Offered
	r.put(RowDeadline, r.Migration.ExpiresAt)
	return r, nil
}

// Content is a MigrationContent that S has signed and that T, unless it has voted already, has verified in every
// respect.
type Content struct {
	Message     Signed
	ContentHash []byte
	CommitHash  []byte
	RoomID      string
	Term        uint64
	DecideBy    time.Time
	At          time.Time
}

// step fails with ErrStaged or ErrTaken where the row of the term is not vacant.
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

// MaxRefused is how many contents of its source T refuses before the offer is over. To verify one may take seconds.
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

// Confirm is S's verified MigrationConfirmation, from whomever T has it. A vote is a promise: T activates whatever has
// changed since, even an abort: if S signed both, the confirmation wins (profile, section 6), as long as what was
// staged is kept.
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

// Superseded is a verified lineage in which S's step of this term is another migration.
type Superseded struct{}

func (Superseded) step(r Ready) (Ready, error) {
	r.drop(Signed{}, "the group went elsewhere in that term")
	return r, nil
}

// OperatorDrop is an operator's decision to wait no longer for S. It breaks the promise that a vote is: should S have
// decided, what is staged is kept through retention for the confirmation.
type OperatorDrop struct{}

func (OperatorDrop) step(r Ready) (Ready, error) {
	r.drop(Signed{}, "dropped by an operator")
	return r, nil
}

// drop ends an offered or staged record. What is staged is hidden, and kept through retention.
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

// RetentionOver is the time at which what a group that has moved away, or was dropped, has left here is forgotten.
type RetentionOver struct{}

func (RetentionOver) step(r Ready) (Ready, error) {
	g := &r.Group
	if g.Migration != r.Migration.ID || g.State != GroupMoved && g.State != GroupDropped {
		return r, nil
	}
	r.Forget = true
	if g.State == GroupDropped {
		*g = Group{State: GroupDropped} // nothing is kept for it any more
	}
	return r, nil
}
