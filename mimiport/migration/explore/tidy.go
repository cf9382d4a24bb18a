package explore

// tidy lets happen at once what need not wait, so that worlds that differ in it only are one. Members receive what was accepted: one
// that lags behind can do nothing that counts. A row's message is on its way as long as the row is there, and what comes to a record
// that has ended is taken as soon as it is sent: the machine is asked, and where it changes anything but rows and messages the step
// is left to the search. Where a claim can come between, only what comes to ended records is taken at once, and where a server can yet be restored,
// nothing.
func (m *model) tidy(w *world) {
	for i := range slot(members) {
		for !m.bounds.faulty() && m.mayReceive(w, i) {
			m.receive(w, i)
		}
	}
	for i := range slot(m.bounds.Terms * members) {
		mv := &w.moves[i]
		m.forgetClock(mv)
		mv.source.rows &^= rowPurge
		mv.target.rows &^= rowPurge
		if m.bounds.Restores && !w.restored() {
			continue
		}
		for again := mv.net != 0 || mv.source.rows|mv.target.rows != 0; again; {
			again = false
			for n := range actions {
				if a := &actions[n]; a.fair && a.can(m, w, i) && m.past(a, mv) {
					next := *w
					next.moves[i].net &^= a.takes
					next.moves[i].net |= a.do(m, &next, i)
					if next != *w && quiet(w, &next, i) {
						*w, again = next, true
					}
				}
			}
		}
		if !m.bounds.faulty() {
			m.forget(w, i)
		}
	}
}

// past says whether the action is by a party for which the migration has ended, or only sends what a row asks for.
func (m *model) past(a *action, mv *move) bool {
	switch {
	case a.takes == initiation:
		return mv.source.state != none || mv.target.ended()
	case a.sends:
		return !m.bounds.faulty() && mv.net&(vote|refusal|ack|abortAck) == 0 // no answer is on its way
	case a.by == bySource:
		return mv.source.ended()
	}
	return a.by == byTarget && mv.target.ended()
}

func (r *record) ended() bool { return states[r.state].Ended() }

// quiet says whether a step changed no more than the rows and messages of a migration.
func quiet(before, after *world, i slot) bool {
	b, a := *before, *after
	for _, w := range []*world{&b, &a} {
		mv := &w.moves[i]
		mv.net, mv.source.rows, mv.target.rows, mv.expired = 0, 0, 0, false
	}
	return a == b
}

// forgetClock takes away the clock of an offer that has been taken up or has ended.
func (m *model) forgetClock(mv *move) {
	if mv.target.state != offered && m.bug != ExpiresStaged {
		mv.expired = false
		mv.target.rows &^= rowDeadline
	}
}

// forget takes away what nobody can use any more.
func (m *model) forget(w *world, i slot) {
	mv, g := &w.moves[i], w.sourceGroup(i)
	asked := mv.target.state != none
	if mv.source.state == none && (g.state == groupMoved || asked && g.history.epoch() > mv.base.epoch()) {
		*mv = move{over: true}
		return
	}
	if !mv.target.ended() {
		return
	}
	mv.net &^= offer
	if g := w.targetGroup(i); g.state == groupDropped {
		g.history = 0
	}
	if !mv.pending && mv.source.ended() {
		mv.base = 0
	}
	if mv.target.state == dropped && mv.net == 0 && (mv.source.state == none || mv.source.ended()) {
		mv.target.holds = 0
	}
}
