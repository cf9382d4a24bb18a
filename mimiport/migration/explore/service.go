package explore

import "github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"

// effects says what the service stores for each action of the machine, in the transaction that stores the record: the
// counterpart of sourceChange, stageChange and targetChange in package delivery.
var effects = [...]func(w *world, i slot, r *record){
	migration.Freeze:      func(w *world, i slot, _ *record) { g := w.sourceGroup(i); g.state, g.move = groupFrozen, i },
	migration.Unfreeze:    func(w *world, i slot, _ *record) { w.unfreeze(i) },
	migration.MoveGroup:   func(w *world, i slot, _ *record) { w.moveGroup(i) },
	migration.StopGroup:   func(w *world, i slot, _ *record) { g := w.sourceGroup(i); g.state, g.move = groupMoved, i },
	migration.SetDeadline: func(_ *world, _ slot, r *record) { r.rows |= rowDeadline },
	migration.SendContent: func(_ *world, _ slot, r *record) { r.rows |= rowContent },

	migration.SendConfirmation: func(_ *world, _ slot, r *record) { r.rows |= rowOutcome },
	migration.SendAbort:        func(_ *world, _ slot, r *record) { r.rows |= rowOutcome },

	migration.Stage:         func(w *world, i slot, _ *record) { *w.targetGroup(i) = group{groupStaged, i, w.moved(i)} },
	migration.AskSource:     func(_ *world, _ slot, r *record) { r.rows |= rowAsk },
	migration.ActivateGroup: func(w *world, i slot, _ *record) { g := w.targetGroup(i); g.state, g.move = groupActive, 0 },
	migration.Discard:       func(w *world, i slot, _ *record) { w.targetGroup(i).state = groupDropped },
}

// The rows of the group that a migration is between.
func (w *world) sourceGroup(i slot) *group { return &w.groups[i.term()-1] }
func (w *world) targetGroup(i slot) *group { return &w.groups[i.term()] }

func (w *world) unfreeze(i slot) {
	if g := w.sourceGroup(i); g.state == groupFrozen && g.move == i {
		g.state, g.move = groupActive, 0
	}
}

func (w *world) moveGroup(i slot) {
	g := w.sourceGroup(i)
	g.state, g.move, g.history = groupMoved, i, w.moved(i)
}

// moved is the history that the content of a migration ends in.
func (w *world) moved(i slot) history {
	return w.moves[i].base.add(moveCommit(i))
}

// here is the row by which a server answers for the group: of the highest term that is not dropped.
func (w *world) here(s server) *group {
	if w.claim.by == s && w.claim.state != groupNone {
		return &w.claim.group
	}
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
}

// step lets a record take one step and stores all that it asks for.
func (m *model) step(w *world, i slot, r *record, e migration.Event) {
	rec := r.load(i)
	if m.bug == UndoesDecision && rec.State == migration.Decided {
		rec.State = migration.Frozen
	}
	next, actions, err := rec.Step(e)
	if err != nil {
		return // the evidence is kept, the record is as it was
	}
	r.save(&next)
	if w.moves[i].source.state != frozen {
		w.moves[i].late = false // nobody looks at that clock any more
	}
	if r.state == decided || r.state == aborted { // what a frozen record waits for must not hold back its outcome
		r.rows &^= rowContent | rowDeadline
	}
	for _, a := range actions {
		effects[a](w, i, r)
	}
}

// What S does, as in delivery/source.go.

// initiate is InitMigration: a repeated one, also of a migration that has ended, freezes nothing.
func (m *model) initiate(w *world, i slot) messages {
	mv, g := &w.moves[i], w.sourceGroup(i)
	again := mv.source.state != none && !(m.bug == FreezesAgain && mv.source.state == aborted)
	probed := mv.target.state == offered
	if again || !probed || w.here(i.source()) != g || g.state != groupActive || g.history != mv.base {
		return 0
	}
	m.step(w, i, &mv.source, migration.Init{})
	if m.bug == MergesEarly {
		w.members[i.member()] = w.moved(i)
	}
	return 0
}

// takeVote is voted. Both answers are signed beforehand; only the one in the record leaves.
func (m *model) takeVote(w *world, i slot) messages {
	mv := &w.moves[i]
	m.step(w, i, &mv.source, migration.Vote{
		Complete: signed(vote, i), ContentHash: contentHash(i),
		Confirmation: signed(confirmation, i), Abort: signed(abort, i), At: clock(mv.late && m.bug != CountsLateVote),
	})
	return 0
}

// giveUp is the client's abort, the policy's or the target's refusal.
func (m *model) giveUp(w *world, i slot) messages {
	m.step(w, i, &w.moves[i].source, migration.GiveUp{Abort: signed(abort, i)})
	return 0
}

func (m *model) sourceDeadline(w *world, i slot) messages {
	mv := &w.moves[i]
	mv.source.rows &^= rowDeadline
	m.step(w, i, &mv.source, migration.Deadline{At: clock(mv.late), Abort: signed(abort, i)})
	return 0
}

func (m *model) sendContent(w *world, i slot) messages {
	r := &w.moves[i].source
	if r.state == frozen {
		return content
	}
	r.rows &^= rowContent
	return 0
}

// sendOutcome is sendDecision.
func (m *model) sendOutcome(w *world, i slot) messages {
	r := &w.moves[i].source
	if r.state == moved { // it has been shown its own confirmation since it signed the abort
		r.rows &^= rowOutcome
		return 0
	}
	return r.holds & (confirmation | abort)
}

func (m *model) takeAck(w *world, i slot) messages {
	r := &w.moves[i].source
	r.rows &^= rowOutcome
	m.step(w, i, r, migration.Ack{})
	return 0
}

func (m *model) takeAbortAck(w *world, i slot) messages {
	w.moves[i].source.rows &^= rowOutcome
	return 0
}

// What T does, as in delivery/target.go.

// request is RequestMigration.
func (m *model) request(w *world, i slot) messages {
	mv := &w.moves[i]
	mv.base = w.members[i.member()]
	m.step(w, i, &mv.target, migration.Offer{})
	return offer
}

// takeContent is PutContent.
func (m *model) takeContent(w *world, i slot) messages {
	mv, g := &w.moves[i], w.targetGroup(i)
	if m.bug == UsesNonceTwice && mv.target.state == dropped {
		mv.target.state = offered
	}
	if mv.target.state == offered {
		if !mv.expired {
			m.heed(w, i.target(), mv.base.steps())
		}
		switch {
		case mv.expired, !w.continues(i):
			return refusal
		case g.state == groupStaged:
			return 0 // in progress: to be tried again
		case g.accepted():
			return refusal
		}
	}
	m.step(w, i, &mv.target, migration.Content{
		ContentHash: contentHash(i), Complete: signed(vote, i), DecideBy: deadline, At: clock(mv.expired),
	})
	if m.bug == ActivatesOnImport {
		m.step(w, i, &mv.target, migration.Confirm{Confirmation: signed(confirmation, i)})
	}
	if mv.target.state == staged || mv.target.state == active {
		return vote
	}
	return refusal
}

// refuse is PutContent when T's policy, or T's size limit, says no.
func (m *model) refuse(w *world, i slot) messages { return refusal }

// confirm is the MigrationConfirmation, from whomever T has it.
func (m *model) confirm(w *world, i slot) messages {
	mv, g := &w.moves[i], w.targetGroup(i)
	if mv.target.state == offered {
		return 0 // refused: no content has come
	}
	kept := g.state == groupDropped && g.move == i
	m.step(w, i, &mv.target, migration.Confirm{Confirmation: signed(confirmation, i), Kept: kept})
	if mv.target.state != active {
		return 0 // S must not believe that it is
	}
	return ack
}

func (m *model) takeAbort(w *world, i slot) messages {
	r := &w.moves[i].target
	m.step(w, i, r, migration.SourceAbort{Abort: signed(abort, i)})
	if r.state == active {
		return 0 // refused: the confirmation wins
	}
	return abortAck
}

// ask is T's question how a staged migration ended. Only signed bytes move the record.
func (m *model) ask(w *world, i slot) messages {
	mv := &w.moves[i]
	switch {
	case mv.target.state != staged:
	case m.bug == AbortsBySilence:
		m.step(w, i, &mv.target, migration.SourceAbort{})
	case mv.source.holds&confirmation != 0:
		m.confirm(w, i)
	case mv.source.holds&abort != 0:
		m.takeAbort(w, i)
	default:
		return 0 // to be asked again
	}
	mv.target.rows &^= rowAsk
	return 0
}

func (m *model) targetDeadline(w *world, i slot) messages {
	mv := &w.moves[i]
	if m.bug == ExpiresStaged && mv.target.state == staged {
		m.step(w, i, &mv.target, migration.Superseded{})
	}
	m.step(w, i, &mv.target, migration.Deadline{At: clock(mv.expired)})
	mv.target.rows &^= rowDeadline
	mv.expired = false
	return 0
}
