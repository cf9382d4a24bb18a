package explore

// invariants are what holds in every world, by the sentence of the profile's section 6 (or 3) that asks for it.
var invariants = []struct {
	name  string
	holds func(m *model, w *world) bool
}{
	{"at most one server accepts Commits", oneHost},
	{"the accepted Commits are one chain", oneChain},
	{"members merge accepted Commits only", membersFollow},
	{"a vote is a promise: what is confirmed stays at the target until it activates", promisesKept},
	{"the target activates what the source confirmed, nothing else", each(activeIsConfirmed)},
	{"the source signs one outcome", each(oneOutcome)},
	{"what is signed was saved before", each(savedBeforeSent)},
	{"the target acknowledges what it has activated", each(ackedIsActive)},

	{"the source has the content to send while it waits for the vote, no longer", each(contentStored)},
	{"nothing holds back an outcome", each(outcomeFree)},

	{"at most one server accepts Commits in a term", oneHostOfTerm},
	{"no server accepts in a term that it knows to be over", acceptsInLast},
	{"a server that stops for what it is shown keeps it", evidenceKept},
}

// steps are what holds of every step from one world to the next.
var steps = []struct {
	name  string
	holds func(before, after *world, i slot) bool
}{
	{"a migration ends once", endsOnce},
	{"the source's clock decides: no vote counts from decide_by on", noLateVote},
	{"what has moved away or was dropped is purged in the end", purged},
	{"nothing is signed against what was shown", nothingContrary},
	{"a host stops for a claim only when the room supports it", stopsWithSupport},
	{"members go on from where they are", neverBack},
}

// check names an invariant that a step to a world violates, or none.
func (m *model) check(before, after *world) string {
	for _, inv := range invariants {
		if !inv.holds(m, after) {
			return inv.name
		}
	}
	if before.restored() != after.restored() {
		return "" // as if what is forgotten had never been
	}
	for _, s := range steps {
		for i := range slot(m.bounds.Terms * members) {
			if !s.holds(before, after, i) {
				return s.name
			}
		}
	}
	return ""
}

// each makes an invariant of one that is about a single migration.
func each(holds func(w *world, i slot) bool) func(*model, *world) bool {
	return func(m *model, w *world) bool {
		for i := range slot(m.bounds.Terms * members) {
			if !holds(w, i) {
				return false
			}
		}
		return true
	}
}

func oneHost(_ *model, w *world) bool {
	if w.apart() {
		return true
	}
	n := 0
	for _, g := range w.groups {
		if g.state == groupActive {
			n++
		}
	}
	return n <= 1
}

// accepted says whether the server of a group's row has accepted its history.
func (g *group) accepted() bool {
	return g.state == groupActive || g.state == groupFrozen || g.state == groupMoved
}

func oneChain(_ *model, w *world) bool {
	if w.apart() {
		return true
	}
	for t := range maxTerms {
		g, next := &w.groups[t], &w.groups[t+1]
		if g.state == groupMoved && g.move != byClaim && !g.history.has(moveCommit(g.move)) ||
			next.accepted() && (g.state != groupMoved || !g.history.begins(next.history)) {
			return false
		}
	}
	return true
}

func membersFollow(_ *model, w *world) bool {
	if w.apart() {
		return true
	}
	for _, h := range w.members {
		g := &w.groups[h.term()]
		before := h.term() > 0 && h.begins(w.groups[h.term()-1].history) // as the server before knows it
		if !before && !(g.accepted() && h.begins(g.history)) {
			return false
		}
	}
	return true
}

// promisesKept: unless an operator may break it.
func promisesKept(m *model, w *world) bool { return m.mayAct(w) || each(promiseKept)(m, w) }

func promiseKept(w *world, i slot) bool {
	mv := &w.moves[i]
	return mv.source.holds&confirmation == 0 || mv.target.state == staged || mv.target.state == active
}

func activeIsConfirmed(w *world, i slot) bool {
	mv := &w.moves[i]
	return mv.target.state != active || mv.source.holds&confirmation != 0 || w.forgot(i.source())
}

func oneOutcome(w *world, i slot) bool {
	return w.moves[i].source.holds&(confirmation|abort) != confirmation|abort || w.forgot(i.source())
}

// savedBeforeSent: each signed message that is on its way, or in another party's hands, is in the record of who signed it.
func savedBeforeSent(w *world, i slot) bool {
	if w.restored() {
		return true
	}
	mv := &w.moves[i]
	out := mv.net | mv.source.holds&vote | mv.target.holds&(confirmation|abort)
	for _, h := range w.members {
		if h.has(moveCommit(i)) {
			out |= confirmation
		}
	}
	switch {
	case (out&(offer|initiation) != 0 || mv.pending) && mv.target.state == none,
		out&content != 0 && mv.source.state == none,
		out&vote&^mv.target.holds != 0,
		out&(confirmation|abort)&^mv.source.holds != 0:
		return false
	}
	return true
}

func ackedIsActive(w *world, i slot) bool {
	mv := &w.moves[i]
	return mv.net&ack == 0 && mv.source.state != moved || mv.target.state == active || w.restored()
}

func contentStored(w *world, i slot) bool {
	r := &w.moves[i].source
	return r.stored == (r.state == frozen)
}

// outcomeFree: the rows of a migration to its target are one queue.
func outcomeFree(w *world, i slot) bool {
	r := &w.moves[i].source
	return r.state == frozen || r.rows&rowOutcome == 0 || r.rows&(rowContent|rowDeadline) == 0
}

func oneHostOfTerm(_ *model, w *world) bool {
	t := w.claim.history.term()
	return w.claim.state != groupActive || t > maxTerms || w.groups[t].state != groupActive
}

func acceptsInLast(m *model, w *world) bool {
	for s := range server(2) {
		g := w.here(s)
		if g.state != groupActive {
			continue
		}
		last := int(w.shown[s])
		for i := range slot(m.bounds.Terms * members) {
			if i.source() == s && w.moves[i].source.holds&confirmation != 0 {
				last = max(last, i.term())
			}
		}
		if g.history.term() < last {
			return false
		}
	}
	return true
}

// evidenceKept: a confirmation without a vote is one that the source was shown.
func evidenceKept(m *model, w *world) bool {
	for s := range server(2) {
		g := w.here(s)
		stopped := g.state == groupMoved && g.move == byClaim
		for i := range slot(m.bounds.Terms * members) {
			stopped = stopped || i.source() == s && w.moves[i].source.holds&(confirmation|vote) == confirmation
		}
		if stopped && !w.kept[s] {
			return false
		}
	}
	return true
}

// endsOnce: against an end that is not the move only the confirmation counts.
func endsOnce(before, after *world, i slot) bool {
	a, b := before.moves[i].source.state, after.moves[i].source.state
	if (a == decided || a == aborted) && b != a && b != moved || a == moved && b != moved {
		return false
	}
	a, b = before.moves[i].target.state, after.moves[i].target.state
	return a != active && a != dropped || b == a || b == active
}

func noLateVote(before, after *world, i slot) bool {
	b, a := &before.moves[i], &after.moves[i].source
	return !(b.late && b.source.state == frozen && a.state == decided && a.holds&vote != 0)
}

func purged(before, after *world, i slot) bool {
	b, a := &before.moves[i], &after.moves[i]
	moves := b.source.state != decided && a.source.state == decided
	drops := b.target.state == staged && a.target.state == dropped
	return !(moves && a.source.rows&rowPurge == 0 || drops && a.target.rows&rowPurge == 0)
}

// nothingContrary: once shown how its term ended the source neither confirms another migration of it nor aborts that one.
func nothingContrary(before, after *world, i slot) bool {
	b, a := &before.moves[i].source, &after.moves[i].source
	signed := a.holds &^ b.holds
	confirms := signed&confirmation != 0 && a.holds&vote != 0 && int(before.shown[i.source()]) >= i.term()
	return !confirms && (signed&abort == 0 || b.holds&confirmation == 0)
}

func neverBack(before, after *world, i slot) bool {
	return before.members[i.member()].begins(after.members[i.member()])
}

// settled says whether all is over: the group is active at one server, in the latest term that anybody knows of, and no migration is under
// way. What was decided may stay so when its target has forgotten it, or has the group by a claim.
func (w *world) settled() bool {
	hosts := 0
	for s := range server(2) {
		switch g := w.here(s); g.state {
		case groupActive:
			hosts++
			if g.history.term() != w.highest() {
				return false
			}
		case groupFrozen, groupStaged:
			return false
		}
	}
	for i := range w.moves {
		s, t := w.moves[i].source.state, w.moves[i].target.state
		if s == frozen || s == decided && !w.apart() || t == offered || t == staged {
			return false
		}
	}
	return hosts == 1
}

func stopsWithSupport(before, after *world, _ slot) bool {
	for s := range server(2) {
		b, a := before.here(s), after.here(s)
		hosted := b.state == groupActive || b.state == groupFrozen || b.state == groupStaged
		if hosted && a.state == groupMoved && a.move == byClaim && !after.claim.supported {
			return false
		}
	}
	return true
}
