package explore

// event is an action on a migration, and the fate of the action.
type event struct {
	action, slot uint8
	fate         fate
	rival        uint8 // raced: the other action on the migration, between reading and writing
}

// fate is the fault that meets an action, or fine.
type fate uint8

const (
	fine        fate = iota
	repeated         // the message arrives and will arrive once more
	lost             // the message does not arrive
	crashBefore      // the server crashes before it saves
	crashAfter       // the server crashes after it has saved, before it sends
	raced            // only with NoCompareAndSet: without that bug the loser writes nothing and starts anew
)

// events calls visit with each event that can happen in a world, and with the world after the event. visit must not use
// that world after it returns.
func (m *model) events(w *world, visit func(event, *world)) {
	for i := range slot(m.bounds.Terms * members) {
		for n := range actions {
			if a := &actions[n]; a.can(m, w, i) {
				m.outcomes(w, uint8(n), i, visit)
			}
		}
	}
}

// outcomes calls visit with each way in which one action can end.
func (m *model) outcomes(w *world, n uint8, i slot, visit func(event, *world)) {
	a, taken, saved := &actions[n], &m.room.taken, &m.room.saved
	*taken = *w
	taken.moves[i].net &^= a.takes
	*saved = *taken
	sent := a.do(m, saved, i)
	emit := func(f fate, after *world, arrives messages) {
		next := &m.room.next
		*next = *after
		if next.moves[i].net |= arrives; *next != *w {
			visit(event{action: n, slot: uint8(i), fate: f}, next)
		}
	}
	emit(fine, saved, sent)
	if a.takes != 0 {
		emit(repeated, saved, sent|a.takes)
		emit(lost, taken, 0)
	}
	if a.by != byMember {
		m.crashes(a, i, taken, saved, sent, emit)
	}
	if m.bug == NoCompareAndSet && a.by == bySource {
		m.races(w, n, i, saved, visit)
	}
}

// crashes emits the worlds after a crash of the server during an action. It leaves out a crash that changes nothing.
func (m *model) crashes(a *action, i slot, taken, saved *world, sent messages, emit func(fate, *world, messages)) {
	var early messages
	if m.bug == SendsBeforeSaving || m.bug == AcksEarly && sent&ack != 0 {
		early = sent
	}
	if a.takes != 0 || early != 0 {
		m.restart(taken, a.server(i))
		emit(crashBefore, taken, early)
	}
	if sent != 0 || m.bug == SplitsTransaction || m.bug == RowsInMemory {
		if m.bug == SplitsTransaction {
			saved.groups = taken.groups
		}
		m.restart(saved, a.server(i))
		emit(crashAfter, saved, 0)
	}
}

// restart deletes the things that a server holds only in memory. A server without bugs holds nothing only in memory.
func (m *model) restart(w *world, s server) {
	if m.bug != RowsInMemory {
		return
	}
	for i := range w.moves {
		if slot(i).source() == s {
			w.moves[i].source.rows &= rowPurge // no state keeps a purge anyway
		} else {
			w.moves[i].target.rows &= rowPurge
		}
	}
}

// races visits the worlds in which another action of the same server comes between the reading and the writing of an
// action.
func (m *model) races(w *world, n uint8, i slot, stale *world, visit func(event, *world)) {
	for r := range actions {
		rival := &actions[r]
		if rival.by != bySource || !rival.can(m, w, i) {
			continue
		}
		next := *w
		next.moves[i].net &^= rival.takes | actions[n].takes
		next.moves[i].net |= rival.do(m, &next, i)
		m.tidy(&next) // the messages of the rival are on their way
		if next.moves[i].source != w.moves[i].source && stale.moves[i].source != w.moves[i].source {
			next.moves[i].source, *next.sourceGroup(i) = stale.moves[i].source, *stale.sourceGroup(i)
			visit(event{action: n, slot: uint8(i), fate: raced, rival: uint8(r)}, &next)
		}
	}
}

// server is the server that does an action.
func (a *action) server(i slot) server {
	if a.by == byTarget {
		return i.target()
	}
	return i.source()
}

// String says in words which event happens.
func (e event) String() string {
	a, i := &actions[e.action], slot(e.slot)
	name := a.name(i)
	switch e.fate {
	case repeated:
		return name + ", not for the last time"
	case lost:
		return "lost: " + name
	case crashBefore:
		return name + "; " + a.server(i).String() + " crashes before it saves"
	case crashAfter:
		return name + "; " + a.server(i).String() + " crashes when it has saved"
	case raced:
		return name + ", having read before: " + actions[e.rival].name(i)
	}
	return name
}
