package explore

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// A migration moves the group from the row sourceGroup to the row targetGroup.
func (w *world) sourceGroup(i slot) *group { return &w.groups[i.term()-1] }
func (w *world) targetGroup(i slot) *group { return &w.groups[i.term()] }

// moved is the history at the end of a migration's content.
func (w *world) moved(i slot) history {
	return w.moves[i].base.add(moveCommit(i))
}

// here returns the row that a server answers for: its row of the highest term that is not dropped.
func (w *world) here(s server) *group {
	for t := maxTerms; t >= 0; t-- {
		if g := &w.groups[t]; server(t%2) == s && g.state != groupNone && g.state != groupDropped {
			return g
		}
	}
	return &group{}
}

// model is the two servers, the members and the network, sound or with one bug.
type model struct {
	bounds Bounds
	bug    Bug
	room   struct{ quiet, taken, saved, next world } // scratch space, so that the search allocates little
}

// site is the place of a step: a record, and the group's row that the record is about.
type site struct {
	move   slot
	record *record
	group  *group
}

func (w *world) source(i slot) site { return site{i, &w.moves[i].source, w.sourceGroup(i)} }
func (w *world) target(i slot) site { return site{i, &w.moves[i].target, w.targetGroup(i)} }

// step lets a record take one step and stores the Ready that the machine returns.
func (m *model) step(w *world, at site, e migration.Event) error {
	before := at.record.load(at.move)
	if m.bug == UndoesDecision && before.State == migration.Decided {
		before.State = migration.Frozen
	}
	ready, err := before.Step(at.group.load(), e)
	if err != nil {
		return err // the model has no evidence
	}
	if do := spoils[m.bug]; do != nil {
		was, spoilt := before, ready // these two escape to the heap: a sound model makes no such copies
		do(&was, &spoilt)
		ready = spoilt
	}
	w.store(at, &ready)
	return nil
}

// store is the one place that knows how a world holds the machine's values. The model has no members who leave. It has
// no lineage: the history of a group tells its lineage.
func (w *world) store(at site, ready *migration.Ready) {
	r, g := at.record, at.group
	sign(ready, at.move)
	r.save(&ready.Migration)
	g.save(ready.Group)
	for _, kind := range ready.Done {
		r.rows &^= rowBit(kind)
	}
	for _, row := range ready.Put {
		r.rows |= rowBit(row.Kind)
	}
	r.stored = (r.stored || ready.KeepContent != nil) && !ready.DropContent
	if ready.Accept || ready.Begin {
		g.history = w.moved(at.move)
	}
}

// sign puts the message that a step signs into the record.
func sign(ready *migration.Ready, i slot) {
	switch m := &ready.Migration; ready.Sign {
	case migration.SignComplete:
		m.Complete = signed(vote, i)
	case migration.SignConfirmation:
		m.Confirmation = signed(confirmation, i)
	case migration.SignAbort:
		m.Abort = signed(abort, i)
	}
}

// The following functions are the part of S, as in delivery/source.go.

// initiate is InitMigration. A repeated Init freezes nothing, even if the migration has ended.
func (m *model) initiate(w *world, i slot) messages {
	mv, g := &w.moves[i], w.sourceGroup(i)
	again := mv.source.state != none && !(m.bug == FreezesAgain && mv.source.state == aborted)
	probed := mv.target.state == offered
	if again || !probed || w.here(i.source()) != g || g.state != groupActive || g.history != mv.base {
		return 0
	}
	m.step(w, w.source(i), migration.Init{Content: contentHash(i)})
	if m.bug == MergesEarly {
		w.members[i.member()] = w.moved(i)
	}
	return 0
}

// takeVote is voted.
func (m *model) takeVote(w *world, i slot) messages {
	return m.takeVoteAt(w, i, before)
}

func (m *model) takeLateVote(w *world, i slot) messages {
	if m.bug == CountsLateVote {
		return m.takeVoteAt(w, i, before)
	}
	return m.takeVoteAt(w, i, deadline)
}

func (m *model) takeVoteAt(w *world, i slot, at time.Time) messages {
	m.step(w, w.source(i), migration.Vote{Complete: signed(vote, i), ContentHash: contentHash(i), At: at})
	return 0
}

// giveUp is the client's abort, the policy's refusal or the target's refusal.
func (m *model) giveUp(w *world, i slot) messages {
	m.step(w, w.source(i), migration.GiveUp{})
	return 0
}

func (m *model) sourceDeadline(w *world, i slot) messages {
	w.moves[i].source.rows &^= rowDeadline
	m.step(w, w.source(i), migration.Deadline{At: deadline})
	return 0
}

func (m *model) sendContent(w *world, i slot) messages {
	r := &w.moves[i].source
	if r.state == frozen && r.stored {
		return content
	}
	r.rows &^= rowContent
	return 0
}

// sendOutcome is sendDecision.
func (m *model) sendOutcome(w *world, i slot) messages {
	return w.moves[i].source.holds & (confirmation | abort)
}

func (m *model) takeAck(w *world, i slot) messages {
	r := &w.moves[i].source
	r.rows &^= rowOutcome
	m.step(w, w.source(i), migration.Ack{})
	return 0
}

func (m *model) takeAbortAck(w *world, i slot) messages {
	w.moves[i].source.rows &^= rowOutcome
	return 0
}

// The following functions are the part of T, as in delivery/target.go.

// request is RequestMigration.
func (m *model) request(w *world, i slot) messages {
	mv := &w.moves[i]
	mv.base = w.members[i.member()]
	m.step(w, w.target(i), migration.Offer{})
	return offer
}

// takeContent is PutContent.
func (m *model) takeContent(w *world, i slot) messages {
	mv := &w.moves[i]
	if m.bug == UsesNonceTwice && mv.target.state == dropped {
		mv.target.state = offered
	}
	err := m.step(w, w.target(i), migration.Content{
		ContentHash: contentHash(i), DecideBy: deadline, At: before,
	})
	if err == migration.ErrStaged {
		return 0 // another migration is in progress: S tries again
	}
	if m.bug == ActivatesOnImport {
		m.step(w, w.target(i), migration.Confirm{Confirmation: signed(confirmation, i)})
	}
	if mv.target.state == staged || mv.target.state == active {
		return vote
	}
	return refusal
}

// refuse is PutContent when T's policy or T's size limit refuses the content, or when the offer has expired.
func (m *model) refuse(w *world, i slot) messages { return refusal }

// confirm lets T take the MigrationConfirmation, from any sender.
func (m *model) confirm(w *world, i slot) messages {
	mv := &w.moves[i]
	if mv.target.state == offered {
		return 0 // refused: no content has come
	}
	m.step(w, w.target(i), migration.Confirm{Confirmation: signed(confirmation, i)})
	if mv.target.state != active {
		return 0 // S must not believe that T is active
	}
	return ack
}

func (m *model) takeAbort(w *world, i slot) messages {
	r := &w.moves[i].target
	m.step(w, w.target(i), migration.SourceAbort{Abort: signed(abort, i)})
	if r.state == active {
		return 0 // refused: the confirmation wins
	}
	return abortAck
}

// ask is T's question how a staged migration ended. Only a signed answer moves the record.
func (m *model) ask(w *world, i slot) messages {
	mv := &w.moves[i]
	switch {
	case mv.target.state != staged:
	case m.bug == AbortsBySilence:
		m.step(w, w.target(i), migration.SourceAbort{})
	case mv.source.holds&confirmation != 0:
		m.confirm(w, i)
	case mv.source.holds&abort != 0:
		m.takeAbort(w, i)
	default:
		return 0 // T asks again
	}
	mv.target.rows &^= rowAsk
	return 0
}

func (m *model) targetDeadline(w *world, i slot) messages {
	mv := &w.moves[i]
	if m.bug == ExpiresStaged && mv.target.state == staged {
		m.step(w, w.target(i), migration.Superseded{})
	}
	m.step(w, w.target(i), migration.Deadline{At: deadline})
	mv.target.rows &^= rowDeadline
	return 0
}
