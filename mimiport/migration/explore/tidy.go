package explore

// tidy takes the steps that need not wait, so that worlds that differ only in these steps become one. Members receive
// accepted Commits: a member that lags behind can do nothing that counts. The message of a row is on its way as long as
// the row exists. A record that has ended takes a message as soon as it is sent. tidy asks the machine for each such
// step: if the step changes anything but rows and messages, tidy leaves the step to the search.
func (m *model) tidy(w *world) {
	for i := range slot(members) {
		for m.mayReceive(w, i) {
			m.receive(w, i)
		}
	}
	for i := range slot(m.bounds.Terms * members) {
		mv := &w.moves[i]
		m.forgetClock(mv)
		mv.source.rows &^= rowPurge
		mv.target.rows &^= rowPurge
		for again := mv.net != 0 || mv.source.rows|mv.target.rows != 0; again; {
			again = false
			for _, n := range prompt {
				if a := &actions[n]; m.past(a, mv) && a.can(m, w, i) {
					again = m.takeQuietly(a, w, i) || again
				}
			}
		}
		m.forget(w, i)
	}
}

// takeQuietly takes an action if the action changes rows or messages of the migration and nothing else. It reports
// whether it did.
func (m *model) takeQuietly(a *action, w *world, i slot) bool {
	next := &m.room.quiet
	*next = *w
	next.moves[i].net &^= a.takes
	next.moves[i].net |= a.do(m, next, i)
	if !quiet(w, next, i) || next.moves[i] == w.moves[i] {
		return false
	}
	*w = *next
	return true
}

// past says whether the migration has ended for the party of an action, or whether the action only sends the message of
// a row.
func (m *model) past(a *action, mv *move) bool {
	switch {
	case a.takes == initiation:
		return mv.source.state != none || mv.target.ended()
	case a.sends:
		return mv.net&(vote|refusal|ack|abortAck) == 0 // no answer is on its way
	case a.by == bySource:
		return mv.source.ended()
	}
	return a.by == byTarget && mv.target.ended()
}

func (r *record) ended() bool { return ended[r.state] }

// ended says for each state whether it is an end.
var ended = func() (of [len(states)]bool) {
	for n, s := range states {
		of[n] = s.Ended()
	}
	return of
}()

// quiet says whether a step changed only rows and messages of a migration.
func quiet(before, after *world, i slot) bool {
	a, b := after.moves[i], before.moves[i]
	a.net, a.source.rows, a.target.rows = b.net, b.source.rows, b.target.rows
	return a == b && after.groups == before.groups && after.members == before.members
}

// forgetClock deletes the deadline of an offer that T has staged or ended.
func (m *model) forgetClock(mv *move) {
	if mv.target.state != offered && m.bug != ExpiresStaged {
		mv.target.rows &^= rowDeadline
	}
}

// forget deletes everything of a migration that nobody can use any more.
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
