package explore

// This file has the actions of members. A member takes one server for the current one: the host of the last term of
// which the member has received a Commit.

// mayRequest: a member in the term before asks once for a migration to a term.
func (m *model) mayRequest(w *world, i slot) bool {
	h := w.members[i.member()]
	if m.bounds.Alone && w.moves[i.mirror()] != (move{}) {
		return false
	}
	return w.moves[i].target.state == none && !w.moves[i].over && h.term() == i.term()-1
}

// start makes the migration Commit for the epoch of the offer and sends it with the Init.
func (m *model) start(w *world, i slot) messages {
	mv := &w.moves[i]
	if w.members[i.member()] != mv.base {
		return 0 // the offer is for a past epoch
	}
	mv.pending = true
	return initiation
}

// current is the row of the server that a member takes for the current one.
func (w *world) current(member int) *group { return &w.groups[w.members[member].term()] }

func (m *model) mayReceive(w *world, i slot) bool {
	h := w.members[i.member()]
	g := w.current(i.member())
	return once(i) && g.state != groupStaged && g.state != groupDropped && h.epoch() < g.history.epoch() &&
		h.begins(g.history)
}

// receive merges the next Commit of the log. That may be a migration Commit: the confirmation comes with it. The member
// drops its own pending migrations from past epochs.
func (m *model) receive(w *world, i slot) messages {
	h := &w.members[i.member()]
	*h = w.current(i.member()).history.prefix(h.epoch() + 1)
	for j := range w.moves {
		if slot(j).member() == i.member() && w.moves[j].base.epoch() < h.epoch() {
			w.moves[j].pending = false
		}
	}
	return 0
}

// mayCommit: a member makes one Commit of its own. It makes none while it waits for a migration.
func (m *model) mayCommit(w *world, i slot) bool {
	g := w.current(i.member())
	for j := range w.moves {
		if slot(j).member() == i.member() && w.moves[j].pending {
			return false
		}
	}
	return once(i) && !m.bounds.NoCommits && g.state == groupActive && g.history == w.members[i.member()] &&
		!g.history.has(ownCommit(i.member()))
}

func (m *model) commit(w *world, i slot) messages {
	g := w.current(i.member())
	g.history = g.history.add(ownCommit(i.member()))
	return 0
}

// mayShow: any member that has received a migration Commit has the confirmation of that migration. The member may show
// the confirmation to the target, for any migration.
func (m *model) mayShow(w *world, i slot) bool {
	state := w.moves[i].target.state
	if state != staged && state != dropped {
		return false
	}
	for _, h := range w.members {
		for n := range h.epoch() {
			if c := h.at(n); c >= firstMove && m.accepts(slot(c-firstMove), i) {
				return true
			}
		}
	}
	return false
}

// accepts says whether T takes the confirmation of one migration for another. If both migrations have the same source
// and target, only the nonce tells them apart.
func (m *model) accepts(shown, i slot) bool {
	return shown.target() == i.target() && (m.nonce(shown) == m.nonce(i) || m.bug == IgnoresNonce)
}

// nonce is the nonce in the offer of a migration.
func (m *model) nonce(i slot) uint8 {
	if m.bug == ReusesNonce {
		return uint8(i.target())
	}
	return uint8(i)
}

func (m *model) show(w *world, i slot) messages {
	m.confirm(w, i)
	return 0 // the answer goes to the member
}
