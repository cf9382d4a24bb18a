package migration

import (
	"bytes"
	"time"
)

// Init begins the source's record: S has accepted a valid MigrationInit with its Commit (profile, section 6). The
// caller has set every field of the record but the role and the state.
type Init struct{ Content []byte } // the MigrationContent to send, signed

func (e Init) step(r Ready) (Ready, error) {
	m := &r.Migration
	m.Role, m.State = Source, Frozen
	r.Group = Group{GroupFrozen, m.ID}
	r.KeepContent = e.Content
	r.put(RowDeadline, m.DecideBy)
	r.put(RowContent, time.Time{})
	return r, nil
}

// Vote is T's verified TargetMigrationComplete. At is the time by S's clock. Only S's clock decides whether the vote is
// in time.
type Vote struct {
	Complete    Signed
	Vote        []byte // the MigrationVote beside it, verified; nil for none
	ContentHash []byte
	At          time.Time
}

func (e Vote) step(r Ready) (Ready, error) {
	m := &r.Migration
	switch {
	case m.State != Frozen || !bytes.Equal(e.ContentHash, m.ContentHash):
	case !e.At.Before(m.DecideBy):
		r.abort("the vote came after decide_by")
	default:
		m.Complete, m.Vote, r.Sign = e.Complete, e.Vote, SignConfirmation
		r.decide()
	}
	return r, nil
}

// GiveUp aborts before the decision: T refused for good, the policy changed, or the client asked for it.
type GiveUp struct{ Reason string }

func (e GiveUp) step(r Ready) (Ready, error) {
	if r.Migration.State == Frozen {
		r.abort(e.Reason)
	}
	return r, nil
}

// Ack is T's word that it has the confirmation.
type Ack struct{}

func (Ack) step(r Ready) (Ready, error) {
	if r.Migration.State == Decided {
		r.Migration.State = Moved
	}
	return r, nil
}

// decide ends a frozen record: the group moves.
func (r *Ready) decide() {
	r.Migration.State = Decided
	r.Group = Group{GroupMoved, r.Migration.ID}
	r.Accept = true
	r.thaw()
	r.put(RowConfirmation, time.Time{})
	r.put(RowPurge, time.Time{})
}

// abort ends a frozen record without a move. If the group is frozen for this migration, the group becomes active again.
func (r *Ready) abort(reason string) {
	m := &r.Migration
	m.State, m.Reason, r.Sign = Aborted, reason, SignAbort
	r.thaw()
	r.put(RowAbort, time.Time{})
	if r.Group == (Group{GroupFrozen, m.ID}) {
		r.Group.State = GroupActive
		r.put(RowExpel, time.Time{}) // users may have left meanwhile
	}
}

// thaw deletes the content and the rows that a frozen record waits for. They must not delay the row of the outcome.
func (r *Ready) thaw() {
	r.DropContent = true
	r.Done = append(r.Done, RowContent, RowDeadline)
}
