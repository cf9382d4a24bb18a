package explore

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// faults is what only a restored backup or an operator's claim brings about: nothing, without them.
type faults struct {
	backup backup
	claim  claim
	shown  [2]uint8 // the latest term that each server has been shown since it was restored
	kept   [2]bool  // each server has kept evidence
}

// backup is a copy of a server's database, until the server has been restored from it.
type backup struct {
	state   backupState
	of      server
	groups  [2]group // the rows of its terms
	records [maxSlots]record
}

type backupState uint8

const (
	noBackup backupState = iota
	taken
	restored
)

// claim is a term that an operator has begun, and its group.
type claim struct {
	group
	by        server
	untold    bool // the server that had the group has yet to be shown
	supported bool // the room's pointer names it
}

// claimed stands in a history where the term of a claim begins.
const claimed = firstMove + history(byClaim)

// restored says whether a server has forgotten, forgot whether it is this one.
func (w *world) restored() bool       { return w.backup.state == restored }
func (w *world) forgot(s server) bool { return w.restored() && w.backup.of == s }

// apart says whether a fault has happened after which two servers may accept, in different terms.
func (w *world) apart() bool { return w.restored() || w.claim.state != groupNone }

func (f faults) mirror() faults {
	b := f.backup
	for i := range b.records {
		f.backup.records[i] = b.records[slot(i).mirror()]
	}
	for t := range b.groups {
		f.backup.groups[t] = b.groups[t].mirror()
	}
	f.claim.group = f.claim.group.mirror()
	return f
}

// record is a server's record of a migration.
func (mv *move) record(i slot, s server) *record {
	if i.source() == s {
		return &mv.source
	}
	return &mv.target
}

func (m *model) mayBackUp(w *world, i slot) bool {
	return i == 0 && m.bounds.Restores && w.backup.state == noBackup
}

// backUp copies the database of a server.
func (w *world) backUp(s server) messages {
	b := backup{state: taken, of: s}
	for t := range b.groups {
		b.groups[t] = w.groups[int(s)+2*t]
	}
	for i := range w.moves {
		b.records[i] = *w.moves[i].record(slot(i), s)
	}
	w.backup = b
	return 0
}

func mayRestore(w *world, i slot, s server) bool {
	return i == 0 && w.backup.state == taken && w.backup.of == s
}

// restore puts a server's database back to its backup.
func (w *world) restore(s server) messages {
	for t, g := range w.backup.groups {
		w.groups[int(s)+2*t] = g
	}
	for i, r := range w.backup.records {
		*w.moves[i].record(slot(i), s) = r
	}
	w.backup = backup{state: restored, of: s}
	w.shown[s], w.kept[s] = 0, false
	return 0
}

// used says whether there is a trace of an offer that its target does not remember: the nonce of a new one is another.
func (w *world) used(i slot) bool {
	for _, h := range w.members {
		if h.has(moveCommit(i)) {
			return true
		}
	}
	return w.moves[i] != move{}
}

// lineage is how the group came to a server, as its row has it.
func (g *group) lineage() history {
	l := g.history.steps()
	last := l.epoch() - 1
	switch {
	case g.state == groupMoved && g.move == byClaim:
		return l.add(claimed)
	case (g.state == groupMoved || g.state == groupStaged) && last >= 0 && l.at(last) == moveCommit(g.move):
		return l.prefix(last)
	}
	return l
}

// known is the lineage and, where the group has moved on, to where.
func (g *group) known() history {
	l := g.lineage()
	if g.state == groupMoved && g.move != byClaim {
		return l.add(moveCommit(g.move))
	}
	return l
}

// goesOn says whether a lineage goes on from what a server knows.
func (w *world) goesOn(s server, l history) bool {
	g := w.here(s)
	return g.state == groupNone || g.known().begins(l)
}

// continues says whether T takes the content of a migration for one of the group it knows.
func (w *world) continues(i slot) bool {
	return w.goesOn(i.target(), w.moves[i].base.steps())
}

// highest is the latest term that anybody knows of.
func (w *world) highest() int {
	most := 0
	for _, h := range w.members {
		most = max(most, h.term())
	}
	for s := range server(2) {
		most = max(most, w.here(s).known().epoch(), int(w.shown[s]))
	}
	return most
}

// takeLineage is ShowLineage: the server takes the steps that follow what it knows. One that redirects takes no note of
// them.
func (m *model) takeLineage(w *world, s server, l history) messages {
	for n := range 2 {
		g := w.here(s)
		own := g.lineage()
		if g.state == groupNone || g.state == groupMoved || !own.begins(l) && !l.begins(own) {
			return 0
		}
		if m.bounds.faulty() { // without faults a server knows by its records what it could be shown
			w.shown[s] = max(w.shown[s], uint8(w.counts(l).epoch()))
		}
		switch {
		case l.epoch() > own.epoch():
			if n == 0 || m.bug != HeedsOneStep {
				m.takeNext(w, s, g, slot(l.at(own.epoch())-firstMove))
			}
		case m.bug == YieldsToLower && l != own:
			m.yield(w, s, g)
		}
	}
	return 0
}

// takeNext is what the server does about the step that follows what it knows of the group.
func (m *model) takeNext(w *world, s server, g *group, i slot) {
	next := migration.Next{Kind: mimiport.StepMigration, Migration: i.id()}
	if i == byClaim {
		next = migration.Next{Kind: mimiport.StepRecover, Supported: w.claim.supported || m.bug == FollowsAnyClaim}
	}
	switch g.load().Judge(next) {
	case migration.TakeConfirm:
		m.confirm(w, i)
	case migration.TakeOther:
		m.step(w, w.target(g.move), migration.Superseded{})
	case migration.TakeOwn:
		m.recall(w, g, i)
	case migration.TakeClaim:
		m.yield(w, s, g)
	case migration.KeepOn:
		m.step(w, bare(s, g), migration.Contest{Lineage: someBytes})
	}
}

// counts is the part of a lineage that a server must follow: a claim counts from when the room supports it.
func (w *world) counts(l history) history {
	if last := l.epoch() - 1; last >= 0 && l.at(last) == claimed && !w.claim.supported {
		return l.prefix(last)
	}
	return l
}

func mayName(_ *model, w *world, i slot) bool {
	return i == 0 && w.claim.state != groupNone && !w.claim.supported
}

// name is the room's word for a claim.
func name(_ *model, w *world, _ slot) messages {
	w.claim.supported = true
	return 0
}

// recall stops a group that the server has confirmed away and does not remember.
func (m *model) recall(w *world, g *group, i slot) {
	if m.bug == DatabaseFirst {
		return
	}
	if g.state == groupFrozen && g.move != i {
		m.step(w, w.source(g.move), migration.GiveUpElsewhere)
	}
	m.step(w, w.source(i), migration.Recall{Confirmation: signed(confirmation, i), Lineage: someBytes})
}

// yield stops a group that another server has claimed.
func (m *model) yield(w *world, s server, g *group) {
	at := bare(s, g)
	if g.state == groupFrozen {
		at = w.source(g.move)
	}
	m.step(w, at, migration.Yield{Lineage: someBytes})
}

// mayAct says whether operators do what is theirs: they do when a server has forgotten.
func (m *model) mayAct(w *world) bool { return m.bounds.Claims || w.restored() }

// mayClaim says whether an operator may begin a term after a lineage. When a server has forgotten, the operator has asked the other one,
// and looked for the longest lineage that there is.
func (m *model) mayClaim(w *world, l history) bool {
	return m.mayAct(w) && w.claim.state == groupNone && (!w.restored() || w.nowhere() && l.epoch() == w.highest())
}

// nowhere says whether no server has the group, nor may still get it by a confirmation that is on its way.
func (w *world) nowhere() bool {
	for i := range w.moves {
		if w.moves[i].net&confirmation != 0 {
			return false
		}
	}
	for s := range server(2) {
		if g := w.here(s); g.state != groupNone && g.state != groupMoved {
			return false
		}
	}
	return true
}

func (m *model) mayReclaim(w *world, i slot) bool {
	g := w.sourceGroup(i)
	if !m.mayClaim(w, g.known()) || w.here(i.source()) != g {
		return false
	}
	after := *w
	return m.takeBack(&after, i) == nil
}

// takeBack is the part of a reclaim that is about the term it ends.
func (m *model) takeBack(w *world, i slot) error {
	return m.step(w, w.source(i), migration.Reclaim{Given: w.sourceGroup(i).history == w.moved(i)})
}

func (m *model) reclaim(w *world, i slot) messages {
	g := w.sourceGroup(i)
	if m.bug == ClaimsSameTerm {
		g.state, g.move = groupActive, 0
		return 0
	}
	m.takeBack(w, i)
	m.begin(w, i.source(), g.history)
	return 0
}

func (m *model) mayRecover(w *world, i slot, s server) bool {
	l := w.members[i.member()].steps()
	free := w.here(s).load().Recoverable()
	return m.mayAct(w) && once(i) && m.mayClaim(w, l) && free && (w.goesOn(s, l) || m.bug == RecoversBehind)
}

// recoverAt is Recover, from what a member holds, who goes on there.
func (m *model) recoverAt(w *world, i slot, s server) messages {
	h := &w.members[i.member()]
	if m.begin(w, s, *h) {
		*h = w.claim.history
	}
	return 0
}

// begin begins the term of a claim, if its row is vacant. It takes the place of what was dropped in it.
func (m *model) begin(w *world, s server, h history) bool {
	w.claim.by, w.claim.history = s, h.add(claimed)
	row := new(group)
	if t := w.claim.history.term(); t <= maxTerms && server(t%2) == s {
		row = &w.groups[t]
	}
	if m.step(w, bare(s, row), migration.Claim{}) != nil {
		w.claim = claim{}
		return false
	}
	w.claim.group = *row
	if m.bug != RevivesDropped {
		*row = group{}
	}
	return true
}

// tell is the row by which a server is shown that the group was reclaimed from it. One that does not know the group is shown again: it
// may have dropped what it had staged, and take it up again.
func (m *model) tell(w *world, i slot) messages {
	s := 1 - w.claim.by
	l := w.claim.history.steps()
	unknown := w.here(s).state == groupNone && m.bug != TellsOnce
	w.claim.untold = unknown || w.counts(l) != l
	return m.takeLineage(w, s, l)
}

// mayEnter: a member that is where the claim begins hears of it.
func (m *model) mayEnter(w *world, i slot) bool {
	h := w.members[i.member()]
	return once(i) && w.claim.state == groupActive && h.add(claimed) == w.claim.history.prefix(h.epoch()+1)
}

func (m *model) enter(w *world, i slot) messages {
	h := &w.members[i.member()]
	*h = h.add(claimed)
	return 0
}

// apartOnce and mayAsk: members show a lineage where that may tell anything, and operators where a server has forgotten.
func (m *model) apartOnce(w *world, i slot) bool { return once(i) && w.apart() }
func (m *model) mayAsk(w *world, i slot) bool    { return i == 0 && w.restored() }

// faulty says whether there are backups or claims within the bounds.
func (b Bounds) faulty() bool { return b.Restores || b.Claims }
