package hosts

import (
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// kind is the part of an action in the search.
type kind uint8

const (
	chance   kind = iota // may happen
	delivery             // happens in the end: a signed message arrives, or time passes
	remedy               // the room or an operator does it in the end, if nothing else helps
)

// over says for which steps and servers the search tries an action.
type over uint8

const (
	steps      over = iota // once for each step
	onServers              // once for each server
	onBoth                 // once for each step and server
	migrations             // once for each migration
)

// action is a thing that can happen. In its text {i} is the step, {s} is the server, {S} and {T} are the source and the
// target of the step. do reports whether the action can happen.
type action struct {
	text string
	kind kind
	over over
	do   func(m *model, w *world, i step, s server) bool
}

// actions lists all actions.
var actions = []action{
	{"{T} gives out the offer of {i}", chance, migrations, (*model).offer},
	{"{S} freezes the group for {i}", chance, migrations, (*model).freeze},
	{"{T} takes the content of {i}", delivery, migrations, (*model).stage},
	{"{S} takes the vote on {i}", delivery, migrations, (*model).vote},
	{"{S} gives up {i}", delivery, migrations, (*model).giveUp},
	{"{T} takes the confirmation of {i}", delivery, migrations, (*model).takeConfirmation},
	{"{T} takes the abort of {i}", delivery, migrations, (*model).takeAbort},
	{"the offer of {i} expires", delivery, migrations, (*model).expire},
	{"an operator drops {i} at {T}", chance, migrations, (*model).drop},
	{"an operator drops {i} at {T} in the end", remedy, migrations, (*model).dropLast},

	{"{s} is shown {i}", delivery, onBoth, (*model).isShown},
	{"{s} is shown its receipt for the first Commit after {i}", delivery, onBoth, (*model).isShownFirst},
	{"{s} is shown its receipt for another Commit after {i}", delivery, onBoth, (*model).isShownOther},
	{"{T} shows {i} to {S}", delivery, steps, (*model).tell},
	{"{s} accepts a Commit", chance, onServers, (*model).accept},
	{"a member closes the group at {s}", chance, onServers, (*model).closeGroup},
	{"{s} forgets the group that it has closed", delivery, onServers, (*model).forgetClosed},

	{"an operator recovers the group by {i}", chance, steps, first((*model).recover)},
	{"an operator reclaims the group by {i}", chance, steps, first((*model).reclaim)},
	{"an operator insists by {i}", chance, steps, first((*model).insist)},
	{"an operator recovers the group by {i} in the end", remedy, steps, last((*model).recover)},
	{"an operator reclaims the group by {i} in the end", remedy, steps, last((*model).reclaim)},
	{"the operator of {s} yields to {i}", remedy, onBoth, (*model).operatorYields},
	{"the room's pointer names {i}", chance, steps, (*model).name},
	{"the room's pointer names {i}, where the group is", remedy, steps, (*model).nameHost},

	{"{s} goes out of service", chance, onServers, outageTo(inService, out, (*model).mayGoOut)},
	{"{s} is out for a day", chance, onServers, outageTo(out, outForDay, always)},
	{"{s} is back", delivery, onServers, outageTo(out, back, always)},
	{"{s} is back after a day", delivery, onServers, outageTo(outForDay, backAfterDay, always)},
	{"{s} is lost", chance, onServers, outageTo(inService, lost, (*model).mayBeLost)},
	{"{s} is backed up", chance, onServers, (*model).backUp},
	{"{s} is restored", chance, onServers, (*model).restore},

	{"{s} signs the content of {i}", chance, onBoth, lie(content, tree.asSource)},
	{"{s} signs a confirmation of {i}", chance, onBoth, lie(taken, tree.asSource)},
	{"{s} signs an abort of {i}", chance, onBoth, lie(aborted, tree.asSource)},
	{"{s} gives out an offer of {i} and votes", chance, onBoth, lie(offered|voted, tree.asTarget)},
	{"{s} claims the group by {i}", chance, onBoth, lie(taken, tree.asClaimant)},
	{"{s} contests {i}", chance, onBoth, (*model).lieContest},
}

func always(*model, *world, server) bool { return true }

// honest says whether a server follows the profile and is in service.
func (m *model) honest(w *world, s server) bool { return !m.hostile(s) && w.outage[s].up() }

func (m *model) hostile(s server) bool { return m.Hostile == s && m.HasHostile }

func (t tree) sourceOf(i step) server { return t[t[i].before].host }

func (m *model) offer(w *world, i step, _ server) bool {
	if w.signed[i]&offered != 0 || !m.honest(w, m.tree[i].host) {
		return false
	}
	m.step(w, m.target(w, i), migration.Offer{}, root)
	w.signed[i] |= offered
	return true
}

// freeze is InitMigration.
func (m *model) freeze(w *world, i step, _ server) bool {
	at := m.source(w, i)
	g := w.here(at.server)
	if !m.honest(w, at.server) || g != at.row || g.state != active || g.at != m.tree[i].before ||
		w.signed[i]&offered == 0 || !at.record.is("") {
		return false
	}
	if t := m.target(w, i); !m.hostile(t.server) && !(w.outage[t.server].up() && t.record.is(migration.Offered)) {
		return false // the source has asked the target
	}
	m.step(w, at, migration.Init{Content: someBytes}, root)
	w.signed[i] |= content
	return true
}

func (m *model) stage(w *world, i step, _ server) bool {
	at := m.target(w, i)
	source := m.source(w, i)
	waits := m.hostile(source.server) || source.record.is(migration.Frozen)
	if !m.honest(w, at.server) || w.signed[i]&content == 0 || !at.record.is(migration.Offered) || !waits {
		return false
	}
	m.takeContent(w, i)
	return true
}

func (m *model) vote(w *world, i step, _ server) bool {
	at := m.source(w, i)
	if !m.honest(w, at.server) || w.signed[i]&voted == 0 || !at.record.is(migration.Frozen) {
		return false
	}
	m.step(w, at, migration.Vote{Complete: migration.Signed{Message: someBytes}, ContentHash: someBytes, At: before}, root)
	return true
}

func (m *model) giveUp(w *world, i step, _ server) bool {
	at := m.source(w, i)
	if !m.honest(w, at.server) || !at.record.is(migration.Frozen) {
		return false
	}
	m.step(w, at, migration.Deadline{At: deadline}, root)
	return true
}

func (m *model) takeConfirmation(w *world, i step, _ server) bool {
	if !m.honest(w, m.tree[i].host) || w.signed[i]&taken == 0 {
		return false
	}
	m.confirm(w, i)
	return true
}

func (m *model) takeAbort(w *world, i step, _ server) bool {
	if !m.honest(w, m.tree[i].host) || w.signed[i]&aborted == 0 {
		return false
	}
	m.step(w, m.target(w, i), migration.SourceAbort{Abort: migration.Signed{Message: someBytes}}, root)
	return true
}

func (m *model) expire(w *world, i step, _ server) bool {
	at := m.target(w, i)
	if !m.honest(w, at.server) || !at.record.is(migration.Offered) {
		return false
	}
	m.step(w, at, migration.Deadline{At: deadline}, root)
	return true
}

func (m *model) drop(w *world, i step, _ server) bool {
	if !m.Drops || !m.honest(w, m.tree[i].host) {
		return false
	}
	m.step(w, m.target(w, i), migration.OperatorDrop{}, root)
	return true
}

// dropLast ends the wait for a source that is lost, lies or has forgotten. No confirmation of the step exists.
func (m *model) dropLast(w *world, i step, _ server) bool {
	s := m.sourceOf(i)
	silent := w.outage[s] == lost || m.hostile(s) || w.forgot(s)
	if !silent || w.signed[i]&taken != 0 || m.bug == NeverDrops || !m.honest(w, m.tree[i].host) {
		return false
	}
	m.step(w, m.target(w, i), migration.OperatorDrop{}, root)
	return true
}

// isShown: any user of the room shows any lineage that holds.
func (m *model) isShown(w *world, i step, s server) bool {
	if !m.honest(w, s) || !m.holds(w, i) {
		return false
	}
	m.show(w, s, i)
	return true
}

func (m *model) isShownFirst(w *world, i step, s server) bool {
	return m.isShownReceipt(w, i, s, receipt, theFirst)
}

func (m *model) isShownOther(w *world, i step, s server) bool {
	return m.isShownReceipt(w, i, s, otherReceipt, another)
}

func (m *model) isShownReceipt(w *world, i step, s server, signed signs, l log) bool {
	if !m.honest(w, s) || m.tree[i].host != s || w.signed[i]&signed == 0 {
		return false
	}
	m.showReceipt(w, s, i, l)
	return true
}

// tell is the outbox row of a server that has claimed a group: the server shows its claim to the former host. If the
// former host contests a recover, the server stops, unless the room supports the recover. The server shows a reclaim
// again if the former host contests it, or does not know the group: such a host may still take up a group that it has
// dropped.
func (m *model) tell(w *world, i step, _ server) bool {
	s, former := m.tree[i].host, m.sourceOf(i)
	g := w.here(s)
	if !m.claim(i) || !m.honest(w, s) || !m.honest(w, former) || g == nil || g.state != active || g.at != i {
		return false
	}
	contested := m.show(w, former, i)
	if contested {
		m.contested(w, s, i)
	}
	if !contested && (w.here(former) != nil || m.bug == TellsOnce) {
		w.signed[i] &^= untold
	}
	return true
}

// contested is contestedBy.
func (m *model) contested(w *world, s server, i step) {
	if m.tree[i].kind == mimiport.StepRecover && w.named != i && m.bug != GoesOnContested {
		m.step(w, bare(s, w.here(s)), migration.Halt{Lineage: someBytes}, root)
	}
}

// accept: the host signs a receipt for a Commit. If the host has forgotten a Commit for the same epoch, the new Commit
// is another one.
func (m *model) accept(w *world, _ step, s server) bool {
	g := w.here(s)
	if !m.Commits || !m.honest(w, s) || g == nil || g.state != active || g.log != empty {
		return false
	}
	g.log = theFirst
	if w.signed[g.at]&receipt != 0 {
		g.log = another
		w.signed[g.at] |= otherReceipt
	}
	w.signed[g.at] |= receipt
	return true
}

func (m *model) closeGroup(w *world, _ step, s server) bool {
	g := w.here(s)
	if !m.Closes || !m.honest(w, s) || g == nil || !g.hosts() {
		return false
	}
	at := bare(s, g)
	if g.state == frozen {
		at = m.source(w, g.by)
	}
	if m.bug == ClosesFrozen {
		at, g.state = bare(s, g), active
	}
	m.step(w, at, migration.Close{}, root)
	return true
}

func (m *model) forgetClosed(w *world, _ step, s server) bool {
	g := w.here(s)
	if !m.honest(w, s) || g == nil || g.state != closed {
		return false
	}
	m.step(w, bare(s, g), migration.End{}, root)
	return true
}

// recover is Recover, from the group as a member holds it.
func (m *model) recover(w *world, i step) bool {
	s, base := m.tree[i].host, m.tree[i].before
	if m.tree[i].kind != mimiport.StepRecover {
		return false
	}
	if g := w.here(s); g != nil && (!g.load().Recoverable() || !m.goesOn(g, base) || m.wasLater(w, s, g, i)) {
		return false
	}
	return m.claimAt(w, i)
}

// goesOn says whether a lineage goes on from the lineage that a server knows.
func (m *model) goesOn(g *row, i step) bool { return m.begins(g.known(), i) || m.bug == RecoversBehind }

// reclaim is Reclaim of a group that has moved away or has stopped.
func (m *model) reclaim(w *world, i step) bool {
	s, base := m.tree[i].host, m.tree[i].before
	g := w.here(s)
	if m.tree[i].kind != mimiport.StepReclaim || g == nil || g.state != moved && g.state != stopped || g.known() != base {
		return false
	}
	at := bare(s, g)
	if g.by != root {
		at = m.source(w, g.by)
	}
	given := at.record.is(migration.Decided) && !at.record.aborted && at.record.voted
	if m.bug == ClaimsSameTerm {
		g.state, g.by = active, root
		return given
	}
	return m.step(w, at, migration.Reclaim{Given: given}, i) == nil && m.claimAt(w, i)
}

// operatorYields: if a source has confirmed two moves of one term, an operator chooses.
func (m *model) operatorYields(w *world, i step, s server) bool {
	g := w.here(s)
	if !m.honest(w, s) || !m.holds(w, i) || g == nil || !g.owned() {
		return false
	}
	theirs, own, parts := m.parting(i, g.at)
	if !parts || m.claim(theirs) || m.claim(own) || w.named != root || m.tree[theirs].host == s {
		return false
	}
	if to := w.here(m.tree[theirs].host); to == nil || to.state != active || to.at != theirs {
		return false
	}
	m.yield(w, s, g, theirs)
	return true
}

// insist is a reclaim above a claim that this server contests.
func (m *model) insist(w *world, i step) bool {
	s, base := m.tree[i].host, m.tree[i].before
	g := w.here(s)
	if m.tree[i].kind != mimiport.StepReclaim || !m.claim(base) || g == nil || !g.owned() || g.load().Closed() ||
		g.at != m.tree[base].before {
		return false
	}
	if g.state == frozen {
		m.step(w, m.source(w, g.by), migration.GiveUpElsewhere, root)
	}
	m.step(w, bare(s, g), migration.Halt{Lineage: someBytes}, root)
	return m.claimAt(w, i)
}

// first is a claim by an operator at any time: operators can be wrong. last is a claim by an operator when no server
// has the group. The claim goes on from the end of a lineage: nothing follows that lineage, or the operator's server
// has stopped there. If the room's pointer names a claim, the lineage holds that claim.
func first(do func(*model, *world, step) bool) func(*model, *world, step, server) bool {
	return func(m *model, w *world, i step, _ server) bool {
		return !m.tree[i].last && m.mayClaim(w, i) && do(m, w, i)
	}
}

func last(do func(*model, *world, step) bool) func(*model, *world, step, server) bool {
	return func(m *model, w *world, i step, _ server) bool {
		base := m.tree[i].before
		g := w.here(m.tree[i].host)
		end := m.leaf(w, base) || g != nil && g.state == stopped && g.at == base
		return m.mayClaim(w, i) && m.nowhere(w) && end && m.begins(w.named, base) && do(m, w, i)
	}
}

func (m *model) mayClaim(w *world, i step) bool {
	return m.claim(i) && w.signed[i] == 0 && m.honest(w, m.tree[i].host) && m.holds(w, m.tree[i].before)
}

// nowhere says that no honest server has the group or waits for it.
func (m *model) nowhere(w *world) bool {
	for s := range server(servers) {
		g := w.here(s)
		if m.honest(w, s) && g != nil && (g.has() || g.state == staged) {
			return false
		}
	}
	return true
}

// leaf says that no signed step goes on from a lineage.
func (t tree) leaf(w *world, i step) bool {
	for j := range t {
		if j > 0 && t[j].before == i && w.signed[j]&taken != 0 {
			return false
		}
	}
	return true
}

func (m *model) name(w *world, i step, _ server) bool {
	if !m.claim(i) || !m.holds(w, i) {
		return false
	}
	w.named = i
	return true
}

// nameHost: clients name the claim that they follow. The server of that claim has the group.
func (m *model) nameHost(w *world, i step, _ server) bool {
	s := m.tree[i].host
	g := w.here(s)
	return m.honest(w, s) && g != nil && (g.state == active || g.load().Closed()) && g.at == i && m.name(w, i, s)
}

func outageTo(from, to outage, may func(*model, *world, server) bool) func(*model, *world, step, server) bool {
	return func(m *model, w *world, _ step, s server) bool {
		if w.outage[s] != from || m.hostile(s) || !may(m, w, s) {
			return false
		}
		w.outage[s] = to
		return true
	}
}

func (m *model) mayGoOut(_ *world, s server) bool  { return m.Outages && s == a }
func (m *model) mayBeLost(_ *world, s server) bool { return m.Loses && s == a }

func (m *model) backUp(w *world, _ step, s server) bool {
	if !m.Restores || m.hostile(s) || w.backup.state != 0 {
		return false
	}
	w.backup = backup{w.data[s], 1, s}
	return true
}

func (m *model) restore(w *world, _ step, s server) bool {
	if w.backup.state != 1 || w.backup.of != s {
		return false
	}
	w.data[s] = w.backup.data
	w.backup = backup{state: 2, of: s}
	return true
}

// lie lets a hostile server sign messages of a step, in its role in that step.
func lie(signed signs, may func(tree, step, server) bool) func(*model, *world, step, server) bool {
	return func(m *model, w *world, i step, s server) bool {
		if i == root || !m.hostile(s) || !may(m.tree, i, s) || m.tree[i].last || !m.holds(w, m.tree[i].before) {
			return false
		}
		if !m.claim(i) && signed&offered == 0 && w.signed[i]&offered == 0 {
			return false // only the target can sign the offer
		}
		w.signed[i] |= signed
		return true
	}
}

func (t tree) asSource(i step, s server) bool   { return !t.claim(i) && t.sourceOf(i) == s }
func (t tree) asTarget(i step, s server) bool   { return !t.claim(i) && t[i].host == s }
func (t tree) asClaimant(i step, s server) bool { return t.claim(i) && t[i].host == s }

// lieContest: a server shows its recover to a hostile former host, which answers that it contests the recover.
func (m *model) lieContest(w *world, i step, s server) bool {
	by := m.tree[i].host
	if i == root || !m.hostile(s) || m.sourceOf(i) != s || !m.honest(w, by) {
		return false
	}
	if g := w.here(by); g == nil || g.state != active || g.at != i {
		return false
	}
	m.contested(w, by, i)
	return true
}

// event is an action on a step or server.
type event struct {
	action uint8
	step   step
	server server
}

// events calls visit with each event that changes a world, and with the world after the event. visit must not use that
// world after it returns. When operators have begun their last claims, nothing else goes wrong.
func (m *model) events(w *world, visit func(event, *world)) {
	late := m.late(w)
	for n := range actions {
		a := &actions[n]
		if late && a.kind == chance {
			continue
		}
		fromStep, toStep, toServer := step(0), step(len(m.tree)), server(servers)
		switch a.over {
		case steps:
			fromStep, toServer = 1, 1
		case migrations:
			fromStep, toStep, toServer = 1, step(m.moves)+1, 1
		case onServers:
			toStep = 1
		}
		for i := fromStep; i < toStep; i++ {
			for s := range toServer {
				m.next = *w
				if a.do(m, &m.next, i, s) && m.next != *w {
					visit(event{uint8(n), i, s}, &m.next)
				}
			}
		}
	}
}

// late says whether an operator has signed a claim of those that come last.
func (t tree) late(w *world) bool {
	for i := range t {
		if t[i].last && w.signed[i] != 0 {
			return true
		}
	}
	return false
}

func (m *model) say(e event) string {
	r := []string{"{i}", m.lineage(e.step), "{s}", e.server.String()}
	if e.step != root {
		r = append(r, "{S}", m.sourceOf(e.step).String(), "{T}", m.tree[e.step].host.String())
	}
	return strings.NewReplacer(r...).Replace(actions[e.action].text)
}
