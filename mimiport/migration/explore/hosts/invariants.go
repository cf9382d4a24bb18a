package hosts

import "github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"

// invariants hold in every world.
var invariants = []struct {
	name  string
	holds func(m *model, w *world) bool
}{
	{"a server that redirects names another server", namesAnother},
	{"a server stops in a term that it has signed for, or has forgotten", stoppedRightly},
	{"a migration is frozen as long as its group is", frozenTogether},
	{"no server accepts in a term that it has confirmed away", confirmedAway},
	{"a server that remembers signs one step after a lineage", signsOneStep},
	{"a server shows what it has reclaimed until the former host follows", showsReclaim},
}

// ofSteps are the invariants of every step from one world to the next.
var ofSteps = []struct {
	name  string
	holds func(m *model, before, after *world, e event) bool
}{
	{"a healthy host ends only by its own signature, the room or its operator", endsByRight},
	{"a server that stops for what it is shown keeps it", keepsEvidence},
	{"what arrives twice changes nothing the second time", onceIsEnough},
}

// inTheEnd hold in every world in which every server has heard of everything. The room and operators may not have
// spoken yet.
var inTheEnd = []struct {
	name  string
	holds func(m *model, w *world) bool
}{
	{"one host, once everybody has heard of everything, unless the room has yet to choose", oneHost},
	{"a host has accepted what its receipts say", keepsItsWord},
	{"redirects end somewhere", redirectsEnd},
}

// check returns the name of an invariant that a step violates, or "".
func (m *model) check(before, after *world, e event) string {
	for _, inv := range invariants {
		if !inv.holds(m, after) {
			return inv.name
		}
	}
	for _, inv := range ofSteps {
		if !inv.holds(m, before, after, e) {
			return inv.name
		}
	}
	return ""
}

// checkEnd does the same for a world in which every server has heard of everything.
func (m *model) checkEnd(w *world) string {
	for _, inv := range inTheEnd {
		if !inv.holds(m, w) {
			return inv.name
		}
	}
	return ""
}

func namesAnother(m *model, w *world) bool {
	for s := range server(servers) {
		if g := w.here(s); g != nil && g.state == moved && m.tree[g.known()].host == s && !m.hostile(s) {
			return false
		}
	}
	return true
}

func stoppedRightly(m *model, w *world) bool {
	for s := range server(servers) {
		g := w.here(s)
		if g == nil || g.state != stopped || w.forgot(s) {
			continue
		}
		signed := m.claim(g.at) || w.signed[g.at]&voted != 0
		if m.tree[g.at].host != s || g.at == root || !signed {
			return false
		}
	}
	return true
}

// frozenTogether: the group's row is frozen for a migration if and only if that migration's record is frozen.
func frozenTogether(m *model, w *world) bool {
	for s := range server(servers) {
		for i := step(1); i <= step(m.moves); i++ {
			r := m.row(w, s, m.tree[i].before)
			if w.data[s].records[i-1].source.is(migration.Frozen) != (r.state == frozen && r.by == i) {
				return false
			}
		}
	}
	return true
}

func confirmedAway(m *model, w *world) bool {
	for i := step(1); i <= step(m.moves); i++ {
		at := m.source(w, i)
		if (at.record.is(migration.Decided) || at.record.is(migration.Moved)) && at.row.hosts() {
			return false
		}
	}
	return true
}

// signsOneStep: a server confirms or claims at most one of the steps that go on from one lineage.
func signsOneStep(m *model, w *world) bool {
	for i := range m.tree {
		for j := range i {
			s := m.signer(step(i))
			if j > 0 && m.tree[i].before == m.tree[j].before && m.signer(step(j)) == s &&
				w.signed[i]&w.signed[j]&taken != 0 && !m.hostile(s) && !w.forgot(s) {
				return false
			}
		}
	}
	return true
}

// signer is the server that signs a step.
func (t tree) signer(i step) server {
	if t.claim(i) {
		return t[i].host
	}
	return t.sourceOf(i)
}

// showsReclaim: as long as the former host still has a reclaimed group, or waits for it, its row to show the reclaim
// waits.
func showsReclaim(m *model, w *world) bool {
	for j := range m.tree {
		i := step(j)
		if i == root || m.tree[i].kind != reclaims || m.claim(m.tree[i].before) || w.signed[i]&(taken|untold) != taken {
			continue
		}
		s, former := m.tree[i].host, m.sourceOf(i)
		g := w.here(former)
		if s == former || m.hostile(s) || m.hostile(former) || w.forgot(s) || w.forgot(former) || g == nil {
			continue
		}
		if (g.has() || g.state == staged) && m.begins(g.at, m.tree[i].before) {
			return false
		}
	}
	return true
}

// keepsEvidence: a server that loses the group has confirmed a move with a vote, or keeps evidence.
func keepsEvidence(m *model, before, after *world, _ event) bool {
	for s := range server(servers) {
		b, a := before.here(s), after.here(s)
		if b == nil || !b.has() || a != nil && a.has() || before.forgot(s) != after.forgot(s) {
			continue
		}
		voted := a != nil && a.state == moved && a.by != root && m.source(after, a.by).record.voted
		if !voted && !after.data[s].kept {
			return false
		}
	}
	return true
}

// onceIsEnough: servers repeat their messages, and anybody may show a message again. A server does everything the first
// time.
func onceIsEnough(m *model, _, after *world, e event) bool {
	a := &actions[e.action]
	if a.kind != delivery {
		return true
	}
	m.again = *after
	a.do(m, &m.again, e.step, e.server)
	return m.again == *after
}

func endsByRight(m *model, before, after *world, e event) bool {
	for s := range server(servers) {
		if !m.endsByRight(before, after, e, s) {
			return false
		}
	}
	return true
}

// endsByRight: a server loses the group by a step for one of these reasons only. It has signed for that itself, even if
// it has forgotten the signature since. The room or its operator says so. It has claimed the group without the room's
// support. It was out of service for a day, and the room lists successors.
func (m *model) endsByRight(before, after *world, e event, s server) bool {
	b, a := before.here(s), after.here(s)
	if m.hostile(s) || b == nil || !b.has() || a != nil && a.at == b.at && (a.hosts() && b.hosts() || a.load().Closed()) {
		return true
	}
	if before.forgot(s) != after.forgot(s) {
		return true // the server has gone back to its backup
	}
	for i := range step(m.moves + 1) {
		if i != root && m.tree[i].before == b.at && after.signed[i]&taken != 0 {
			return true // the server has confirmed a move of the group
		}
	}
	receipts := after.signed[b.at] & (receipt | otherReceipt)
	switch {
	case m.roomSays(after, b.at, s), m.unsupported(after, b.at):
		return true
	case after.forgot(s) && (receipts != 0 || m.signedLater(after, b.at, s)):
		return true
	case after.outage[s] == backAfterDay && len(m.Successors) > 0:
		return true
	}
	return m.byOperator(e, s)
}

// roomSays says whether the room's pointer names another server's claim that is not in the server's lineage.
func (m *model) roomSays(w *world, at step, s server) bool {
	return w.named != root && m.tree[w.named].host != s && !m.begins(w.named, at)
}

// unsupported says whether a lineage has a claim without support: the room's pointer names neither that claim nor a
// later step of the lineage.
func (m *model) unsupported(w *world, i step) bool {
	for ; i != root && i != w.named; i = m.tree[i].before {
		if m.claim(i) {
			return true
		}
	}
	return false
}

// signedLater says whether a server has signed for the group after a lineage, or beside it.
func (m *model) signedLater(w *world, at step, s server) bool {
	for j := range m.tree {
		i := step(j)
		signed := m.claim(i) && w.signed[i]&taken != 0 || !m.claim(i) && w.signed[i]&(voted|taken) == voted|taken
		if i != root && m.tree[i].host == s && signed && !m.begins(i, at) {
			return true
		}
	}
	return false
}

// byOperator says whether an event is an action of a server's operator.
func (m *model) byOperator(e event, s server) bool {
	a := &actions[e.action]
	return a.kind == remedy && a.over == onBoth && e.server == s ||
		a.kind != delivery && a.over == steps && m.tree[e.step].host == s
}

// oneHost: two honest servers have the group only if the room has to choose. In that case one of them keeps evidence.
func oneHost(m *model, w *world) bool {
	for s := range server(servers) {
		for t := range s {
			p, q := w.here(s), w.here(t)
			if !m.honest(w, s) || !m.honest(w, t) || !m.at(w, p) || !m.at(w, q) {
				continue
			}
			if !m.undecided(w, p.at, q.at) && !m.undecided(w, q.at, p.at) || !w.data[s].kept && !w.data[t].kept {
				return false
			}
		}
	}
	return true
}

// at says whether the group is at the server of a row: the server hosts the group, or has closed it. If the server had
// only claimed the group, the closing counts only with the room's support.
func (m *model) at(w *world, g *row) bool {
	return g != nil && (g.hosts() || g.load().Closed() && !m.unsupported(w, g.at))
}

// undecided says whether only the room can decide between the hosts of two lineages i and j. In the first case j goes
// on from i with a claim, and the room's pointer names neither that claim nor a later one in j. In the second case the
// lineages part with two steps that have no order.
func (m *model) undecided(w *world, i, j step) bool {
	if x, y, parts := m.parting(i, j); parts {
		return !m.prevails(w, i, x, j, y) && !m.prevails(w, j, y, i, x)
	}
	next := m.upTo(j, m.term(i)+1)
	provisional := next == j && m.tree[j].kind == recovers // a recover stops if the former host contests it
	return m.begins(i, j) && m.claim(next) && !m.named(w, next, j) && !provisional
}

// prevails says whether every server prefers lineage i, with all its steps, to lineage j. They part with the steps x
// and y.
func (m *model) prevails(w *world, i, x, j, y step) bool {
	if !m.outranks(w, i, x, j, y) {
		return false
	}
	for ; i != x && i != w.named; i = m.tree[i].before {
		if m.claim(i) {
			return false
		}
	}
	return true
}

func keepsItsWord(m *model, w *world) bool {
	for s := range server(servers) {
		g := w.here(s)
		if !m.honest(w, s) || g == nil || g.state != active {
			continue
		}
		signed := w.signed[g.at] & (receipt | otherReceipt)
		if m.tree[g.at].host != s || signed != [...]signs{empty: 0, theFirst: receipt, another: 0}[g.log] {
			return false
		}
	}
	return true
}

// redirectsEnd: a client that follows redirects comes to a server that does not redirect. There are two exceptions. The
// room may name a claim that is over: a step goes on from it, or its server has a row of a later term. Or a source has
// confirmed two moves of one term, and only the room can choose.
func redirectsEnd(m *model, w *world) bool {
	for s := range server(servers) {
		if _, ends := m.follow(w, s); !ends && !m.over(w, w.named) && !m.confirmedTwice(w) {
			return false
		}
	}
	return true
}

func (m *model) confirmedTwice(w *world) bool {
	var from [maxSteps]bool
	for i := step(1); i <= step(m.moves); i++ {
		if w.signed[i]&taken == 0 {
			continue
		}
		if from[m.tree[i].before] {
			return true
		}
		from[m.tree[i].before] = true
	}
	return false
}

func (m *model) over(w *world, i step) bool {
	s := m.tree[i].host
	g := w.here(s)
	return i != root && (!m.leaf(w, i) || g != nil && m.termOf(w, s, g) > m.term(i))
}

// follow returns the server to which the redirects from s lead, and whether they end.
func (m *model) follow(w *world, s server) (end server, ends bool) {
	for range maxSteps {
		g := w.here(s)
		if !m.honest(w, s) || g == nil || g.state != moved {
			return s, true
		}
		s = m.tree[g.known()].host
	}
	return s, false
}

// settled says whether one honest server has the group, no other one has it or waits for it, and all redirects end. A
// redirect may end at a server that is lost, lies or has forgotten: the room helps its clients.
func (m *model) settled(w *world) bool {
	hosts := 0
	for s := range server(servers) {
		g := w.here(s)
		switch {
		case w.outage[s] == out || w.outage[s] == outForDay:
			return false
		case !m.honest(w, s) || g == nil:
		case g.state != frozen && m.at(w, g):
			hosts++
		case g.state == frozen, g.state == staged:
			return false
		default:
			if _, ends := m.follow(w, s); !ends {
				return false
			}
		}
	}
	return hosts == 1
}

// forsaken says whether a source has confirmed two moves of one term and a target that voted waits no more. The search
// does not require that a server gets such a group again.
func (m *model) forsaken(w *world) bool {
	for i := step(1); i <= step(m.moves); i++ {
		if r := m.target(w, i).record; r.voted && r.is(migration.Dropped) {
			return m.confirmedTwice(w)
		}
	}
	return false
}
