package hosts

import (
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// model is a scenario, sound or with one bug.
type model struct {
	Scenario
	bug         Bug
	next, again world // room for one each
}

// place is where a step of the machine happens: a server's record of a migration, and its row of the group.
type place struct {
	server server
	move   step // root for the zero record
	record *record
	row    *row
}

func (m *model) source(w *world, i step) place {
	s := m.tree[m.tree[i].before].host
	return place{s, i, &w.data[s].records[i-1].source, m.row(w, s, m.tree[i].before)}
}

func (m *model) target(w *world, i step) place {
	s := m.tree[i].host
	return place{s, i, &w.data[s].records[i-1].target, m.row(w, s, i)}
}

func bare(s server, r *row) place { return place{s, root, new(record), r} }

// step lets the machine take one step, and stores all that follows as package delivery does. shown is the lineage
// that a step follows or begins with.
func (m *model) step(w *world, at place, e migration.Event, shown step) error {
	ready, err := at.record.load(at.move).Step(at.row.load(), e)
	if m.bug == StaysFrozen && at.record.is(migration.Frozen) && ready.Follow != nil {
		ready.Migration, ready.Sign = at.record.load(at.move), migration.SignNothing
	}
	silent := m.bug == KeepsNothing && err != nil || m.bug == StopsSilently && err == nil
	if len(ready.Evidence) > 0 && !silent {
		w.data[at.server].kept = true
	}
	if err != nil {
		return err
	}
	switch ready.Sign {
	case migration.SignComplete:
		ready.Migration.Complete.Message = someBytes
		w.signed[at.move] |= voted
	case migration.SignConfirmation:
		w.signed[at.move] |= taken
	case migration.SignAbort:
		ready.Migration.Abort.Message = someBytes
		w.signed[at.move] |= aborted
	}
	at.record.save(&ready.Migration)
	at.row.save(ready.Group)
	switch {
	case ready.Begin:
		at.row.at, at.row.log = shown, empty
	case ready.Extend:
		at.row.at = at.move
	case ready.Follow != nil:
		at.row.at = shown
	}
	if slices.ContainsFunc(ready.Put, isLineage) && m.bug != HidesReclaim {
		w.signed[shown] |= untold
	}
	return nil
}

func isLineage(r migration.Row) bool { return r.Kind == migration.RowLineage }

// known is the lineage of a row and, where the group has moved on by a migration, to where.
func (r *row) known() step {
	if r.state == moved && r.by != root {
		return r.by
	}
	return r.at
}

// supported says whether a claim counts at the host that it is made against: the room names it or a later one, or it
// is a recover by a listed successor that the host, by its own times, was out of service for.
func (m *model) supported(w *world, s server, g *row, next, i step) bool {
	if m.named(w, next, i) || m.bug == FollowsAnyClaim {
		return true
	}
	if m.tree[next].kind != mimiport.StepRecover || !slices.Contains(m.Successors, m.tree[next].host) || !g.hosts() {
		return false
	}
	missed := w.signed[next]&inOutage != 0 && w.outage[s] == backAfterDay || m.bug == FollowsSuccessor
	return missed && !w.forgot(s) && (g.log == empty || w.signed[next]&whole != 0)
}

// counts is the step of a lineage that counts, from a step on: the claim that the room's pointer names, or else that
// step.
func (m *model) counts(w *world, from, i step) step {
	if m.bug != HeedsOneStep && w.named != root && m.begins(from, w.named) && m.begins(w.named, i) {
		return w.named
	}
	return from
}

// outranks is the order of two lineages that part with two steps.
func (m *model) outranks(w *world, i, theirs, mine, own step) bool {
	a, b := m.named(w, theirs, i), m.named(w, own, mine)
	if a != b {
		return a
	}
	if !m.claim(theirs) && w.signed[theirs]&voted == 0 && m.bug != CountsOldOffers {
		return false // its target has promised nothing
	}
	word := proof.Word{}
	for _, s := range m.Successors {
		word.Successors = append(word.Successors, s.String())
	}
	return word.Outranks(m.lineageStep(theirs), m.lineageStep(own))
}

// named says whether the room's pointer names a claim in a lineage, from a step on.
func (m *model) named(w *world, from, i step) bool {
	return w.named != root && w.named == m.counts(w, from, i)
}

// lineageStep is a step as package proof knows it.
func (m *model) lineageStep(i step) *mimiport.LineageStep {
	s := &mimiport.LineageStep{Kind: m.tree[i].kind}
	if m.claim(i) {
		claim := mimiport.LineageClaim{
			Kind: s.Kind, DomainName: m.tree[i].host.String(), GroupID: someBytes, Term: uint64(m.term(i)),
		}
		message, err := claim.Marshal()
		if err != nil {
			panic(err) // it is well formed
		}
		s.Claim = &mimiport.SignedMessage{Message: message}
	}
	return s
}

// show is ShowLineage. It reports whether the server contests what it is shown.
func (m *model) show(w *world, s server, i step) (contested bool) {
	for range 3 {
		if contested = m.showNext(w, s, i); contested || m.bug == TakesOneStep {
			break
		}
	}
	return contested
}

// showNext is takeNext: what is next in a lineage, where it parts from the server's own or goes on from there.
func (m *model) showNext(w *world, s server, i step) (contested bool) {
	g := w.here(s)
	if g == nil { // what was staged here has ended
		return false
	}
	if theirs, own, parts := m.parting(i, g.at); parts {
		preferred := m.bug != HasNoTies && m.outranks(w, i, theirs, g.at, own)
		return m.showRival(w, s, g, m.counts(w, theirs, i), preferred)
	}
	return m.showStep(w, s, i)
}

// showStep is takeStep: the step of a lineage that follows what the server knows.
func (m *model) showStep(w *world, s server, i step) (contested bool) {
	g := w.here(s)
	own := g.at
	if m.bug == YieldsToLower && m.term(i) < m.term(own) && g.hosts() {
		m.yield(w, s, g, i)
		return false
	}
	if m.term(i) <= m.term(own) || !m.begins(own, i) {
		return false
	}
	next := m.upTo(i, m.term(own)+1)
	if term := m.cameBack(w, s, g, i, next); term > 0 {
		at := m.upTo(i, term)
		m.step(w, bare(s, m.row(w, s, at)), migration.Return{Lineage: someBytes}, at)
		return false
	}
	if !g.owned() && g.state != staged {
		return m.showRival(w, s, g, m.counts(w, next, i), m.named(w, next, i))
	}
	n := migration.Next{Kind: m.tree[next].kind}
	if m.claim(next) {
		n.Supported = m.supported(w, s, g, next, i)
	} else {
		n.Migration = next.id()
	}
	switch g.load().Judge(n) {
	case migration.TakeConfirm:
		m.confirm(w, next)
	case migration.TakeOther:
		m.step(w, m.target(w, g.by), migration.Superseded{}, root)
	case migration.TakeOwn:
		m.recall(w, g, next)
	case migration.TakeClaim:
		m.yield(w, s, g, m.counts(w, next, i))
	case migration.KeepOn:
		return m.contest(w, s, g)
	}
	return false
}

// cameBack is the latest term in which a lineage leads back to a server that remembers nothing of it, 0 for none.
func (m *model) cameBack(w *world, s server, g *row, i, next step) int {
	own := g.owned() && m.claim(next) && m.tree[m.counts(w, next, i)].host == s
	if g.state != moved && !own || m.bug == ForgetsReturn {
		return 0
	}
	for ; m.term(i) >= m.term(next); i = m.tree[i].before {
		if m.tree[i].host == s && !m.remembers(w, s, i) && m.term(i) > m.termOf(w, s, g) {
			return m.term(i)
		}
	}
	return 0
}

// remembers says whether a server knows of all that it has signed for the term that a step begins here: of a claim it
// has the row, of a migration that it has voted in the record with the vote.
func (m *model) remembers(w *world, s server, i step) bool {
	if m.claim(i) {
		state := m.row(w, s, i).state
		return state != none && state != dropped
	}
	r := &w.data[s].records[i-1].target
	signed := w.signed[i]&voted != 0 || m.bug == CountsOldOffers
	return !signed || r.voted || r.state != 0 && m.bug == ForgetsVotes
}

// termOf is the term of a row.
func (m *model) termOf(w *world, s server, g *row) int {
	for t := range w.data[s].rows {
		if g == &w.data[s].rows[t] {
			return t
		}
	}
	return 0
}

// showRival is takeRival: a lineage that parts from the server's own, or goes on from where the server has yielded
// to, up to the step that counts.
func (m *model) showRival(w *world, s server, g *row, end step, preferred bool) (contested bool) {
	r := migration.Rival{Outranks: preferred}
	if m.bug != YieldsToItself && m.tree[end].host == s {
		signed := m.claim(end) || w.signed[end]&voted != 0 || m.bug == CountsOldOffers
		r.Here, r.Signed, r.Forgot = true, signed, !m.remembers(w, s, end)
	}
	switch g.load().JudgeRival(r) {
	case migration.TakeBack:
		if m.termOf(w, s, g) > m.term(end) {
			return false
		}
		m.step(w, bare(s, m.row(w, s, end)), migration.Return{Lineage: someBytes}, end)
	case migration.Stop:
		if g.state == frozen {
			m.step(w, m.source(w, g.by), migration.GiveUpElsewhere, root)
		}
		m.step(w, bare(s, g), migration.Halt{Lineage: someBytes}, root)
	case migration.TakeClaim:
		m.yield(w, s, g, end)
	case migration.KeepOn:
		return m.contest(w, s, g)
	}
	return false
}

func (m *model) contest(w *world, s server, g *row) bool {
	return m.step(w, bare(s, g), migration.Contest{Lineage: someBytes}, root) == migration.ErrContested
}

func (m *model) yield(w *world, s server, g *row, to step) {
	at := bare(s, g)
	if g.state == frozen {
		at = m.source(w, g.by)
	}
	m.step(w, at, migration.Yield{Lineage: someBytes}, to)
}

func (m *model) recall(w *world, g *row, i step) {
	if m.bug == DatabaseFirst {
		return
	}
	if g.state == frozen && g.by != i {
		m.step(w, m.source(w, g.by), migration.GiveUpElsewhere, root)
	}
	m.step(w, m.source(w, i), migration.Recall{Lineage: someBytes}, root)
}

// confirm is the MigrationConfirmation, from whomever T has it.
func (m *model) confirm(w *world, i step) {
	at := m.target(w, i)
	if at.record.is(migration.Offered) {
		return // refused: no content has come
	}
	if m.bug == RevivesDropped && at.record.is(migration.Dropped) {
		at.row.state, at.row.by = dropped, i
	}
	m.step(w, at, migration.Confirm{}, root)
}

// takeContent is PutContent.
func (m *model) takeContent(w *world, i step) {
	at := m.target(w, i)
	s, base := at.server, m.tree[i].before
	if g := w.here(s); g != nil {
		if g.owned() {
			m.showStep(w, s, base)
		}
		if g = w.here(s); !m.begins(g.known(), base) || m.wasLater(w, s, g, i) {
			return
		}
	}
	m.step(w, at, migration.Content{ContentHash: someBytes, DecideBy: deadline, At: before}, base)
}

// wasLater says whether a server has had the group in the term of a step or a later one, in a lineage that it has
// yielded.
func (m *model) wasLater(w *world, s server, g *row, i step) bool {
	return g.state == moved && m.termOf(w, s, g) >= m.term(i)
}

// showReceipt is takeReceipt: the receipt is for a Commit of the term that the server is in.
func (m *model) showReceipt(w *world, s server, i step, l log) {
	g := w.here(s)
	if g == nil || !g.hosts() || m.termOf(w, s, g) != m.term(i) || g.log == l || m.bug == IgnoresReceipts {
		return
	}
	if g.state == frozen {
		m.step(w, m.source(w, g.by), migration.GiveUp{}, root)
	}
	g.state, g.by, w.data[s].kept = stopped, root, true
}

// claimAt is what an operator's claim does at its server: it begins the term.
func (m *model) claimAt(w *world, i step) bool {
	s := m.tree[i].host
	if m.step(w, bare(s, m.row(w, s, i)), migration.Claim{}, i) != nil {
		return false
	}
	m.sign(w, i)
	return true
}

// sign makes a claim known. It says how much of the term before it goes on from.
func (m *model) sign(w *world, i step) {
	base := m.tree[i].before
	w.signed[i] |= taken
	if w.signed[base]&(receipt|otherReceipt) != 0 {
		w.signed[i] |= whole
	}
	if !w.outage[m.tree[base].host].up() {
		w.signed[i] |= inOutage
	}
}
