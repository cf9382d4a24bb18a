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
	next, again world // scratch space, so that the search allocates little
}

// place is the place of a step of the machine: a server's record of a migration, and its row of the group.
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

// step lets the machine take one step, and stores the Ready as package delivery does. shown is the lineage that the
// step follows or begins with.
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

// known is the lineage of a row. If the group has moved away by a migration, known includes that migration.
func (r *row) known() step {
	if r.state == moved && r.by != root {
		return r.by
	}
	return r.at
}

// supported says whether a claim counts at the host that it ends. It counts if the room names it or a later one. It
// also counts if it is a recover by a listed successor, signed while the host was out of service by the host's own
// times.
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

// counts returns the step that counts in a lineage, from a step on. That is the claim that the room's pointer names, or
// else the step itself.
func (m *model) counts(w *world, from, i step) step {
	if m.bug != HeedsOneStep && w.named != root && m.begins(from, w.named) && m.begins(w.named, i) {
		return w.named
	}
	return from
}

// outranks orders two lineages that part: it says whether i, which parts with theirs, outranks mine, which parts with
// own.
func (m *model) outranks(w *world, i, theirs, mine, own step) bool {
	a, b := m.named(w, theirs, i), m.named(w, own, mine)
	if a != b {
		return a
	}
	if !m.claim(theirs) && w.signed[theirs]&voted == 0 && m.bug != CountsOldOffers {
		return false // the target of their step has not voted
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

// lineageStep returns a step in the form of package proof.
func (m *model) lineageStep(i step) *mimiport.LineageStep {
	s := &mimiport.LineageStep{Kind: m.tree[i].kind}
	if m.claim(i) {
		claim := mimiport.LineageClaim{
			Kind: s.Kind, DomainName: m.tree[i].host.String(), GroupID: someBytes, Term: uint64(m.term(i)),
		}
		message, err := claim.Marshal()
		if err != nil {
			panic(err) // the claim is well formed
		}
		s.Claim = &mimiport.SignedMessage{Message: message}
	}
	return s
}

// show is ShowLineage. It reports whether the server contests the lineage.
func (m *model) show(w *world, s server, i step) (contested bool) {
	for range 3 {
		if contested = m.showNext(w, s, i); contested || m.bug == TakesOneStep {
			break
		}
	}
	return contested
}

// showNext is takeNext. It takes the next step of a lineage: the step with which the lineage parts from the server's
// own, or the step that follows the server's own.
func (m *model) showNext(w *world, s server, i step) (contested bool) {
	g := w.here(s)
	if g == nil { // the group that was staged here has ended
		return false
	}
	if theirs, own, parts := m.parting(i, g.at); parts {
		preferred := m.bug != HasNoTies && m.outranks(w, i, theirs, g.at, own)
		return m.showRival(w, s, g, m.counts(w, theirs, i), preferred)
	}
	return m.showStep(w, s, i)
}

// showStep is takeStep: it takes the step of a lineage that follows the server's own lineage.
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

// cameBack is the latest term in which a lineage leads back to the server and the server does not remember that. It is
// 0 for none.
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

// remembers says whether a server remembers all that it has signed for the term of a step that gives it the group. For
// a claim it has the row. For a migration that it has voted on it has the record with the vote.
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

// showRival is takeRival. It takes a lineage up to the step that counts. The lineage parts from the server's own, or
// goes on from the lineage that the server has yielded to.
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

// confirm lets T take the MigrationConfirmation, from any sender.
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

// wasLater says whether a server had the group in the term of a step, or in a later one, and the group has moved away
// since.
func (m *model) wasLater(w *world, s server, g *row, i step) bool {
	return g.state == moved && m.termOf(w, s, g) >= m.term(i)
}

// showReceipt is takeReceipt. The receipt counts only if it is for a Commit of the server's present term.
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

// claimAt carries out an operator's claim at its server: the claim begins the term.
func (m *model) claimAt(w *world, i step) bool {
	s := m.tree[i].host
	if m.step(w, bare(s, m.row(w, s, i)), migration.Claim{}, i) != nil {
		return false
	}
	m.sign(w, i)
	return true
}

// sign makes a claim known, and notes how much of the former term the claim goes on from.
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
