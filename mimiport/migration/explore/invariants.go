package explore

// invariants hold in every world. Each has the name of the rule of the profile's section 6 (or 3) that asks for it.
var invariants = []struct {
	name  string
	holds func(m *model, w *world) bool
}{
	{"at most one server accepts Commits", oneHost},
	{"the accepted Commits are one chain", oneChain},
	{"members merge accepted Commits only", membersFollow},
	{"a vote is a promise: what is confirmed stays at the target until it activates", each(promiseKept)},
	{"the target activates what the source confirmed, nothing else", each(activeIsConfirmed)},
	{"the source signs one outcome", each(oneOutcome)},
	{"what is signed was saved before", each(savedBeforeSent)},
	{"the target acknowledges what it has activated", each(ackedIsActive)},

	{"the source has the content to send while it waits for the vote, no longer", each(contentStored)},
	{"nothing holds back an outcome", each(outcomeFree)},
}

// steps are the invariants of every step from one world to the next.
var steps = []struct {
	name  string
	holds func(before, after *world, i slot, e event) bool
}{
	{"a migration ends once", endsOnce},
	{"the source's clock decides: no vote counts from decide_by on", noLateVote},
	{"what has moved away or was dropped is purged in the end", purged},
	{"members go on from where they are", neverBack},
}

// check returns the name of an invariant that a step violates, or "".
func (m *model) check(before, after *world, e event) string {
	for _, inv := range invariants {
		if !inv.holds(m, after) {
			return inv.name
		}
	}
	for _, s := range steps {
		for i := range slot(m.bounds.Terms * members) {
			if !s.holds(before, after, i, e) {
				return s.name
			}
		}
	}
	return ""
}

// each makes an invariant of all migrations from an invariant of one migration.
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
	for t := range maxTerms {
		g, next := &w.groups[t], &w.groups[t+1]
		if g.state == groupMoved && !g.history.has(moveCommit(g.move)) ||
			next.accepted() && (g.state != groupMoved || !g.history.begins(next.history)) {
			return false
		}
	}
	return true
}

func membersFollow(_ *model, w *world) bool {
	for _, h := range w.members {
		g := &w.groups[h.term()]
		before := h.term() > 0 && h.begins(w.groups[h.term()-1].history) // the former server knows this history
		if !before && !(g.accepted() && h.begins(g.history)) {
			return false
		}
	}
	return true
}

func promiseKept(w *world, i slot) bool {
	mv := &w.moves[i]
	return mv.source.holds&confirmation == 0 || mv.target.state == staged || mv.target.state == active
}

func activeIsConfirmed(w *world, i slot) bool {
	mv := &w.moves[i]
	return mv.target.state != active || mv.source.holds&confirmation != 0
}

func oneOutcome(w *world, i slot) bool {
	return w.moves[i].source.holds&(confirmation|abort) != confirmation|abort
}

// savedBeforeSent: if a signed message is on its way, or another party has it, then the signer's record has it, too.
func savedBeforeSent(w *world, i slot) bool {
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
	return mv.net&ack == 0 && mv.source.state != moved || mv.target.state == active
}

func contentStored(w *world, i slot) bool {
	r := &w.moves[i].source
	return r.stored == (r.state == frozen)
}

// outcomeFree: the rows of a migration to its target are one queue. While the outcome waits, no content and no deadline
// waits.
func outcomeFree(w *world, i slot) bool {
	r := &w.moves[i].source
	return r.state == frozen || r.rows&rowOutcome == 0 || r.rows&(rowContent|rowDeadline) == 0
}

// endsOnce: the source keeps its outcome. The target keeps its end, but a confirmation still activates a dropped
// record.
func endsOnce(before, after *world, i slot, _ event) bool {
	a, b := before.moves[i].source.state, after.moves[i].source.state
	if (a == decided || a == aborted) && b != a && b != moved || a == moved && b != moved {
		return false
	}
	a, b = before.moves[i].target.state, after.moves[i].target.state
	return a != active && a != dropped || b == a || b == active
}

func noLateVote(before, after *world, i slot, e event) bool {
	late := actions[e.action].clock && slot(e.slot) == i
	return !late || before.moves[i].source.state != frozen || after.moves[i].source.state != decided
}

func purged(before, after *world, i slot, _ event) bool {
	b, a := &before.moves[i], &after.moves[i]
	moves := b.source.state != decided && a.source.state == decided
	drops := b.target.state == staged && a.target.state == dropped
	return !(moves && a.source.rows&rowPurge == 0 || drops && a.target.rows&rowPurge == 0)
}

func neverBack(before, after *world, i slot, _ event) bool {
	return before.members[i.member()].begins(after.members[i.member()])
}

// settled says whether the group is active at one server and no migration is under way.
func (w *world) settled() bool {
	hosts := 0
	for _, g := range w.groups {
		switch g.state {
		case groupActive:
			hosts++
		case groupFrozen, groupStaged:
			return false
		}
	}
	for i := range w.moves {
		s, t := w.moves[i].source.state, w.moves[i].target.state
		if s == frozen || s == decided || t == offered || t == staged {
			return false
		}
	}
	return hosts == 1
}
