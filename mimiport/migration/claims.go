package migration

import (
	"errors"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Next is the verified step of a lineage that begins the term after a group's term, with all facts that count for or
// against it. A new fact that decides who has a group belongs here.
type Next struct {
	Kind      mimiport.StepKind
	Migration mimiport.MigrationID // of a StepMigration
	Supported bool                 // of a claim: the group's room or this server's operator supports it
}

// Ruling says how a server reacts to a Next or a Rival.
type Ruling uint8

// The rulings.
const (
	Nothing     Ruling = iota // the server redirects already, or has no group
	TakeConfirm               // the step is the migration that is staged here: Confirm
	TakeOther                 // another step began the term that is staged here: Superseded
	TakeOwn                   // this server has confirmed the step itself, and has forgotten it: Recall
	TakeClaim                 // another server has claimed the group, with support: Yield
	KeepOn                    // another server has claimed the group, without support: Contest
	TakeBack                  // this server has signed for the other lineage, and has forgotten it: Return
	Stop                      // the same, and this server has another lineage of the term: Halt
)

// Judge says how the server that has this group reacts to the step that begins the next term (profile, section 3).
func (g Group) Judge(n Next) Ruling {
	switch {
	case g.State == GroupStaged && n.Kind == mimiport.StepMigration && n.Migration == g.Migration:
		return TakeConfirm
	case g.State == GroupStaged && (n.Kind == mimiport.StepMigration || n.Supported):
		return TakeOther
	case g.State != GroupStaged && !g.Owned():
		return Nothing
	case g.State != GroupStaged && n.Kind == mimiport.StepMigration:
		return TakeOwn
	case n.Supported:
		return TakeClaim
	}
	return KeepOn
}

// yielded is a group that redirects because of a claim.
var yielded = Group{State: GroupMoved}

// Rival is a verified lineage that parts from the recorded one. It ends with the step that counts: the claim that the
// room's pointer names, or else the step with which it parts.
type Rival struct {
	Outranks bool // everybody, or this server's operator, prefers it to the recorded lineage
	Here     bool // the step gives the group to this server
	Signed   bool // this server has voted for this step or claimed the group by it; an offer does not count
	Forgot   bool // this server has forgotten its signature
}

// JudgeRival says how a server reacts to a lineage that parts from its own (profile, section 3). A server that has
// yielded follows the room when the room changes its mind.
func (g Group) JudgeRival(r Rival) Ruling {
	switch {
	case g == yielded && !r.Outranks, g != yielded && !g.Owned():
		return Nothing
	case r.Here && g == yielded && r.Signed:
		return TakeBack
	case r.Here && g == yielded:
		return Nothing
	case r.Here && r.Signed && r.Forgot && r.Outranks:
		return Stop
	case r.Here || !r.Outranks:
		return KeepOn
	}
	return TakeClaim
}

// elsewhere is the reason to give up a migration when the server learns that the group is in a later term.
const elsewhere = "the group is elsewhere in a later term"

// GiveUpElsewhere gives up the migration that a group is frozen for, before the Recall of another migration. Otherwise
// a vote could still make this server confirm the first one, against its shown confirmation.
var GiveUpElsewhere = GiveUp{Reason: elsewhere}

// requireThawed fails if the group is frozen for another migration than the record's.
func (r *Ready) requireThawed() error {
	if r.Group.State == GroupFrozen && r.Group.Migration != r.Migration.ID {
		return ErrFrozen
	}
	return nil
}

// Recall is S's own verified confirmation that somebody shows to S. S has forgotten it, as after the restore of a
// backup. S's signature counts more than its database, even more than its own abort (profile, section 3). A receiver
// without a state is the record that S once had. Recall fails with ErrFrozen while the group is frozen for another
// migration.
type Recall struct {
	Confirmation Signed
	Lineage      []byte // the shown lineage, encoded
}

func (e Recall) step(r Ready) (Ready, error) {
	if err := r.requireThawed(); err != nil || !r.Group.Owned() {
		return r, err
	}
	m := &r.Migration
	switch m.State {
	case Frozen:
		m.Confirmation = e.Confirmation
		r.decide()
	case Aborted, "":
		m.Role, m.State, m.Confirmation = Source, Moved, e.Confirmation
		r.Group = Group{GroupMoved, m.ID}
	}
	r.keep(EvidenceOwnForgotten, Signed{Message: e.Lineage})
	return r, nil
}

// Yield is another server's verified claim to a group that this server hosts or has yielded before. The group then
// redirects to the other server. The receiver is the record that the group is frozen for, or the zero record. Yield
// gives the record's migration up. It fails with ErrFrozen for any other record.
type Yield struct{ Lineage []byte } // that was shown, encoded

func (e Yield) step(r Ready) (Ready, error) {
	if err := r.requireThawed(); err != nil || !r.Group.Owned() && r.Group != yielded {
		return r, err
	}
	r.Group, r.Follow = yielded, e.Lineage
	if r.Migration.State == Frozen {
		r.abort(elsewhere)
	}
	r.keep(EvidenceHigherTerm, Signed{Message: e.Lineage})
	return r, nil
}

// ErrContested is the error for a claim that this server does not follow. The Ready holds the evidence to keep.
var ErrContested = errors.New("migration: the claim has no support, and the group goes on here")

// Contest is another server's verified claim that neither the room nor this server's operator supports. The group goes
// on here. Step it on the zero record. It fails with ErrContested, unless the group is stopped: a stopped group does
// not go on here, so the claim contradicts nothing.
type Contest struct{ Lineage []byte } // that was shown, encoded

func (e Contest) step(r Ready) (Ready, error) {
	r.keep(EvidenceContested, Signed{Message: e.Lineage})
	if r.Group.State == GroupStopped {
		return r, nil
	}
	return r, ErrContested
}

// Return is a verified lineage by which the group came back here in a term that this server has forgotten: its database
// is older than its signatures. It can also be a lineage by which the room gives back a group that this server has
// yielded. The group is stopped until an operator decides. Step it on the zero record and on the row of that term. A
// row that is neither vacant nor yielded stays as it is.
type Return struct{ Lineage []byte } // that was shown, encoded

func (e Return) step(r Ready) (Ready, error) {
	switch {
	case r.Group == yielded: // this server still has its log and trees
		r.Group, r.Follow = Group{State: GroupStopped}, e.Lineage
		r.keep(EvidenceContested, Signed{Message: e.Lineage})
	case r.Group.requireVacant() == nil:
		r.Group, r.Begin = Group{State: GroupStopped}, true
		r.keep(EvidenceOwnForgotten, Signed{Message: e.Lineage})
	}
	return r, nil
}

// Halt stops an active group until an operator decides. The former host contests this server's recover, or this
// server's operator is about to reclaim the group above another server's claim. Step it on the zero record.
type Halt struct{ Lineage []byte } // the other server's lineage, or the lineage that it contests, encoded

func (e Halt) step(r Ready) (Ready, error) {
	if r.Group.State != GroupActive {
		return r, nil
	}
	r.Group = Group{State: GroupStopped}
	r.keep(EvidenceContested, Signed{Message: e.Lineage})
	return r, nil
}

// Displace is a verified lineage of the group that the id was made for: the id is a hash, and this lineage has the
// preimage. The server that it is shown to has another group with this id, and drops that group. Step it on the zero
// record.
type Displace struct{ Lineage []byte } // that was shown, encoded

func (e Displace) step(r Ready) (Ready, error) {
	if r.Group.State == "" || r.Group.State == GroupDropped {
		return r, nil
	}
	r.Group, r.Forget = Group{State: GroupDropped}, true
	r.keep(EvidenceDisplaced, Signed{Message: e.Lineage})
	return r, nil
}

// The reasons why a group cannot be reclaimed.
var (
	ErrNotGone  = errors.New("migration: the group has neither moved away from here nor was it stopped")
	ErrNotGiven = errors.New("migration: this server does not have the state that the target got")
)

// Reclaim ends a term, here or at the target, before a Claim of this server (profile, section 6). It is for operators.
// The receiver is the record of the migration by which the group moved, or the zero record. It fails with ErrNotGone or
// ErrNotGiven.
type Reclaim struct {
	Given bool // this server has the state that the target got: the log ends with the migration Commit
}

func (e Reclaim) step(r Ready) (Ready, error) {
	m := &r.Migration
	switch {
	case r.Group.State == GroupStopped:
		return r, nil
	case r.Group.State != GroupMoved:
		return r, ErrNotGone
	case m.Role != Source, r.Group.Migration != m.ID, !e.Given:
		return r, ErrNotGiven
	}
	r.Done = append(r.Done, RowConfirmation) // a target that comes back gets the new lineage instead
	r.put(RowLineage, time.Time{})
	return r, nil
}

// Claim begins a term at this server. It is for operators. Step it on the zero record and on the row of that term. It
// fails with ErrStaged or ErrTaken if the row is not vacant.
type Claim struct{}

func (Claim) step(r Ready) (Ready, error) {
	if err := r.Group.requireVacant(); err != nil {
		return r, err
	}
	r.Group, r.Begin = Group{State: GroupActive}, true
	return r, nil
}
